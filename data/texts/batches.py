"""Texts as samples: a `txt` member, or a `json` one with a "text" in it, and batches of them."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch

from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError, Sample
from data.shards.signature import TEXTS
from data.shards.text import decode_text

FIELD = "text"
"""Of a `json` member, the value that is the text."""


def text_of(sample: Sample) -> str:
    """The whole text of a sample, with its line breaks; DamagedSampleError without one."""
    chosen = next((name for ending in TEXTS for name in sample.files if name.rpartition(".")[2] == ending), None)
    if chosen is None:
        raise DamagedSampleError(f"no text among {', '.join(sample.files)}")
    text = decode_text(bytes(sample.files[chosen]))[0]
    return text_in(text) if chosen.endswith("json") else text


def text_in(line: str) -> str:
    """The text of a JSON object; DamagedSampleError where it has none."""
    try:
        found = json.loads(line)[FIELD]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSampleError(f'its json has no "{FIELD}" ({error})') from error
    if not isinstance(found, str):
        raise DamagedSampleError(f'its json has a "{FIELD}" that is no text')
    return found


class TextRows(list[str]):
    """Texts of a batch; a list of rows in brackets takes these rows, as of a tensor."""

    def __getitem__(self, rows: Any) -> Any:
        return TextRows(self[row] for row in rows) if isinstance(rows, list) else super().__getitem__(rows)


@dataclass(frozen=True)
class TextBatch:
    """Texts of one step."""

    step: int
    """Number of the global batch."""
    texts: TextRows
    """B texts."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """The same texts on one line each."""


class TextDecoder:
    """Fills batches of texts; nothing random is done to them."""

    batch = TextBatch

    def __init__(self, index: ShardIndex, seed: int | None = None):
        pass

    def allocate(self, rows: int) -> TextRows:
        """Room for so many texts."""
        return TextRows([""] * rows)

    def fill(self, sample: Sample, epoch: int, buffer: TextRows, row: int) -> None:
        """Read one sample's text into a row; DamagedSampleError without one."""
        buffer[row] = text_of(sample)


def check(sample: Sample, max_size: int) -> tuple[bytes, str]:
    """The text, of which equal ones are duplicates; DamagedSampleError without one."""
    text = text_of(sample)
    return text.encode(), "" if text.strip() else "an empty text"
