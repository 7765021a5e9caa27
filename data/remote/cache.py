"""Copies of remote shards in a local folder of bounded size, shared by the processes of a machine."""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from data.remote.files import RemoteFile
from launch.command.cli import UserError

_CHUNK = 1 << 22


class ShardCache:
    """Opens local copies of remote shards, downloading them first where needed; the least recently used are removed.

    A copy appears whole or not at all; a second process waits for the first one's download instead of repeating it. A
    copy in use may be removed: a process that has it open can still read it. Copies are known by URL and ETag: a
    changed shard is copied again.
    """

    def __init__(self, folder: str, gigabytes: float):
        self._folder, self._limit = Path(folder), int(gigabytes * 1e9)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache={folder} can't be created ({error.strerror}): set a writable one") from error

    def open(self, file: RemoteFile, size: int | None) -> int:
        """A descriptor of the copy of a file, for reading. UserError where there is none and the download fails."""
        with self._alone(_name(file.url, None)):
            path = self._folder / _name(file.url, file.version().tag)
            while True:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(path, os.O_RDONLY)
                    if size in (None, os.fstat(descriptor).st_size):
                        os.utime(path)
                        return descriptor
                    os.close(descriptor)
                    path.unlink(missing_ok=True)
                self._download(file, path)

    def _download(self, source: RemoteFile, path: Path) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        source.seek(0)
        try:
            with part.open("wb") as file:
                while piece := source.read(_CHUNK):
                    file.write(piece)
            # One at a time, or two shards that arrive together would both claim the same space.
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                self._free(part.stat().st_size)
                part.replace(path)
            finally:
                os.close(folder)
        except OSError as error:
            raise UserError(
                f"data.cache={self._folder} can't be written ({error.strerror}): free some space there"
            ) from error
        finally:
            source.close()
            part.unlink(missing_ok=True)

    def _free(self, needed: int) -> None:
        """Remove the least recently used copies until `needed` more bytes fit."""
        copies = []
        for path in self._folder.glob("*.tar"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime_ns, status.st_size, path))
        total = needed + sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Only one process and thread at a time asks for a shard and downloads it; the lock ends with its holder."""
        lock = self._folder / f".{name}.lock"
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)


def _name(url: str, tag: str | None) -> str:
    stem = Path(urlsplit(url).path).name.removesuffix(".tar")[-60:] or "shard"
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
    known_by = f"{url} {tag}" if tag else url
    return f"{plain}-{hashlib.sha256(known_by.encode()).hexdigest()[:16]}.tar"
