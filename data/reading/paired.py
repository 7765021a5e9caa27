"""Codes read beside the samples that they belong to: a code shard's samples are those of the sample shard of the same
number, in the same order, with the same keys; some may be missing.
"""

from typing import Any, NamedTuple

import torch

from data.media import handler
from data.reading.readers import LocalReader, NumberedShards
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import check_present, load_index
from data.shards.sample import DamagedSampleError, read_sample
from data.shards.writer import fit_key
from launch.command.cli import UserError


class Paired(NamedTuple):
    """A batch of samples and, row by row, their codes."""

    samples: Any
    """The batch of the samples' decoder."""
    idx_Bhw: torch.Tensor
    """int64 codes in the tokenizer's form."""


class PairedCodes:
    """Reads the codes of an index's samples."""

    def __init__(self, codes: ShardIndex, samples: ShardIndex):
        """`codes` as `paired_codes` opens them."""
        self._sizes, self._of = codes.sizes, samples.sizes
        self._layout = codes.layout
        self._reader = LocalReader(NumberedShards([codes]))
        self._decoder = handler("codes", "decoder")(codes)

    def allocate(self, rows: int) -> torch.Tensor:
        """Memory for the codes of a batch."""
        memory: torch.Tensor = self._decoder.allocate(rows)
        return memory

    def fill(self, shard: int, position: int, key: str, buffer: torch.Tensor, row: int) -> None:
        """Read the codes of one sample into a row; DamagedSampleError where it has none.

        A sample lies at its own position, or before it by at most as many as are missing.
        """
        own, missing = fit_key(key), self._of[shard] - self._sizes[shard]
        for at in range(min(position, self._sizes[shard] - 1), max(position - missing, 0) - 1, -1):
            sample = read_sample(self._reader.read(shard, at), self._layout)
            # Of equal keys in a shard, all but the first have their number behind them (data.shards.writer.free_key).
            if sample.key == own or (not missing and sample.key == f"{own}-{at}"):
                self._decoder.fill(sample, 0, buffer, row)
                return
        raise DamagedSampleError("it has no codes in data.codes")

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def paired_codes(place: str, samples: ShardIndex, rank: int = 0, ranks: int = 1) -> ShardIndex:
    """The index of codes, `data.codes`, of the samples of `data.index`; UserError unless they belong together."""
    codes, what = load_index(place), f"data.codes={place}"
    if codes.kind != "codes":
        raise UserError(f"{what} holds {codes.kind}, not codes: make them with stage2_prior.redraw or .encode")
    if codes.remote:
        raise UserError(f"{what} lies behind a URL: copy the codes to a disk, they are small")
    if codes.meta.get("variants", ["plain"]) != ["plain"]:
        raise UserError(f"{what} has crops or mirror images: encode without --crops and --flip, or redraw its codes")
    described = codes.meta.get("data")
    digest = described.get("digest") if isinstance(described, dict) else None
    fits = all(a <= b for a, b in zip(codes.sizes, samples.sizes, strict=False))
    if digest != Identity.of(samples).digest or len(codes.shards) != len(samples.shards) or not fits:
        raise UserError(
            f"{what} has codes of other {samples.kind} than those of data.index: give the index they are of"
        )
    check_present(codes, rank, ranks)
    return codes
