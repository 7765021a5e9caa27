"""Writes a set of shards to a bucket, by the rules of a folder; `set_writer` takes either.

Each shard is made in a local folder, copied, and removed there: the disk holds those that are on their way. What tells
a restart which shards are finished is in the bucket as well, so another machine can go on. The index comes last.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import finalize

from data.remote import stores
from data.remote.files import Patience, RemoteFile, whole
from data.remote.writing import reaching, refuse_read_only, write
from data.shards.index import ShardIndex, offsets_path
from data.shards.locations import is_remote
from data.shards.writer import STATE, Sample, ShardRecord, ShardWriter

_CONNECTIONS = 16


def set_writer(out: str) -> ShardWriter:
    """The writer of a set in a folder, or in a bucket: `s3://`, `gs://` or `az://`. UserError for another URL."""
    if not is_remote(out):
        return ShardWriter(out)
    refuse_read_only(out)
    return BucketWriter(out)


class BucketWriter(ShardWriter):
    """A set being written to a bucket. Processes that are to write shards get `folder`, and this one keeps them."""

    def __init__(self, url: str):
        super().__init__(tempfile.mkdtemp(prefix="vqloom-"))
        self.name = url.rstrip("/")
        self._objects: dict[str, stores.Version] = {}
        finalize(self, shutil.rmtree, str(self.folder), ignore_errors=True)
        self.refresh()

    def refresh(self) -> None:
        """See what the bucket holds now, and copy what tells which shards are finished."""
        with reaching(self.name):
            state = stores.listed(f"{self.name}/{STATE}/")
            top = stores.listed(f"{self.name}/", deep=False)
            self._objects = {url.removeprefix(f"{self.name}/"): version for url, version in (top | state).items()}
        self._state.mkdir(parents=True, exist_ok=True)
        wanted = [name for name in self._objects if name.startswith(f"{STATE}/")]
        for path in self._state.iterdir():
            if path.name != "lock" and f"{STATE}/{path.name}" not in wanted:
                path.unlink()
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(self.local, wanted))

    def local(self, name: str) -> Path:
        """A local copy of a file of the set."""
        path = self.folder / name
        if not path.exists():
            path.write_bytes(whole(RemoteFile(f"{self.name}/{name}", Patience())))
        return path

    def begin(self, plan: Mapping[str, Any], indexes: Iterable[str], *, overwrite: bool = False) -> None:
        """See ShardWriter."""
        super().begin(plan, indexes, overwrite=overwrite)
        self._copy(f"{STATE}/plan.json")

    def there(self, name: str) -> bool:
        """See ShardWriter."""
        return name in self._objects

    def size(self, name: str) -> int | None:
        """See ShardWriter."""
        return self._objects[name].size if name in self._objects else None

    def write(self, name: str, samples: Iterable[Sample], notes: dict[str, Any] | None = None) -> ShardRecord:
        """See ShardWriter."""
        record = super().write(name, samples, notes)
        self.keep(record)
        return record

    def keep(self, record: ShardRecord) -> None:
        """Copy a shard that was written to `folder`, then its record, and remove it here."""
        if (self.folder / record.url).exists():
            for name in (record.url, f"{STATE}/{record.url}.starts", f"{STATE}/{record.url}.json"):
                self._copy(name)
            (self.folder / record.url).unlink()

    def add(self, name: str, content: str | bytes) -> None:
        """See ShardWriter."""
        super().add(name, content)
        self._copy(name)

    def remove(self, name: str) -> None:
        """See ShardWriter."""
        super().remove(name)
        if self._objects.pop(name, None) is not None:
            with reaching(self.name):
                stores.delete(f"{self.name}/{name}")

    def finish(self, indexes: Mapping[str, ShardIndex], files: Mapping[str, str | bytes] | None = None) -> None:
        """See ShardWriter."""
        super().finish(indexes, files)
        for name in indexes:
            for written in (offsets_path(Path(name)).name, name):
                if (self.folder / written).exists():
                    self._copy(written)
        # The plan first: a kill in here leaves a finished set with an empty state.
        for name in sorted(self._objects, key=lambda name: not name.endswith("/plan.json")):
            if name.startswith(f"{STATE}/"):
                self.remove(name)

    def _copy(self, name: str) -> None:
        write(f"{self.name}/{name}", self.folder / name)
        self._objects[name] = stores.Version((self.folder / name).stat().st_size)
