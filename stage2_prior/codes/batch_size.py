"""The largest batch that fits on a device, found by trying."""

import math
from collections.abc import Callable, Sequence

import torch

from stage1_tokenizer import Tokenizer

MOST_ON_CPU, PLACES_ON_CPU = 64, 1 << 18
"""Samples, and pixels or times of all of them, at once on a CPU: more large ones take more memory and are no faster."""

MOST = 4096
"""Larger batches bring no speed."""


def largest(fits: Callable[[int], bool], first: int = 16, most: int = MOST) -> int:
    """Half of the largest of first, 2·first, … ≤ most that fits, which leaves room for other memory.

    If `first` doesn't fit, its halves are tried; at least 1.
    """
    size = first
    while size > 1 and not fits(size):
        size //= 2
    while size >= first and size * 2 <= most and fits(size * 2):
        size *= 2
    return max(1, size // 2)


def batch_size(tokenizer: Tokenizer, sizes: Sequence[int]) -> int:
    """Samples of these sizes to encode at once on the tokenizer's device: measured on GPUs, elsewhere set."""
    device = next(tokenizer.parameters()).device
    if device.type != "cuda":
        return max(1, min(MOST_ON_CPU, PLACES_ON_CPU // math.prod(sizes)))
    assert tokenizer.transform is not None
    channels = tokenizer.transform.channels

    @torch.inference_mode()
    def fits(size: int) -> bool:
        try:
            tokenizer.encode(torch.zeros(size, channels, *sizes, device=device))
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    return largest(fits)
