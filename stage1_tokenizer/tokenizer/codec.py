"""Encoder, quantizer and decoder: pictures as tensors to codes and back, without files.

A released tokenizer's model files are this class and what it needs; `stage1_tokenizer.Tokenizer` adds PIL pictures,
saving and loading.

Legend: B batch, C channels, H W pixels, h w latent grid, D code dimension; with other spatial_dims, HW and hw stand for
all spatial axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stage1_tokenizer.config.model import ModelConfig, one_or_all
from stage1_tokenizer.layers.precision import as_weights_of, ieee
from stage1_tokenizer.networks.base import in_blocks
from stage1_tokenizer.networks.build import DECODERS, ENCODERS, build_bridge
from stage1_tokenizer.quantizers import Quantized, build_quantizer

if TYPE_CHECKING:
    from PIL.Image import Image

Pictures: TypeAlias = "Tensor | Image | Sequence[Tensor | Image]"
"""A batch, a PIL picture, or a list of PIL pictures or of tensors without batch axis."""

_TOLERANCE = 1e-3  # resizing or decoding in floats overshoots [-1, 1] a little


@dataclass
class Reconstruction:
    """What the generator's forward(x_BCHW) returns for training."""

    x_BCHW: Tensor
    """The reconstruction: decoder.last_layer(features)."""
    features_BCHW: Tensor
    """Input of the decoder's last layer: decoder.features(z)."""
    codes_Bhw: Tensor | None
    losses: dict[str, Tensor]
    """The quantizer's losses, weighted."""


class Codec(nn.Module):
    """The networks of stage one (Esser et al. 2021, section 3.1): `encode` and `decode` to use, `forward` to train.

    They take pictures of any float type and compute in the type of the weights, the quantizer in at least float32.
    Pictures that they return have the weights' type. `encode`, `decode` and `reconstruct` multiply float32 as IEEE says
    (stage1_tokenizer.layers.precision).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.frozen: tuple[str, ...] = ()
        self.encoder = ENCODERS[config.backbone](config)
        self.quantizer = build_quantizer(config.quantizer)
        self.quant_conv = build_bridge(config, config.encoder_channels, self.quantizer.input_channels)
        self.post_quant_conv = build_bridge(config, self.quantizer.latent_channels, config.z_channels)
        self.decoder = DECODERS[config.backbone](config)

    @property
    def codebook_size(self) -> int:
        """Number of codes K in each codebook; 0 for a Gaussian latent, which has none."""
        return self.quantizer.codebook_size

    @property
    def codebooks(self) -> int:
        """Number of codebooks G, each of which gives a code to every position; 1 for most quantizers."""
        return self.quantizer.codebooks

    def codes_shape(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """Shape of the codes of one picture of `size` pixels: (h, w) for most quantizers.

        (G, h, w) with several codebooks, (N,) with multiscale or latent tokens. Raises ValueError for a size that
        doesn't fit.
        """
        return self.quantizer.codes_shape(self.grid(size))

    @property
    def stride(self) -> int | tuple[int, ...]:
        """Pixels per code along each axis, one number if all axes have the same; with latent tokens, of a patch."""
        return one_or_all(self.config.stride)

    def grid(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """Codes along each axis, (h, w), of a picture of `size` pixels (one number means a square); or (N,) tokens.

        Of a clip of `size` (T, H, W): (t, h, w), where a causal tokenizer has T = 1 + k·stride and t = 1 + k. Raises
        ValueError if a side isn't a multiple of the stride or, with latent tokens, isn't the trained size.
        """
        config = self.config
        sides = [size] * config.spatial_dims if isinstance(size, int) else list(size)
        for axis, (side, step) in enumerate(zip(sides, config.stride, strict=True)):
            if side != (good := config.fitted(axis, side)):
                raise ValueError(
                    f"size={side} is not {'1 + ' * (good % step)}a multiple of the tokenizer's stride {step}: "
                    f"pad, crop{' or resize' if len(sides) > 1 else ''} to {good}"
                )
        tokens, trained = config.latent_tokens, config.vit.size
        if tokens and sides != [trained] * 2:
            raise ValueError(
                f"size={sides} is not supported with latent tokens, which need model.vit.size={trained}: resize"
            )
        return (tokens,) if tokens else tuple(-(-side // step) for side, step in zip(sides, config.stride, strict=True))

    @ieee()
    @torch.no_grad()
    def encode(self, pictures: Pictures) -> Tensor:
        """Codes idx_Bhw, int64 in [0, K), of a float batch in [-1, 1] or of a list of tensors without batch axis.

        The shape is (B, G, h, w) or (B, N) for other forms of codes (`codes_shape`). `Tokenizer` also takes PIL
        pictures. Raises ValueError for another type, shape or range, and for a Gaussian latent, which has no codes.
        """
        self._need_codes()
        idx_Bhw = self._quantize(self._batch(pictures)).codes
        assert idx_Bhw is not None
        return idx_Bhw

    @ieee()
    @torch.no_grad()
    def decode(self, codes: Tensor | Sequence[Tensor]) -> Tensor:
        """Pictures x_BCHW, float in [-1, 1], of codes of any integer type: a batch, or a list of single ones.

        Of `residual` codes, those of the first codebooks are enough: codes[:, :g]. ValueError for anything else.
        """
        return self._decode(codes)

    @ieee()
    @torch.no_grad()
    def reconstruct(self, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
        """The reconstructions of pictures, in [-1, 1], and their codes (None for a Gaussian latent).

        The same as `decode(encode(x))`. Raises ValueError as `encode` does.
        """
        quantized = self._quantize(self._batch(pictures))
        return self._decoded(self._pictures, quantized.latents), quantized.codes

    def train(self, mode: bool = True) -> Self:
        """As for any module, except that the parts in `frozen` stay in evaluation mode and keep their statistics."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def forward(self, x_BCHW: Tensor, micro_batch: int | None = None) -> Reconstruction:
        """The unclamped reconstruction of pictures in [-1, 1], with the quantizer's losses, for training. No checks.

        With `micro_batch`, encoder and decoder take at most that many pictures at a time and recompute them in the
        backward pass. The quantizer takes all of them, so its statistics and losses are those of the whole batch.
        """
        z_BDhw = in_parts(self._latents, x_BCHW, micro_batch)
        quantized: Quantized = self.quantizer(z_BDhw)
        features_BCHW = in_parts(
            lambda part: self.decoder.features(self.post_quant_conv(part)), quantized.latents, micro_batch
        )
        return Reconstruction(
            self.decoder.last_layer(features_BCHW), features_BCHW, quantized.codes, losses=quantized.losses
        )

    def _quantize(self, x_BCHW: Tensor, past: Any = None) -> Quantized:
        """Latents and codes; a causal network takes pictures in blocks, and goes on from where `past` ended."""
        if self.training:
            raise RuntimeError("the tokenizer is in training mode, where its codebook may change: call .eval() first")
        if not self.config.block:
            return self.quantizer(self._latents(x_BCHW))
        (axis, first, hop), begins = self._time, not past
        size = self.config.block * hop
        parts = in_blocks(
            self.encoder, lambda x: self.quantizer(self._latents(x)), x_BCHW, size, past, axis=axis, first=first
        )
        count = first * begins + (x_BCHW.shape[axis] - first * begins) // hop
        latents, codes = ([getattr(part, name) for part in parts] for name in ("latents", "codes"))
        idx_Bhw = None if codes[0] is None else torch.cat(codes, axis).narrow(axis, 0, count)
        return Quantized(torch.cat(latents, axis).narrow(axis, 0, count), idx_Bhw)

    def _decoded(self, step: Callable[[Tensor], Tensor], whole: Tensor, past: Any = None) -> Tensor:
        """step(whole), pictures of latents or codes, in blocks as `_quantize`."""
        if not self.config.block:
            return step(whole)
        (axis, first, hop), begins = self._time, not past
        parts = in_blocks(self.decoder, step, whole, self.config.block, past, axis=axis, first=first)
        count = first * begins + (whole.shape[axis] - first * begins) * hop
        return torch.cat(parts, axis).narrow(axis, 0, count)

    @property
    def _time(self) -> tuple[int, int, int]:
        """Of causal networks: the axis of time, how many frames begin alone, and the frames of each code after."""
        return -self.config.spatial_dims, int(self.config.first_alone), self.config.stride[0]

    def _latents(self, x_BCHW: Tensor) -> Tensor:
        """The quantizer's input."""
        x_BCHW = (x_BCHW + 1) / 2 if self.config.pixel_range == "unit" else x_BCHW
        return self.quant_conv(self.encoder(as_weights_of(self.encoder, x_BCHW)))

    def _pictures(self, latents_BDhw: Tensor) -> Tensor:
        """Pictures in [-1, 1] of the quantizer's output."""
        return self.decoder(self.post_quant_conv(as_weights_of(self.decoder, latents_BDhw))).clamp(-1.0, 1.0)

    def _batch(self, pictures: Pictures) -> Tensor:
        """Pictures as one checked batch on the networks' device; a tensor stays where it is."""
        x_BCHW = self._as_tensor(pictures)
        self._check_pictures(x_BCHW)
        return x_BCHW if isinstance(pictures, Tensor) else x_BCHW.to(next(self.parameters()).device)

    def _as_tensor(self, pictures: Pictures) -> Tensor:
        return stacked(pictures, "pictures")

    def _decode(self, codes: Tensor | Sequence[Tensor], past: Any = None) -> Tensor:
        self._need_codes()
        idx_Bhw = stacked(codes, "codes")
        if idx_Bhw.is_floating_point() or idx_Bhw.is_complex() or idx_Bhw.dtype is torch.bool:
            raise ValueError(f"codes of type {idx_Bhw.dtype} are not whole numbers: give int64 from `encode`")
        self.quantizer.check_codes(idx_Bhw.shape, self.config.latent_dims)
        idx_Bhw = idx_Bhw.long()
        if idx_Bhw.numel() and not bool(((idx_Bhw >= 0) & (idx_Bhw < self.codebook_size)).all()):
            raise ValueError(
                f"codes from {int(idx_Bhw.min())} to {int(idx_Bhw.max())} are not all in [0, {self.codebook_size}): "
                f"were they made by another tokenizer?"
            )
        return self._decoded(lambda part: self._pictures(self.quantizer.embed(part)), idx_Bhw, past)

    def _need_codes(self) -> None:
        if not self.codebook_size:
            raise ValueError(f"quantizer kind {self.config.quantizer.kind} has no codes: use `reconstruct`")

    def _check_pictures(self, x_BCHW: Tensor, *, begins: bool = True) -> None:
        dims, channels = self.config.spatial_dims, self.config.in_channels
        what = {1: "sounds", 2: "pictures", 3: "videos"}[dims]
        if not x_BCHW.is_floating_point():
            raise ValueError(f"{what} of type {x_BCHW.dtype} are not floats: scale them to [-1, 1]")
        if x_BCHW.ndim != dims + 2 or x_BCHW.shape[1] != channels:
            raise ValueError(
                f"{what} of shape {tuple(x_BCHW.shape)} don't fit: give {dims + 2} axes, batch, {channels} "
                f"channel{'s' if channels > 1 else ''}, then size"
            )
        size, *others = x_BCHW.shape[2:]
        self.codes_shape((size + (self.config.first_alone and not begins), *others))
        if x_BCHW.numel() and not bool((x_BCHW.abs() <= 1.0 + _TOLERANCE).all()):  # also catches NaN
            raise ValueError(
                f"{what} from {float(x_BCHW.min()):.4g} to {float(x_BCHW.max()):.4g} are not in [-1, 1]: scale them"
            )

    def weights(self) -> dict[str, Tensor]:
        """The tensors that encoding and decoding need, by name: the state without training statistics."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items() if ".statistics." not in name}


def in_parts(network: Callable[[Tensor], Tensor], x_BCHW: Tensor, most: int | None) -> Tensor:
    """network(x), computed for at most `most` samples at a time and recomputed in the backward pass to save memory."""
    if most is None or len(x_BCHW) <= most:
        return network(x_BCHW)
    return torch.cat([checkpoint(network, part, use_reentrant=False) for part in x_BCHW.split(most)])


def stacked(tensors: Any, what: str) -> Tensor:
    """A list of tensors of one shape as one batch; a tensor is returned as it is. ValueError for anything else."""
    if isinstance(tensors, Tensor):
        return tensors
    if not isinstance(tensors, (list, tuple)) or not tensors or not all(isinstance(each, Tensor) for each in tensors):
        raise ValueError(f"{what} are of type {type(tensors).__name__}: give a tensor or a list of tensors")
    shapes = sorted({tuple(each.shape) for each in tensors})
    if len(shapes) > 1:
        raise ValueError(f"{what} of shapes {', '.join(map(str, shapes))} don't fit into one batch: use one each")
    return torch.stack(list(tensors))
