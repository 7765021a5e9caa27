"""Writes WebDataset tar shards: deterministic bytes, atomic files, resumable shard by shard.

While a set is being written, its folder looks like this:

    OUT/train-000000.tar           finished shards, in place
    OUT/.unfinished/plan.json      what is being written; another plan is refused
    OUT/.unfinished/train-000000.tar.json   one record per finished shard
    OUT/.unfinished/*.part         half-written shards of live processes

`finish` writes the index files and removes `.unfinished`. After a kill at any moment, a restart keeps the shards that
have a record and writes the others again, with the same bytes.
"""

import dataclasses
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.shards.index import Shard, ShardIndex, offsets_path
from data.shards.offsets import ShardOffsets
from data.shards.quarantine import quarantine_path
from launch.command.cli import UserError
from launch.files.atomic import sync_folder, write_file, writing

Sample = tuple[str, Mapping[str, bytes]]
"""(key, {extension: bytes}): `("n01440764/0001", {"jpg": ..., "cls": b"3"})`."""

STATE = ".unfinished"


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """One finished shard, as its index lists it."""

    url: str
    """File name, relative to the index."""
    nsamples: int
    filesize: int
    sha256: str
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the writing process needs after a restart (skipped samples, histograms); JSON values only."""


def check_key(key: str) -> str:
    """The key, if it is a valid one for a tar member; else ValueError.

    Refused: empty, absolute, `..` or empty parts, a dot in the last part (WebDataset splits key and extension there),
    backslashes and control characters.
    """
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"key {key!r} has an empty, '.' or '..' part")
    if "." in parts[-1]:
        raise ValueError(f"key {key!r} has a dot in its last part, where the extension begins")
    if "\\" in key or any(ord(letter) < 32 for letter in key):
        raise ValueError(f"key {key!r} has a backslash or a control character")
    return key


def fit_key(name: str) -> str:
    """A valid key made from any name: no dots in the last part, no `..`, nothing absolute, no control characters."""
    parts = [part for part in re.sub(r"[\\\x00-\x1f\x7f]", "_", name).split("/") if part not in ("", ".", "..")]
    if not parts:
        return "_"
    parts[-1] = parts[-1].replace(".", "_")
    return "/".join(parts)


def free_key(key: str, taken: Container[str], number: int) -> str:
    """The key, with `-number` behind it as often as it takes until it is none of those taken in the shard."""
    while key in taken:
        key = f"{key}-{number}"
    return key


class _Hashed(io.RawIOBase):
    """Forwards writes and hashes them."""

    def __init__(self, target: IO[bytes]):
        self._target, self.digest = target, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        if self._target.closed:
            return len(block)  # an abandoned tar tries to write its end when it is collected
        self.digest.update(block)
        return self._target.write(block)


def write_tar(path: Path, samples: Iterable[Sample], *, part: Path | None = None) -> tuple[ShardRecord, list[int]]:
    """Write one shard atomically, as `.tar` or `.tar.gz` by its name.

    Also returns the offset of each sample in the plain tar, and that of the last one's end. The bytes depend on the
    samples alone (no times, no user names). Raises ValueError for a key that occurs twice or that `check_key` refuses;
    then, or when `samples` raises, no file is left.
    """
    with writing(path, part=part) as file:
        hashed = _Hashed(file)
        offsets = _write_samples(hashed, samples, compressed=path.suffix == ".gz")
        size = file.tell()
    return ShardRecord(path.name, len(offsets) - 1, size, hashed.digest.hexdigest()), offsets


def _write_samples(file: Any, samples: Iterable[Sample], *, compressed: bool) -> list[int]:
    from webdataset.writer import TarWriter

    stream = gzip.GzipFile("", "wb", 9, file, mtime=0) if compressed else file
    seen: set[str] = set()
    starts = []
    writer = TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False)
    for key, members in samples:
        if check_key(key) in seen:
            raise ValueError(f"key {key!r} occurs twice in one shard")
        seen.add(key)
        starts.append(writer.tarstream.offset)
        writer.write({"__key__": key, **members})
    starts.append(writer.tarstream.offset)
    writer.close()
    if compressed:
        stream.close()
    return starts


class ShardWriter:
    """A folder of shards being written by one or more processes.

    One process calls `begin`, then any number (each with its own ShardWriter of the same folder) call `finished` and
    `write`, then the first calls `finish`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.name = str(folder)
        """The set's place, in messages."""
        self._state = self.folder / STATE
        self._lock: IO[str] | None = None

    def begin(self, plan: Mapping[str, Any], indexes: Iterable[str], *, overwrite: bool = False) -> None:
        """Start or resume a set described by `plan` (JSON values) whose index files will be `indexes`.

        Raises UserError where the folder holds a finished set (without `overwrite`) or another unfinished one, and
        where another process is writing it.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        there = [name for name in indexes if self.there(name)]
        text = json.dumps(plan, indent=1, sort_keys=True)
        unfinished, requested = self.unfinished_plan(), json.loads(text)
        if there and not unfinished and not overwrite:
            self._drop_state()
            self.refuse_finished(there)
        if unfinished and unfinished != requested and not overwrite:
            key = next(k for k in sorted({*unfinished, *requested}) if unfinished.get(k, ...) != requested.get(k, ...))
            raise UserError(f"out={self.name} holds an unfinished set made with another {key} "
                            f"({unfinished.get(key)!r}, now {requested.get(key)!r}): use the same "
                            "options, choose another folder, or pass --overwrite true to start again")  # fmt: skip
        if overwrite and unfinished != requested:
            self._remove_old(there)
        for left in (*self._state.glob("*.part"), *self._state.glob(".*.part")):
            left.unlink(missing_ok=True)
        write_file(self._state / "plan.json", text)

    def unfinished_plan(self) -> dict[str, Any]:
        """The plan of the set that is unfinished here; empty where there is none."""
        plan_file = self._state / "plan.json"
        return dict(json.loads(plan_file.read_text())) if plan_file.exists() else {}

    def refuse_finished(self, indexes: Iterable[str]) -> None:
        """UserError where one of these index files is there and no unfinished set; writes nothing."""
        for name in indexes:
            if self.there(name) and not self.unfinished_plan():
                raise UserError(f"out={self.name} holds a finished set ({name}): choose another folder, "
                                "or pass --overwrite true to replace it")  # fmt: skip

    def finished(self, name: str) -> ShardRecord | None:
        """The record of a shard that is written already, else None."""
        try:
            record = ShardRecord(**json.loads((self._state / f"{name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if self.size(name) == record.filesize else None

    def there(self, name: str) -> bool:
        """Whether the set's place holds a file."""
        return (self.folder / name).exists()

    def size(self, name: str) -> int | None:
        """Bytes of a file there; None if it is missing."""
        return (self.folder / name).stat().st_size if self.there(name) else None

    def local(self, name: str) -> Path:
        """A local path of a file there."""
        return self.folder / name

    def refresh(self) -> None:
        """See what other processes have written meanwhile."""

    def keep(self, record: ShardRecord) -> None:
        """Take over a shard that another process has written to `folder`."""

    def add(self, name: str, content: str | bytes) -> None:
        """Write a further file of the set."""
        write_file(self.folder / name, content, part=self._state / f"{name}.part" if self._state.exists() else None)

    def remove(self, name: str) -> None:
        """Remove a file of the set, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def write(self, name: str, samples: Iterable[Sample], notes: dict[str, Any] | None = None) -> ShardRecord:
        """Write shard `name`, unless it is there. `notes` may be filled while `samples` is consumed."""
        done = self.finished(name)
        if done is not None:
            return done
        part = self._state / f"{name}.{os.getpid()}.part"
        record, starts = write_tar(self.folder / name, samples, part=part)
        record = dataclasses.replace(record, notes=notes or {})
        write_file(self._state / f"{name}.starts", np.asarray(starts, dtype="<i8").tobytes())
        write_file(self._state / f"{name}.json", json.dumps(dataclasses.asdict(record)))
        return record

    def index(self, records: Iterable[ShardRecord], **about: Any) -> ShardIndex:
        """The index of finished shards, with their offsets; `about` are ShardIndex's further fields."""
        records = list(records)
        shards = tuple(Shard(record.url, record.nsamples, record.filesize, record.sha256) for record in records)
        starts: list[Any] = [np.fromfile(self._state / f"{record.url}.starts", dtype="<i8") for record in records]
        return ShardIndex(shards, base=self.name, offsets=ShardOffsets.from_starts(starts), **about)

    def finish(self, indexes: Mapping[str, ShardIndex], files: Mapping[str, str | bytes] | None = None) -> None:
        """Write the index files (and other files, name → content), which completes the set."""
        for name, content in (files or {}).items():
            self.add(name, content)
        for name, index in indexes.items():
            index.save(self._state / name)
            # The offsets first: an index that exists is complete.
            for written in (offsets_path(self._state / name), self._state / name):
                if written.exists():
                    written.replace(self.folder / written.name)
        sync_folder(self.folder)
        self._drop_state()

    def _take_lock(self) -> None:
        self._lock = (self._state / "lock").open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"out={self.name} is being written by another process: wait for it or stop it") from error

    def _drop_state(self) -> None:
        # The plan first: a kill in here leaves a finished set with an empty state.
        (self._state / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(self._state, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _remove_old(self, indexes: Iterable[str]) -> None:
        """Remove the shards that an earlier set's own lists name, and the lists; nothing else."""
        for record in [path.name for path in self._state.glob("*.tar*.json")]:
            self.remove(record.removesuffix(".json"))
            self.remove(f"{STATE}/{record}")
        for index in indexes:
            for shard in json.loads(self.local(index).read_text()).get("shardlist", []):
                if "/" not in shard["url"]:
                    self.remove(shard["url"])
            path = Path(index)
            for beside in (offsets_path(path), quarantine_path(path), path.with_suffix(".skipped.json")):
                self.remove(str(beside))
            self.remove(index)  # last: after a kill in here the rest is still a set
