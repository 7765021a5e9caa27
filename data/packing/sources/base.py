"""The protocol of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from launch.command.cli import UserError


@dataclass(frozen=True)
class Raw:
    """One sample as the source holds it: encoded bytes or an array."""

    key: str
    """Its name; made fit for a tar member by the packer."""
    encoded: bytes | None = None
    """The file's bytes."""
    array: np.ndarray | None = None
    """The sample where there are no encoded bytes: of a picture uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    label: int = -1
    """Class number; -1 for none."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of the sample, by extension."""


class Source:
    """Base of all sources; a subclass fills the fields in its constructor and reads samples in `read`."""

    media: str = "pictures"
    """Kind of the samples (`data.media`)."""
    about: ClassVar[str] = ""
    """What it reads, in a few words for `--help`."""
    options: ClassVar[tuple[str, ...]] = ()
    """Fields of `data.pack.PackConfig` that only this source has; its constructor takes them by these names."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        """File of each sample, where each has its own."""
        self.classes: list[str] = []
        """Class names, or none."""
        self.labels: np.ndarray = np.empty(0, dtype=np.int64)
        """int64 (N,): each sample's class, -1 where there is none or it is only known when read."""
        self.splits: dict[str, np.ndarray] = {}
        """Split name → numbers of its samples, in the source's order."""
        self.sizes: np.ndarray | None = None
        """Bytes of each encoded sample, where that is known without reading it."""
        self.groups: np.ndarray | None = None
        """int64 (N,): samples that are cheap to read together (a Parquet row group) have the same number."""
        self.meta: dict[str, Any] = {}
        """What else is worth telling about the set; goes into the index."""

    def __len__(self) -> int:
        return sum(len(positions) for positions in self.splits.values())

    def read(self, number: int) -> Raw:
        """Sample `number`. DamagedSampleError (or OSError) where it can't be read."""
        raise NotImplementedError

    @classmethod
    def certain_splits(cls, source: str) -> list[str]:
        """Splits that will surely have samples, as far as a short look tells, without listing them all."""
        return []

    def fingerprint(self) -> str:
        """Changes when the source's samples do: a restarted pack goes on only with the same ones."""
        digest = hashlib.sha256(repr((self.classes, sorted(self.splits))).encode())
        for positions in self.splits.values():
            digest.update(np.ascontiguousarray(positions, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        if self.sizes is not None:
            digest.update(np.ascontiguousarray(self.sizes, dtype="<i8").tobytes())
        for name in self.names():
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()

    def names(self) -> Iterable[str]:
        """What tells this source's samples from another's, beside labels and sizes: file names."""
        return ()


def existing(path: str | Path, what: str) -> Path:
    """The path, or a UserError that says what was looked for there."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"source: {what} is missing at {path}: check the path and the kind")
    return path
