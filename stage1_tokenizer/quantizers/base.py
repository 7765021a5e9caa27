"""The protocol of all quantizers, and what they share.

Legend: B batch, D code dimension, h w latent grid, N positions (B·h·w), K codes, G codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import HALF, at_least_float32, float32_as, no_autocast
from stage1_tokenizer.quantizers.nearby import nearby_vectors

Perturbed = tuple[Tensor, Tensor]
"""Which samples of a batch are perturbed, rows_X int64, and the ranks (`Quantizer.nearby`) of what replaces their
codes, rank_X… in the form of the codes."""


@dataclass
class Quantized:
    """The output of a quantizer."""

    latents: Tensor
    """Input of the decoder, (B, D, h, w); in training it carries a gradient to the quantizer's input."""
    codes: Tensor | None
    """Indices in [0, K), int64, usually (B, h, w); None if the quantizer has no codes (gaussian)."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Weighted scalar losses by name: commitment, codebook, kl, entropy."""


class Quantizer(nn.Module):
    """The protocol of all quantizers.

    Codes have the shape (B, h, w), one for each position; `residual` and `product` give (B, G, h, w), one from each of
    G codebooks, and `multiscale` gives (B, N): the codes of all scales, coarsest first, each in row-major order.

    All is computed in at least float32 and as IEEE says (`exactly`), whatever the type of the weights, autocast and
    torch's settings are. Latents then take the weights' type if that is bf16 or fp16 (`as_weights`).
    """

    codebook_size: int
    """K, of each codebook; 0 if there are no codes."""
    codebooks: int = 1
    """G, the number of codebooks. If there are several, axis 1 of the codes is the codebook."""
    input_channels: int
    """Channels of the input: the output channels of quant_conv."""
    latent_channels: int
    """Channels of the latents: the input channels of post_quant_conv."""
    unit: Tensor
    """A 1 in the type of the weights, also where there are none."""
    led: bool = False
    """Whether the training calls `begin` before each step, so that the step itself can be compiled or captured."""
    starting: bool = False
    """Whether the step that `begin` prepared is one that comes once, at the start: it needn't be compiled."""
    reviving: bool = False
    """Whether the step that `begin` prepared replaces codes."""

    def __init__(self, config: QuantizerConfig):
        """Take size and channels from `codebook_size` and `code_dim`; a subclass with others overwrites them."""
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.input_channels = self.latent_channels = config.code_dim
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def __call__(self, z_BDhw: Tensor) -> Quantized:
        """Forward; in training mode it is a training step, which `begin` prepares."""
        if self.training and not self.led:
            self.begin(z_BDhw.numel() // z_BDhw.shape[1])
        return super().__call__(z_BDhw)

    def begin(self, positions: int) -> None:
        """What Python has to do before a training step on so many positions: count it, and set what depends on it."""

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents, codes and losses of (B, input_channels, h, w)."""
        raise NotImplementedError

    def as_weights(self, latents: Tensor) -> Tensor:
        """Latents in the weights' type if that is bf16 or fp16, else as they are."""
        return latents.to(self.unit.dtype) if self.unit.dtype in HALF else latents

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w), bit-identical to those from forward."""
        raise NotImplementedError

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """The codes whose latents are nearest: the inverse of `embed`. TypeError for kinds whose latents are sums."""
        raise TypeError("codes cannot be recovered from a sum of code vectors: keep the codes themselves")

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """Codes replaced by those of `ranks` among the `nearest` codes of each: 0 is the code itself, 1 the next, ….

        All have the shape of the codes; ranks from `nearest` on count as the last one. TypeError without codes.
        """
        raise TypeError(f"kind={self.config.kind} has no codes: choose another quantizer")

    def vectors(self) -> list[Tensor]:
        """The vectors of all codes of each codebook, (K, D) each, at least float32. TypeError without codes."""
        raise TypeError(f"kind={self.config.kind} has no vectors of its codes: choose another quantizer")

    def perturbed(self, quantized: Quantized, chosen: Perturbed) -> Tensor:
        """The latents where the codes of the chosen samples are replaced by near ones. (Qiu et al. 2025, RobusTok)

        Gradients are those of the latents as they were; the other samples' keep their bits.
        """
        rows_X, rank_X = chosen
        assert quantized.codes is not None
        own, own_idx = (tensor.index_select(0, rows_X) for tensor in (quantized.latents, quantized.codes))
        with torch.no_grad():
            idx = self.nearby(own_idx, rank_X, self.config.perturb.nearest)
            other_X = (idx != own_idx).flatten(1).any(1)  # embedding fewer samples at once may round otherwise
            moved = torch.where(other_X.view(-1, *[1] * (own.ndim - 1)), self.embed(idx), own)
        return quantized.latents.index_copy(0, rows_X, moved + (own - own.detach()))

    def levels_kept(self, levels: int, samples: int, device: torch.device) -> Tensor | None:
        """How many of the first `levels` each sample of a training step keeps, kept_B int64; None: all keep all.

        (`codebook_dropout`: Kumar et al. 2023, DAC, section 3.3; Li et al. 2024, ImageFolder)
        """
        if not (self.training and self.config.codebook_dropout):
            return None
        drawn_B = torch.randint(self.config.codebook_dropout_from, levels + 1, (samples,), device=device)
        fewer_B = torch.rand(samples, device=device) < self.config.codebook_dropout
        return torch.where(fewer_B, drawn_B, levels)

    def codes_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Shape of one picture's codes on a latent grid (h, w). ValueError for an unsupported grid."""
        return tuple(grid) if self.codebooks == 1 else (self.codebooks, *grid)

    def check_codes(self, shape: Sequence[int], dims: int) -> None:
        """Raise ValueError unless codes of this shape, batch first, can be embedded on `dims` spatial axes."""
        several = self.codebooks > 1
        if len(shape) != dims + 1 + several or (several and shape[1] != self.codebooks):
            axes = f"batch, {self.codebooks} codebooks, then the grid" if several else "batch, then the grid"
            raise ValueError(f"codes of shape {tuple(shape)} need {dims + 1 + several} axes: {axes}")


class RowQuantizer(Quantizer):
    """A quantizer of single positions: subclasses work on rows (N, D) and give one code for each."""

    def quantize(self, z_ND: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (N, D), codes (N,) and losses; counts as a training step in training mode."""
        raise NotImplementedError

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, D), at least float32."""
        raise NotImplementedError

    def search(self, rows_ND: Tensor) -> Tensor:
        """Codes (N,) nearest to the rows."""
        raise NotImplementedError

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, h, w) and losses, computed in at least float32."""
        with exactly(z_BDhw):
            z_ND, grid = grid_to_rows(z_BDhw)
            latents_ND, idx_N, losses = self.quantize(z_ND)
        return Quantized(self.as_weights(codes_to_grid(latents_ND, grid)), idx_N.view(grid), losses)

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        with exactly(idx_Bhw):
            return self.as_weights(codes_to_grid(self.rows(idx_Bhw.flatten()), idx_Bhw.shape))

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, h, w) of latents from `embed`."""
        with exactly(latents_BDhw):
            rows_ND, grid = grid_to_rows(latents_BDhw)
            return self.search(rows_ND).view(grid)

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """The nearest codes by the vectors that the search compares."""
        with exactly(codes), torch.no_grad():
            code_KD = self.compared()
            return nearby_vectors(code_KD, codes.flatten(), ranks.flatten(), nearest).view(codes.shape)

    def vectors(self) -> list[Tensor]:
        """Those that the search compares, of the one codebook."""
        return [self.compared()]

    def compared(self) -> Tensor:
        """The vectors of all codes that the search compares with its rows, (K, D), at least float32."""
        return self.rows(torch.arange(self.codebook_size, device=self.unit.device))

    def _scaled(self, rows_ND: Tensor) -> Tensor:
        return F.normalize(rows_ND, dim=1) if self.config.l2_normalise else rows_ND


class Counter(nn.Module):
    """The number of training steps, saved with the weights: annealed weights and temperatures depend on it.

    `annealed` is the weight or temperature of the step that has begun, as a tensor, which a compiled step reads anew.
    Tensors stay float32 or float64 where the weights become bf16 or fp16, which can't count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.annealed = torch.zeros((), dtype=torch.float64)  # no buffer: averaged weights would average it

    def begin(self, annealed: float) -> None:
        """Begin a training step with this weight or temperature."""
        self.annealed.fill_(annealed)
        self.steps += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As of any module, but never to bf16 or fp16."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF else moved

        self.annealed = kept(self.annealed).to(torch.float64)
        return super()._apply(kept, recurse)

    def get_extra_state(self) -> Tensor:
        """The number of training steps."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of steps."""
        self.steps = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Accept a state without it (a released or foreign tokenizer): training then starts at step 0."""
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *others)
        else:
            self.steps = 0


@contextmanager
def exactly(like: Tensor) -> Iterator[None]:
    """Inside, nothing on the tensor's device is computed by autocast or as TF32."""
    with no_autocast(like), float32_as("ieee"):
        yield


def grid_to_rows(z_BDhw: Tensor) -> tuple[Tensor, torch.Size]:
    """Latents as rows (N, D), at least float32, and the shape of their codes (B, h, w)."""
    grid = torch.Size((z_BDhw.shape[0], *z_BDhw.shape[2:]))
    return at_least_float32(z_BDhw).movedim(1, -1).flatten(0, -2), grid


def codes_to_grid(rows_ND: Tensor, shape: torch.Size) -> Tensor:
    """Rows (N, D) back to (B, D, h, w); `shape` is (B, h, w)."""
    return rows_ND.unflatten(0, shape).movedim(-1, 1)
