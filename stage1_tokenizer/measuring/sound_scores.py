"""Quality of reconstructed sounds, by number of codebooks, and use of the codes, as sums that ranks can add up.

Legend: B batch, C channels, T samples, N positions, G codebooks, K codes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from data.sounds.batches import SoundBatch, to_float, to_int16
from data.sounds.config import SoundConfig
from stage1_tokenizer.measuring.picture_sets import SampleHash, filled
from stage1_tokenizer.measuring.scores import COUNTED, code_statistics
from stage1_tokenizer.measuring.sound_metrics import figures_of, names
from stage1_tokenizer.quantizers.usage import count_codes
from stage1_tokenizer.tokenizer.model import Tokenizer


class ClipSums:
    """Sums of figures over clips, on the device; a clip for which a figure isn't defined (NaN) doesn't count in it."""

    def __init__(self, device: torch.device):
        self._names = names()
        self._sums_2M = torch.zeros(2, len(self._names), dtype=torch.float64, device=device)

    def add(self, y_BCT: Tensor, x_BCT: Tensor, lengths: Sequence[int], rate: int) -> None:
        """Add reconstructions and originals in [-1, 1], each up to its length."""
        for length in sorted(set(lengths)):
            rows = torch.tensor([row for row, own in enumerate(lengths) if own == length], device=x_BCT.device)
            values = figures_of(y_BCT[rows, :, :length], x_BCT[rows, :, :length], rate)
            value_MB = torch.stack([values[name] for name in self._names])
            self._sums_2M += torch.stack([value_MB.nansum(1), (~value_MB.isnan()).sum(1).double()])

    def result(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over the clips of all ranks; a figure that no clip has is left out."""
        sums, counts = total(self._sums_2M).tolist()
        return {name: value / count for name, value, count in zip(self._names, sums, counts, strict=True) if count}


def levels(tokenizer: Tokenizer) -> list[int]:
    """Numbers of codebooks at which a tokenizer is measured, 1, 2, 4, … and all; none unless in sequence."""
    if tokenizer.config.quantizer.kind != "residual":
        return []
    return sorted({2**power for power in range(tokenizer.codebooks.bit_length())} | {tokenizer.codebooks})


def rates(tokenizer: Tokenizer, books: int) -> dict[str, float]:
    """bits_per_second of the first codebooks and frames_per_second; nothing of latents without codes."""
    transform = tokenizer.transform
    assert isinstance(transform, SoundConfig)
    if not tokenizer.codebook_size:
        return {}
    (frames,) = tokenizer.grid(transform.sizes)
    seconds = transform.length / transform.sample_rate
    strides = list(tokenizer.config.quantizer.strides) or [1] * tokenizer.codebooks
    bits = sum(frames / stride for stride in strides[:books]) * math.log2(tokenizer.codebook_size)
    return {"bits_per_second": bits / seconds, "frames_per_second": frames / seconds}


def measure_sounds(
    tokenizer: Tokenizer,
    batches: Iterable[SoundBatch],
    *,
    device: torch.device,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    by_books: bool = False,
    rows: int = 0,
    hashed: SampleHash | None = None,
) -> dict[str, Any]:
    """Figures over this rank's batches and, through `total`, the other ranks'; every rank calls it.

    Keys: those of `names()` (a figure is absent if no clip has it), bits_per_second, frames_per_second, codes_used,
    codebook_usage, entropy_bits, perplexity, samples. With `by_books` also `by_books`, a list of the same figures with
    the first 1, 2, 4, … books, and `usage_by_book`, `perplexity_by_book`. Codes of what is beyond a clip's end don't
    count. `hashed` takes the clips. Batches are filled up to `rows` clips, so that figures don't depend on the ranks.
    """
    transform = tokenizer.transform
    assert isinstance(transform, SoundConfig)
    rate, books = transform.sample_rate, levels(tokenizer)[:-1] if by_books else []
    sums = {count: ClipSums(device) for count in (*books, tokenizer.codebooks)}
    counted = tokenizer.codebook_size if tokenizer.codebook_size <= COUNTED else 0
    count_GK = torch.zeros(tokenizer.codebooks, counted, dtype=torch.int64, device=device)
    clips = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        lengths = batch.lengths_B.tolist()
        x_BCT = to_float(filled(batch.samples_BCT, rows).to(device, non_blocking=True))
        with torch.no_grad():
            y_BCT, codes_BGN = tokenizer.reconstruct(x_BCT)
            shown = {tokenizer.codebooks: y_BCT}
            shown |= {count: tokenizer.decode(codes_BGN[:, :count]) for count in books if codes_BGN is not None}
            for count, one_BCT in shown.items():
                kept = to_float(to_int16(one_BCT[: len(lengths)]))
                sums[count].add(kept, x_BCT[: len(lengths)], lengths, rate)
        clips += len(lengths)
        if counted and codes_BGN is not None:
            count_GK += count_codes(_sounding(tokenizer, codes_BGN, lengths), counted, tokenizer.codebooks)
        if hashed is not None:
            hashed.add_rows(row[:, :length] for row, length in zip(batch.samples_BCT, lengths, strict=True))
    found = {count: one.result(total) | rates(tokenizer, count) for count, one in sums.items()}
    figures: dict[str, Any] = {**found[tokenizer.codebooks], "samples": int(total(clips))}
    if counted:
        figures |= _use(total(count_GK).cpu(), by_books)
    if books:
        figures["by_books"] = [{"books": count, **found[count]} for count in sorted(found)]
    return figures


def _sounding(tokenizer: Tokenizer, codes_BGN: Tensor, lengths: Sequence[int]) -> Tensor:
    """The codes of a batch up to each clip's end, one clip after the other, (1, G, N) or (1, N)."""
    (hop,) = tokenizer.config.stride
    pairs = zip(codes_BGN, lengths, strict=False)
    return torch.cat([codes_GN[..., : -(-length // hop)] for codes_GN, length in pairs], -1)[None]


def _use(count_GK: Tensor, by_books: bool) -> dict[str, Any]:
    figures: dict[str, Any] = code_statistics(count_GK)
    if by_books and len(count_GK) > 1:
        each = [code_statistics(count_K) for count_K in count_GK]
        figures["usage_by_book"] = [one["codebook_usage"] for one in each]
        figures["perplexity_by_book"] = [one["perplexity"] for one in each]
    return figures
