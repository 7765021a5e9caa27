"""The protocol of a source."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.shards.locations import is_remote
from data.shards.tally import Tally
from launch.command.cli import UserError

LFS_POINTER = b"version https://git-lfs"
"""Beginning of a file that Git LFS has not fetched."""


@dataclass(frozen=True)
class Raw:
    """One sample as the source holds it: encoded bytes or an array."""

    key: str
    """Its name; packing makes it a valid name of a tar member."""
    encoded: bytes | None = None
    array: np.ndarray | None = None
    """The sample where there are no encoded bytes: of a picture uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    label: int = -1
    """Class number; -1 for none."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of the sample, by extension."""
    notes: tuple[str, ...] = ()
    """What should be told of it: how its caption was read."""
    member: str = ""
    """Extension that the picture has in its source, where it has one."""


class Source:
    """Base of all sources; a subclass fills the fields in its constructor and reads samples in `read`."""

    media: str = "pictures"
    """Kind of the samples (`data.media`)."""
    about: ClassVar[str] = ""
    """What it reads, in a few words for `--help`."""
    remote = False
    """Whether samples come over a network: threads read them then, whose number doesn't follow the cores."""
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
        """Further facts about the set, for the index."""
        self.captioned = 0
        """Samples with a caption, as far as that is known before they are read; above 0, one without is told."""
        self.tally = Tally()
        """What listing passed over or left out, and what should be told. What is read later isn't in it."""
        self.foreseen: Counter[str] = Counter()
        """Labels and captions that listing has seen, which are counted as taken when they are read."""
        self.picture: tuple[str, ...] = ()
        """Extensions of the pictures, the preferred one first, where samples may have several members of that kind."""

    def __len__(self) -> int:
        return sum(len(positions) for positions in self.splits.values())

    def read(self, number: int) -> Raw:
        """Sample `number`. DamagedSampleError (or OSError) where it can't be read."""
        raise NotImplementedError

    @classmethod
    def certain_splits(cls, source: str, splits: Mapping[str, str] | None = None) -> list[str]:
        """Splits that certainly have samples, as far as can be seen quickly, without listing all.

        `splits` is the setting of that name.
        """
        return []

    def overlaps(self, out: Path) -> bool:
        """Whether writing into the folder `out` would change what is read."""
        return False

    def fingerprint(self) -> str:
        """Changes when the source's samples do: a pack is only resumed with the same ones."""
        digest = hashlib.sha256(repr((self.classes, sorted(self.splits))).encode())
        for numbers in (*self.splits.values(), self.labels, self.sizes):
            if numbers is not None:
                digest.update(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
        for name in self.names():
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()

    def names(self) -> Iterable[str]:
        """What distinguishes these samples from others beside labels and sizes: file names."""
        return ()


def place(path: str) -> Path:
    """Where a path or URL is, so that two of them can be compared."""
    return Path(path) if is_remote(path) else Path(path).resolve()


def existing(path: str | Path, what: str) -> Path:
    """The path; UserError, naming `what`, if it doesn't exist."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"source: {what} is missing at {path}: check the path and the kind")
    return path
