"""Opens a shard so that its tar can be read by offset: a local one, gzipped or not, or a remote one."""

import gzip
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Protocol

from data.remote.files import Patience, RemoteFile, Versions, whole
from data.shards.locations import is_remote


def open_plain(path: str | Path) -> int:
    """A file descriptor for `os.pread` over the shard's plain tar bytes; the caller closes it.

    A `.tar.gz` is unpacked into an anonymous temporary file, which vanishes with the descriptor: fine for small sets,
    such as those that ship with the project; re-shard large ones with `data.pack`. OSError for a file that can't be
    read, a truncated or damaged stream included.
    """
    if not str(path).endswith((".tar.gz", ".tgz")):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (EOFError, zlib.error) as error:
            raise OSError(f"{path}: the compressed stream is damaged or ends early ({error})") from error
        plain.flush()
        return os.dup(plain.fileno())


class OpenShard:
    """A shard's plain tar bytes; its descriptor is closed once no thread uses it."""

    def __init__(self, path: str):
        self._descriptor = open_plain(path)

    def read(self, first: int, last: int) -> bytes:
        """Bytes `first` to `last` - 1; fewer at the end. OSError where they can't be read."""
        return os.pread(self._descriptor, last - first, first)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class RemoteShard:
    """A remote shard's bytes, one request for each stretch. UserError where they can't be read or changed."""

    def __init__(self, url: str):
        self._url, self._versions = url, Versions()

    def read(self, first: int, last: int) -> bytes:
        """Bytes `first` to `last` - 1."""
        return whole(RemoteFile(self._url, Patience(), start=first, stop=last, versions=self._versions))


class Readable(Protocol):
    """An open shard."""

    def read(self, first: int, last: int, /) -> bytes:
        """Bytes `first` to `last` - 1."""
        ...


def open_shard(location: str) -> Readable:
    """The shard at a path or URL. OSError where a local one can't be read."""
    return RemoteShard(location) if is_remote(location) else OpenShard(location)
