# Made from stage1_tokenizer.tokenizer of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
from .stage1_tokenizer_backbones import build_encoder
from .stage1_tokenizer_quantizers import build_quantizer
from .stage1_tokenizer_backbones import build_bridge
from .stage1_tokenizer_backbones import build_decoder
import torch
from .stage1_tokenizer_prepare import stacked
from torch.utils.checkpoint import checkpoint
from torch import Tensor
from collections.abc import Callable
from .stage1_tokenizer_step import Reconstruction
from .stage1_tokenizer_prepare import to_pil
from .stage1_tokenizer_prepare import as_batch
import hashlib
import json
import dataclasses
from typing import Any
from pathlib import Path
from .data_cli import UserError
from typing import get_type_hints
from .stage1_tokenizer_model_config import ModelConfig
from .data_transforms import TransformConfig
from collections.abc import Sequence
import os


CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


MODEL_TYPE = "vqloom_tokenizer"


FORMAT = 1


_TOLERANCE = 1e-3  # pictures that were resized or decoded in floats overshoot [-1, 1] a little


class Tokenizer(nn.Module):
    """Encoder, quantizer and decoder of stage one (Esser et al. 2021, section 3.1).

    `encode` and `decode` are for use, `forward` is for training. `transform` says how the pictures it was trained on
    were prepared: it is applied to PIL pictures; tensors are taken as they are.
    """

    def __init__(self, config: ModelConfig, transform: TransformConfig | None = None):
        super().__init__()
        self.config = config
        self.transform = transform
        self.frozen: tuple[str, ...] = ()
        self.encoder = build_encoder(config)
        self.quantizer = build_quantizer(config.quantizer)
        self.quant_conv = build_bridge(config, config.encoder_channels, self.quantizer.input_channels)
        self.post_quant_conv = build_bridge(config, self.quantizer.latent_channels, config.z_channels)
        self.decoder = build_decoder(config)

    @property
    def codebook_size(self) -> int:
        """Number of codes K, of each codebook; 0 for a Gaussian latent, which has none."""
        return self.quantizer.codebook_size

    @property
    def codebooks(self) -> int:
        """Number of codebooks G that give a code to each position; 1 for most quantizers."""
        return self.quantizer.codebooks

    def codes_shape(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """Shape of the codes of one picture of `size` pixels: its grid (h, w), for most quantizers.

        (G, h, w) with several codebooks, (N,) with multiscale or latent tokens. Raises ValueError for a size that
        doesn't fit.
        """
        return self.quantizer.codes_shape(self.grid(size))

    @property
    def stride(self) -> int:
        """Pixels per code along each axis (of latent tokens, which have no place, pixels per patch)."""
        return self.config.stride

    def grid(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """Codes along each axis, (h, w), of a picture of `size` pixels (one number for a square); or (N,) tokens.

        Raises ValueError where a side isn't a multiple of the stride, or with latent tokens, not the trained one.
        """
        sides = [size] * self.config.spatial_dims if isinstance(size, int) else list(size)
        for side in sides:
            if side < 1 or side % self.stride:
                raise ValueError(
                    f"size={side} is not a multiple of the tokenizer's stride {self.stride}: "
                    f"pad, crop or resize to {max(side // self.stride, 1) * self.stride}"
                )
        tokens, trained = self.config.latent_tokens, self.config.vit.size
        if tokens and sides != [trained] * 2:
            raise ValueError(
                f"size={sides} is not what latent tokens are for, pictures of model.vit.size={trained}: resize"
            )
        return (tokens,) if tokens else tuple(side // self.stride for side in sides)

    @torch.no_grad()
    def encode(self, pictures: Pictures) -> Tensor:
        """Codes idx_Bhw, int64 in [0, K), of a batch in [-1, 1] (`data.transforms.to_float` makes it of uint8).

        Or of a PIL picture, prepared as in training, or of a list of PIL pictures or of tensors without batch axis.
        With other forms of codes (`codes_shape`), (B, G, h, w) or (B, N).
        Raises ValueError for another type, shape or range, and where there are no codes (a Gaussian latent).
        """
        self._need_codes()
        idx_Bhw = self._quantize(self._batch(pictures)).codes
        assert idx_Bhw is not None
        return idx_Bhw

    @torch.no_grad()
    def decode(self, codes: Tensor | Sequence[Tensor]) -> Tensor:
        """Pictures x_BCHW, float in [-1, 1], of codes (any integer type), a batch or a list of single ones.

        `to_pil` makes PIL pictures of them. Raises ValueError for anything else.
        """
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
        return self._pictures(self.quantizer.embed(idx_Bhw))

    @torch.no_grad()
    def reconstruct(self, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
        """Pictures through encoder and decoder, in [-1, 1], with their codes (None for a Gaussian latent).

        The same as `decode(encode(x))`, without the detour. Raises ValueError as `encode` does.
        """
        quantized = self._quantize(self._batch(pictures))
        return self._pictures(quantized.latents), quantized.codes

    def train(self, mode: bool = True) -> Tokenizer:
        """As of any module, but that the parts in `frozen` stay in evaluation mode, in which no statistics move."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def forward(self, x_BCHW: Tensor, micro_batch: int | None = None) -> Reconstruction:
        """What a training step needs of pictures in [-1, 1]: not clamped, with the quantizer's losses. No checks.

        With `micro_batch`, encoder and decoder see at most so many pictures at a time, now and again in the backward,
        and keep nothing in between; the quantizer sees all of them, so that its statistics and losses are the batch's.
        """
        z_BDhw = in_parts(self._latents, x_BCHW, micro_batch)
        quantized: Quantized = self.quantizer(z_BDhw)
        features_BCHW = in_parts(
            lambda part: self.decoder.features(self.post_quant_conv(part)), quantized.latents, micro_batch
        )
        return Reconstruction(
            self.decoder.last_layer(features_BCHW), features_BCHW, quantized.codes, losses=quantized.losses
        )

    def _quantize(self, x_BCHW: Tensor) -> Quantized:
        if self.training:
            raise RuntimeError("the tokenizer is in training mode, in which its codebook may move: call .eval() first")
        return self.quantizer(self._latents(x_BCHW))

    def _latents(self, x_BCHW: Tensor) -> Tensor:
        """What the quantizer takes."""
        x_BCHW = (x_BCHW + 1) / 2 if self.config.pixel_range == "unit" else x_BCHW
        return self.quant_conv(self.encoder(x_BCHW))

    def _pictures(self, latents_BDhw: Tensor) -> Tensor:
        """Pictures in [-1, 1] of what the quantizer gives."""
        return self.decoder(self.post_quant_conv(latents_BDhw)).clamp(-1.0, 1.0)

    def to_pil(self, x_BCHW: Tensor) -> list[Any]:
        """PIL pictures of floats in [-1, 1]; tensors of PIL pictures are what `encode` makes."""
        return to_pil(x_BCHW)

    def _batch(self, pictures: Pictures) -> Tensor:
        """Pictures as x_BCHW, checked."""
        x_BCHW = as_batch(pictures, self.transform)
        self._check_pictures(x_BCHW)
        return x_BCHW if isinstance(pictures, Tensor) else x_BCHW.to(next(self.parameters()).device)

    def _need_codes(self) -> None:
        if not self.codebook_size:
            raise ValueError(f"quantizer kind {self.config.quantizer.kind} has no codes: use `reconstruct`")

    def _check_pictures(self, x_BCHW: Tensor) -> None:
        dims, channels = self.config.spatial_dims, self.config.in_channels
        if not x_BCHW.is_floating_point():
            raise ValueError(f"pictures of type {x_BCHW.dtype} are not floats: data.transforms.to_float makes them")
        if x_BCHW.ndim != dims + 2 or x_BCHW.shape[1] != channels:
            raise ValueError(
                f"pictures of shape {tuple(x_BCHW.shape)} don't fit: give {dims + 2} axes, batch, {channels} "
                f"channel{'s' if channels > 1 else ''}, then size"
            )
        self.grid(x_BCHW.shape[2:])
        if x_BCHW.numel() and not bool((x_BCHW.abs() <= 1.0 + _TOLERANCE).all()):  # also catches NaN
            raise ValueError(
                f"pictures from {float(x_BCHW.min()):.4g} to {float(x_BCHW.max()):.4g} are not in [-1, 1]: "
                f"scale them (data.transforms.to_float does it for uint8)"
            )

    def weights(self) -> dict[str, Tensor]:
        """What encoding and decoding need, by name: the state without the codebook's statistics of training."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items() if ".statistics." not in name}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the configuration and every weight: what ties code shards and priors to this tokenizer.

        Settings at their defaults don't enter, so that a setting added later leaves it as it is; nor do device and
        order.
        """
        digest = hashlib.sha256(json.dumps(_changed(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.weights().items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json, model.safetensors and, where it is known, preprocessor_config.json into a folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "model_type": MODEL_TYPE,
            "architectures": ["Tokenizer"],
            "format": FORMAT,
            "codebook_size": self.codebook_size,
            "stride": self.stride,
            "fingerprint": self.fingerprint,
            "model": dataclasses.asdict(self.config),
        }
        _write_json(folder / CONFIG, config)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.weights().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if self.transform is not None:
            transform = {"value_range": [-1.0, 1.0], "transform": self.transform.to_dict()}
            _write_json(folder / PREPROCESSOR, transform)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], revision: str | None = None) -> Tokenizer:
        """Load what `save_pretrained` (or stage1_tokenizer.release) wrote, on the CPU, in evaluation mode.

        `folder` is one, or a name on the Hub (ORG/NAME), of which `revision` may be a branch, a tag or a commit.
        Reads JSON and safetensors only, never a pickle. Raises UserError where the folder isn't a tokenizer's, or its
        weights aren't those its configuration tells of, and where the Hub doesn't give it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from .stage1_tokenizer_hub import fetched

        folder = fetched(folder, revision)
        values = _read_config(folder)
        tokenizer = cls(model_config(values["model"], folder / CONFIG), _read_transform(folder / PREPROCESSOR))
        try:
            tokenizer.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{folder / WEIGHTS} can't be loaded ({reason}): release the tokenizer again") from error
        if values.get("fingerprint") not in (None, tokenizer.fingerprint):
            raise UserError(
                f"{folder} is altered: its weights or settings aren't those of the fingerprint in {CONFIG}: "
                f"fetch or release it again"
            )
        return tokenizer.eval()


def in_parts(network: Callable[[Tensor], Tensor], x_BCHW: Tensor, most: int | None) -> Tensor:
    """network(x) of at most so many samples at a time, computed anew in the backward: its memory is one part's."""
    if most is None or len(x_BCHW) <= most:
        return network(x_BCHW)
    return torch.cat([checkpoint(network, part, use_reentrant=False) for part in x_BCHW.split(most)])


def _changed(config: Any) -> dict[str, Any]:
    """The settings that aren't at their defaults, nested dataclasses as nested dictionaries."""
    found: dict[str, Any] = {}
    default = type(config)()
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        value = list(value) if isinstance(value, tuple) else value
        if value != usual:
            found[field.name] = _changed(value) if dataclasses.is_dataclass(value) else value
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a released tokenizer, it has no {CONFIG}: "
            f"make one with `python -m stage1_tokenizer.release`"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} can't be read ({error}): release the tokenizer again") from error
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE or "model" not in values:
        raise UserError(f"{folder / CONFIG} doesn't describe a tokenizer: its model_type is not {MODEL_TYPE}")
    if values.get("format") != FORMAT:
        raise UserError(f"{folder / CONFIG} has format {values.get('format')}, this version reads {FORMAT}: update it")
    return values


def model_config(values: dict[str, Any], source: Path) -> ModelConfig:
    """ModelConfig of its JSON; UserError for a key or a value that this version doesn't know."""
    try:
        return _built(ModelConfig, values)
    except (TypeError, ValueError) as error:
        known = ", ".join(get_type_hints(ModelConfig))
        raise UserError(f"{source}: model can't be read ({error}); this version knows {known}") from error


def _built(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass of its JSON, with those in it."""
    types = get_type_hints(kind)
    nested = {key: _built(types[key], values[key]) for key in values if dataclasses.is_dataclass(types.get(key))}
    return kind(**{**values, **nested})


def _read_transform(path: Path) -> TransformConfig | None:
    if not path.exists():
        return None
    try:
        return TransformConfig.from_dict(json.loads(path.read_text())["transform"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): release the tokenizer again") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
