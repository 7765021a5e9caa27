"""Documents as samples: texts with codes in their places, a `json` member and a `NUMBER.codes.npy` for each place.

The json has {"segments": [text or {"codes": NUMBER, "source": NUMBER of the index's `sources`}, …]}.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data.codes.batches import decode_codes
from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError, Sample

Part = str | tuple[int, np.ndarray]
"""A text, or codes with the number of their source."""


def parts_of(sample: Sample) -> list[Part]:
    """A document's texts and codes in order; DamagedSampleError where one is missing."""
    try:
        listed = json.loads(bytes(sample.files["json"]))["segments"]
        parts: list[Part] = []
        for one in listed:
            if isinstance(one, str):
                parts.append(one)
                continue
            contents = sample.files[f"{int(one['codes'])}.codes.npy"]
            codes = decode_codes(Sample(sample.key, {"codes.npy": contents}))
            parts.append((int(one["source"]), codes.astype(np.int64)))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSampleError(f"its document is not whole ({error})") from error
    return parts


class Documents(list[list[Part]]):
    """Documents of a batch; a list of rows in brackets takes these rows, as of a tensor."""

    def __getitem__(self, rows: Any) -> Any:
        return Documents(self[row] for row in rows) if isinstance(rows, list) else super().__getitem__(rows)


@dataclass(frozen=True)
class DocumentBatch:
    """Documents of one step."""

    step: int
    """Number of the global batch."""
    documents: Documents
    """B documents."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Empty."""


class DocumentDecoder:
    """Fills batches of documents; nothing random is done to them."""

    batch = DocumentBatch

    def __init__(self, index: ShardIndex, seed: int | None = None):
        pass

    def allocate(self, rows: int) -> Documents:
        """Room for so many documents."""
        return Documents([] for _ in range(rows))

    def fill(self, sample: Sample, epoch: int, buffer: Documents, row: int) -> None:
        """Read one document into a row; DamagedSampleError where it isn't whole."""
        buffer[row] = parts_of(sample)


def check(sample: Sample, max_size: int) -> tuple[None, str]:
    """DamagedSampleError unless the document is whole."""
    parts_of(sample)
    return None, ""
