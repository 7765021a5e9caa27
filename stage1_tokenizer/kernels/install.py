"""Installs kernels in networks: `install(module, device)`, called once where they are built or opened.

Models, losses and discriminators are plain torch. Installing swaps the classes of some layers in place and makes the
first activations of wide networks channels-last; weights and state_dicts do not change. A layer whose input its kernel
does not support (another device or type, mixed precision, torch.compile) falls back to torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.discriminators.patch import Discriminator
from stage1_tokenizer.discriminators.stylegan import ResidualDiscriminator
from stage1_tokenizer.kernels.cpu.convolution import FastConv2d
from stage1_tokenizer.kernels.cpu.frozen import FastFrozenConv2d
from stage1_tokenizer.kernels.cpu.group_norm import FastNorm
from stage1_tokenizer.kernels.gpu.adaptive_norm import FusedAdaptiveNorm
from stage1_tokenizer.kernels.gpu.group_norm import FusedNorm
from stage1_tokenizer.kernels.gpu.loading import available
from stage1_tokenizer.kernels.gpu.nearest import enable
from stage1_tokenizer.kernels.gpu.upsampling import NarrowUpsample
from stage1_tokenizer.layers.convolution import Upsample
from stage1_tokenizer.layers.frozen import FrozenConv2d
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.networks import maskgit, vqgan
from stage1_tokenizer.quantizers.base import Quantizer

NETWORKS = (vqgan.Encoder, vqgan.Decoder, maskgit.Encoder, maskgit.Decoder, Discriminator, ResidualDiscriminator)
"""Networks that support channels-last layout from their first convolution on."""

WIDE = 64
"""Networks whose layers all have at least this many channels are faster in channels-last on a CPU."""

CPU: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FastConv2d, Norm: FastNorm, FrozenConv2d: FastFrozenConv2d}
"""Layers and the kernels that replace them on CPUs."""


class AnyNorm(FusedNorm, FastNorm):
    """A norm of a network that was opened on a CPU, with its kernels, and may be moved to a GPU."""


GPU: dict[type[nn.Module], type[nn.Module]] = {
    Norm: FusedNorm,
    FastNorm: AnyNorm,
    maskgit.AdaptiveNorm: FusedAdaptiveNorm,
    Upsample: NarrowUpsample,
}
"""Layers and the kernels that replace them on GPUs; where triton isn't installed, none does."""


def install_for_all(module: nn.Module) -> None:
    """For a network on the CPU that may be moved to a GPU, if there is one."""
    install(module, "cpu")
    if torch.cuda.is_available():
        install(module, "cuda")


def install(module: nn.Module | None, device: torch.device | str) -> None:
    """Install the kernels for a device in a network or a module that has networks. Idempotent."""
    kind = torch.device(device).type
    if module is not None and kind == "cpu":
        _install_for_cpu(module)
    elif module is not None and kind == "cuda" and available():
        enable()
        for part in list(_parts(module)):
            if (fast := GPU.get(type(part))) is not None:
                part.__class__ = fast


def _install_for_cpu(module: nn.Module) -> None:
    for part in list(_parts(module)):
        if isinstance(part, NETWORKS):
            _enter_channels_last(part)
        for layer, fast in CPU.items():
            supported = not isinstance(part, nn.Conv2d) or FastConv2d.takes(part)
            if isinstance(part, layer) and not isinstance(part, fast) and supported:
                _become(part, fast)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The module and its submodules, without quantizers."""
    if isinstance(module, Quantizer):
        return
    yield module
    for child in module.children():
        yield from _parts(child)


def _become(part: nn.Module, fast: type[nn.Module]) -> None:
    """Change the class; that of a parametrized layer becomes a base of the new one."""
    own = type(part)
    part.__class__ = fast if own is fast.__base__ else type(own.__name__, (fast, own), {})


def _enter_channels_last(network: nn.Module) -> None:
    """Make the output of the first 2D convolution channels-last if all others are wide; they keep the layout."""
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    wide = len(layers) > 1 and all(layer.in_channels >= WIDE for layer in layers[1:])
    if wide and _channels_last not in layers[0]._forward_hooks.values():
        layers[0].register_forward_hook(_channels_last)


def _channels_last(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last) if output.device.type == "cpu" else output
