"""What the networks of all kinds share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.model import one_or_all

Result = TypeVar("Result")


class PictureDecoder(nn.Module):
    """Latents to pictures, as `last_layer(features(z))`: the adaptive weight needs what enters the last layer."""

    conv_out: Any

    @property
    def last_layer(self) -> Any:
        """The convolution (`LastLayer`) that gives the picture; of some networks for sound, another module."""
        return self.conv_out

    def features(self, z_BDhw: Tensor) -> Tensor:
        """Latents to the input of the last layer."""
        raise NotImplementedError

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Latents (B, D, h, w) to pictures (B, C, H, W)."""
        return self.last_layer(self.features(z_BDhw))


def refuse_odd_sizes(sizes: Sequence[int], stride: tuple[int, ...]) -> None:
    """ValueError unless every side is a multiple of the stride along its axis."""
    if any(size % step for size, step in zip(sizes, stride, strict=True)):
        shown = one_or_all(stride)
        raise ValueError(f"a picture of {tuple(sizes)} is not a multiple of the stride {shown}: pad or crop it")


def in_blocks(
    network: nn.Module,
    step: Callable[[Tensor], Result],
    whole: Tensor,
    size: int,
    past: Any,
    *,
    axis: int = -1,
    first: int = 0,
) -> list[Result]:
    """step(part) for each part of `size` along an axis; the last one's end is repeated, as all have the same shape.

    The network goes on from where `past`, which it changes, ended; None: from the beginning, which has `first` alone.
    """
    past = {} if past is None else past
    sizes = [first] if first and not past else []
    begun = sum(sizes)
    sizes += [size] * -(-(whole.shape[axis] - begun) // size)
    ends = itertools.accumulate(sizes)
    at = torch.arange(begun + size * (len(sizes) - bool(begun)), device=whole.device)
    padded = whole.index_select(axis, at.clamp_max(whole.shape[axis] - 1))
    followers: list[Any] = [part for part in network.modules() if hasattr(part, "past")]
    try:
        for part in followers:
            part.past = past
        parts = (padded.narrow(axis, end - length, length) for end, length in zip(ends, sizes, strict=True))
        return [step(part.contiguous()) for part in parts]
    finally:
        for part in followers:
            part.past = None
