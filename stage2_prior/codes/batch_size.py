"""How many pictures fit on a device at once, found by trying."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stage1_tokenizer import Tokenizer

ON_CPU = 64
"""Pictures at once where memory isn't the limit."""

MOST = 4096
"""More brings nothing."""


def largest(fits: Callable[[int], bool], first: int = 16, most: int = MOST) -> int:
    """Half of the largest of first, 2·first, … ≤ most that fits, so that something is left for what else comes.

    Where nothing or only `first` fits, halves of it are tried; 1 at least.
    """
    size = first
    while size > 1 and not fits(size):
        size //= 2
    while size >= first and size * 2 <= most and fits(size * 2):
        size *= 2
    return max(1, size // 2)


def batch_size(tokenizer: Tokenizer, side: int) -> int:
    """Pictures of this side to encode at once on the tokenizer's device: found on GPUs, ON_CPU elsewhere."""
    device = next(tokenizer.parameters()).device
    if device.type != "cuda":
        return ON_CPU
    assert tokenizer.transform is not None
    channels = tokenizer.transform.channels

    @torch.inference_mode()
    def fits(size: int) -> bool:
        try:
            tokenizer.encode(torch.zeros(size, channels, side, side, device=device))
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    return largest(fits)
