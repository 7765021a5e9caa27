"""Code shards: grids of token ids, and batches of them.

Shapes: B batch (this rank's part), h w latent grid, G codebooks, N codes of all scales.
"""

import io
import math
import re
from dataclasses import dataclass, field

import numpy as np
import torch

from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError, Sample
from launch.command.cli import UserError

_HEADER = re.compile(
    rb"\x93NUMPY\x01\0..\{'descr': '([<>|][iu]\d)', 'fortran_order': False, 'shape': \(([\d, ]+)\), \} *\n", re.S
)
"""The header that numpy writes for a plain array of integers."""


def decode_codes(sample: Sample) -> np.ndarray:
    """The code grid of a code sample, integers (h, w); DamagedSampleError without a sound one."""
    contents = sample.files.get("codes.npy")
    if contents is None:
        raise DamagedSampleError(f"no codes.npy among {', '.join(sample.files)}")
    try:
        # numpy parses headers as Python, which Python 3.11 can't do in several threads without a SystemError at times.
        if header := _HEADER.match(contents):
            shape = tuple(int(side) for side in header[2].split(b",") if side.strip())
            values = np.frombuffer(contents, header[1].decode(), math.prod(shape), header.end())
            return values.reshape(shape).copy()
        return np.lib.format.read_array(io.BytesIO(contents), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DamagedSampleError(f"its codes.npy can't be read: {error}") from error


@dataclass(frozen=True)
class CodeBatch:
    """Codes of one step."""

    step: int
    """Number of the global batch (of `every_code`: of this rank's batch)."""
    idx_Bhw: torch.Tensor
    """int64 codes; (B, G, h, w) of several codebooks, (B, N) of several scales."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Their texts, "" where a sample has none."""


class CodeDecoder:
    """Fills batches of codes; their shape (`shape`, else `grid`) and codebook come from the index, else UserError."""

    batch = CodeBatch

    def __init__(self, index: ShardIndex, seed: int | None = None):
        """Nothing random is done to codes, so `seed` has no effect."""
        self._pin = torch.cuda.is_available()
        try:
            self._shape = tuple(int(side) for side in index.meta.get("shape", index.meta["grid"]))
            self._codebook_size = int(index.meta["codebook_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{index.path or index.base} names no grid and codebook_size: "
                "make it with `python -m stage2_prior.encode`"
            ) from error

    def allocate(self, rows: int) -> torch.Tensor:
        """idx_Bhw, int64, pinned where there is a GPU; of codes of several levels or scales in their own form."""
        return torch.empty((rows, *self._shape), dtype=torch.int64, pin_memory=self._pin)

    def fill(self, sample: Sample, epoch: int, buffer: torch.Tensor, row: int) -> None:
        """Read one sample's codes into a row; DamagedSampleError unless they are as the index says."""
        codes = decode_codes(sample)
        if codes.shape != self._shape or codes.dtype.kind not in "iu":
            raise DamagedSampleError(f"its codes are {codes.dtype} {codes.shape}, the index says {self._shape}")
        if codes.size and (int(codes.max()) >= self._codebook_size or int(codes.min()) < 0):
            raise DamagedSampleError(f"it has codes outside 0..{self._codebook_size - 1}")
        buffer[row].numpy()[...] = codes


def check(sample: Sample, max_size: int) -> tuple[None, str]:
    """DamagedSampleError unless the sample's codes can be read. Equal codes of different pictures are no duplicates."""
    decode_codes(sample)
    return None, ""
