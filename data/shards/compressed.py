"""Open a local shard so that any byte of its tar can be read by offset, also where the file is compressed."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from pathlib import Path


def is_compressed(path: str | Path) -> bool:
    """Whether a shard's name says that its tar is gzipped."""
    return str(path).endswith((".tar.gz", ".tgz"))


def open_plain(path: str | Path) -> int:
    """A file descriptor for `os.pread` over the shard's plain tar bytes; the caller closes it.

    A `.tar.gz` is unpacked into an anonymous temporary file, which goes away with the descriptor. That suits small sets
    (those that ship with the project are compressed); large compressed sets are better re-sharded with `data.pack`.
    Raises OSError for what cannot be read, a truncated or damaged stream included.
    """
    if not is_compressed(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (EOFError, zlib.error) as error:
            raise OSError(f"{path}: the compressed stream is damaged or ends early ({error})") from error
        plain.flush()
        return os.dup(plain.fileno())
