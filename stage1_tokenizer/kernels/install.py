"""Puts the kernels into networks: `install(module, device)`, once, where they are built or opened.

Models, losses and discriminators are plain torch. Installing swaps the classes of some of their layers in place and
makes what enters the wide networks channels-last; weights, their names and state_dicts stay. A layer whose input does
not suit its kernel (another device or type, mixed precision, torch.compile) computes as torch does.
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
from stage1_tokenizer.layers.frozen import FrozenConv2d
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.networks import maskgit, vqgan
from stage1_tokenizer.quantizers.base import Quantizer

NETWORKS = (vqgan.Encoder, vqgan.Decoder, maskgit.Encoder, maskgit.Decoder, Discriminator, ResidualDiscriminator)
"""What may run in channels-last layout from its first convolution on."""

WIDE = 64
"""Networks whose narrowest layer has this many channels gain from channels-last on a CPU."""

CPU: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FastConv2d,
    Norm: FastNorm,
    FrozenConv2d: FastFrozenConv2d,
}
"""Layers and the kernels that take their place on CPUs."""


def install(module: nn.Module | None, device: torch.device | str) -> None:
    """Let a network, or a module that holds networks, use the kernels for a device. A second call changes nothing."""
    if module is None or torch.device(device).type != "cpu":
        return
    for part in list(_parts(module)):
        if isinstance(part, NETWORKS):
            _enter_channels_last(part)
        for layer, fast in CPU.items():
            if isinstance(part, layer) and not isinstance(part, fast) and _fits(part):
                _become(part, fast)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all within it, quantizers apart."""
    if isinstance(module, Quantizer):
        return
    yield module
    for child in module.children():
        yield from _parts(child)


def _fits(part: nn.Module) -> bool:
    return not isinstance(part, nn.Conv2d) or FastConv2d.takes(part)


def _become(part: nn.Module, fast: type[nn.Module]) -> None:
    """Change the class; a parametrized layer has one of its own, which stays below the new one."""
    own = type(part)
    part.__class__ = fast if own is fast.__base__ else type(own.__name__, (fast, own), {})


def _enter_channels_last(network: nn.Module) -> None:
    """Have the first convolution give channels-last pictures, if all layers are wide; the others keep the layout."""
    first, *others = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    narrowest = min(layer.in_channels for layer in others)
    if narrowest >= WIDE and _channels_last not in first._forward_hooks.values():
        first.register_forward_hook(_channels_last)


def _channels_last(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last) if output.device.type == "cpu" else output
