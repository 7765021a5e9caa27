"""Bytes of remote files: failed and silent reads are tried again where they stopped, with messages that name the shard.

Object stores and HTTP servers are read by `data.remote.stores`, `pipe:` by webdataset's opener, any further scheme
(`hf://`, …) by fsspec and the package that it names. The attempts are counted here for all of them: a library's own
retries can't be stopped and say nothing.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from data.remote.stores import FinalError, Version, in_store, open_range, without_secrets
from launch.command.cli import UserError, reason

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_LARGE_CHUNK = 1 << 24
_RANGE = 1 << 23
_LONGEST_PAUSE = 30.0
_jitter = random.Random()
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How a failed remote read is retried; see the fields of data.config.CodeDataConfig."""

    retries: int = 8
    retry_pause: float = 0.5
    stall_seconds: float = 30.0


class ChangedError(FinalError):
    """A file is not what it was, or not what its index says."""


class Versions:
    """Holds files to their sizes in an index and, from the first reading on, to the version that was met then."""

    def __init__(self) -> None:
        self.met: dict[str, Version] = {}

    def check(self, url: str, found: Version, size: int | None = None) -> None:
        """ChangedError where the file isn't of this size, or another than before."""
        if size is not None and found.size not in (None, size):
            raise ChangedError(f"has {found.size} bytes, its index says {size}: index it again")
        met = self.met.setdefault(url, found)
        for name, before, now in zip(("size", "ETag"), met, found, strict=True):
            if None not in (before, now) and before != now:
                raise ChangedError(
                    f"changed after this run first read it ({name} {before}, now {now}): put the old one back and "
                    "resume, or index the set again and start a new run"
                )


class RemoteFile:
    """A remote file that can be read and sought in; failed reads resume where they stopped.

    UserError, naming the file, when it isn't there, is of another size than `index_size`, changed, or `patience` is
    exhausted. `size` is None where the server doesn't tell. Bytes from `stop` on are not requested; without it, `chunk`
    bytes are taken at once. `stopped`, set by another thread, ends the waiting.
    """

    def __init__(
        self,
        url: str,
        patience: Patience,
        *,
        start: int = 0,
        stop: int | None = None,
        stopped: threading.Event | None = None,
        versions: Versions | None = None,
        index_size: int | None = None,
        chunk: int = _CHUNK,
    ):
        self.url, self.offset, self.stop = url, start, stop
        self.size: int | None = None
        self._patience, self._stopped = patience, stopped or threading.Event()
        self._versions, self._index_size = versions or Versions(), index_size
        self._pieces: Iterator[bytes] | None = None
        self._chunk = chunk
        self._rest = memoryview(b"")
        self._failures = 0

    def version(self) -> Version:
        """The file's version; a request for one byte tells it, unless it was read before."""
        if self.url not in self._versions.met and not self.url.startswith("pipe:"):
            self.stop, stop = 1, self.stop
            self.read(1)
            self.seek(0)
            self.stop = stop
        return self._versions.met.get(self.url, Version(None))

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end of the file."""
        pieces, left = [], count
        while left > 0 and (piece := self._some(left)):
            pieces.append(piece)
            left -= len(piece)
        one = pieces[0].obj if len(pieces) == 1 else b""
        return one if isinstance(one, bytes) and len(one) == count - left else b"".join(pieces)

    def seek(self, offset: int) -> int:
        """Go to an offset: a short way forward by reading, else by opening the file again."""
        if 0 <= offset - self.offset <= _CHUNK or (offset > self.offset and self.url.startswith("pipe:")):
            while self.offset < offset and self._some(offset - self.offset):
                pass
        elif offset != self.offset:
            self.close()
        self.offset = offset
        return offset

    def close(self) -> None:
        """Close the connection."""
        pieces, self._pieces, self._rest = self._pieces, None, memoryview(b"")
        if pieces is not None and hasattr(pieces, "close"):
            try:
                pieces.close()
            except Exception as error:  # a connection that fails to close is closed all the same
                _log.debug("closing %s: %s", without_secrets(self.url), reason(error))

    def _some(self, most: int) -> memoryview:
        """At most so many of the next bytes; none only at the end."""
        most = min(most, (sys.maxsize if self.stop is None else self.stop) - self.offset)
        while not self._rest or most <= 0:
            if most <= 0 or (self.size is not None and self.offset >= self.size):
                return memoryview(b"")
            try:
                self._rest = memoryview(next(self._opened(), b""))
                if not self._rest and self.size is None:
                    return self._rest
                if not self._rest and self.offset < min(self.size or 0, self.stop or sys.maxsize):
                    raise ConnectionError(f"the connection ended at byte {self.offset}")
            except ChangedError as error:
                raise UserError(f"shard {without_secrets(self.url)} {error}") from None
            except FinalError as error:
                raise UserError(
                    f"{without_secrets(self.url)} can't be read ({error}): check the address and the rights"
                ) from None
            except Exception as error:  # every transport has its own exceptions; all others are worth a retry
                self._failed(error)
        self._failures = 0
        piece, self._rest = self._rest[:most], self._rest[most:]
        self.offset += len(piece)
        return piece

    def _opened(self) -> Iterator[bytes]:
        if self._pieces is None:
            seconds = self._patience.stall_seconds
            opener = open_range if in_store(self.url) else _pipe if self.url.startswith("pipe:") else _fsspec
            # A range that is wanted whole comes in one piece, copied once; after a failure what has come is kept.
            chunk = self._chunk if self.stop is None or self._failures else _LARGE_CHUNK
            self._pieces, version = opener(self.url, self.offset, self.stop, seconds, chunk)
            self.size = version.size
            self._versions.check(self.url, version, self._index_size)
        return self._pieces

    def _failed(self, error: Exception) -> None:
        """Wait before the next attempt; UserError after the last."""
        self.close()
        self._failures += 1
        name, patience = without_secrets(self.url), self._patience
        what = f"nothing came for {patience.stall_seconds:g} s" if isinstance(error, TimeoutError) else reason(error)
        if self._failures >= patience.retries:
            raise UserError(
                f"shard {name} can't be read at byte {self.offset}, {self._failures} attempts failed ({what}): "
                "resume when it can be reached, or increase data.retries"
            ) from None
        _log.warning(
            "shard %s, byte %d: %s; attempt %d of %d", name, self.offset, what, self._failures + 1, patience.retries
        )
        pause = min(patience.retry_pause * 2 ** (self._failures - 1), _LONGEST_PAUSE)
        if self._stopped.wait(pause * (0.75 + 0.5 * _jitter.random())):
            raise UserError(f"shard {name}: reading was stopped")


def whole(file: RemoteFile) -> bytes:
    """All bytes of a file, as far as it was opened for. UserError where it ends before them."""
    with closing(file):
        contents = file.read(sys.maxsize)
    if file.stop is not None and file.offset < file.stop:
        raise UserError(f"{without_secrets(file.url)} ends at byte {file.offset}: its index is of another file")
    return contents


def _pipe(url: str, start: int, stop: int | None, seconds: float, chunk: int) -> tuple[Iterator[bytes], Version]:
    """What a command prints, from byte `start` on."""
    import webdataset

    stream: Any = webdataset.gopen(url, "rb")

    def pieces() -> Iterator[bytes]:
        left = start
        try:
            while piece := within(seconds, lambda: stream.read(chunk)):
                if left < len(piece):
                    yield piece[left:]
                left = max(0, left - len(piece))
        finally:
            within(seconds, stream.close)

    return pieces(), Version(None)


def _fsspec(url: str, start: int, stop: int | None, seconds: float, chunk: int) -> tuple[Iterator[bytes], Version]:
    """Ranges of a few megabytes: file objects of some schemes are shared between threads."""
    files, path = filesystem(url)
    try:
        size = within(seconds, lambda: files.size(path))
    except (FileNotFoundError, PermissionError) as error:
        raise FinalError(reason(error)) from error
    end = min(number for number in (stop, size, sys.maxsize) if number is not None)

    def pieces() -> Iterator[bytes]:
        for first in range(start, end, _RANGE):
            last = min(first + _RANGE, end)
            yield within(seconds, partial(files.cat_file, path, start=first, end=last))

    return pieces(), Version(size)


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it; FinalError where it has none."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise FinalError(f"fsspec can't open it: {error}") from error


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; TimeoutError if it takes longer (its thread then keeps running)."""
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # passed to the waiting thread
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name="data-remote").start()
    return answer.result(timeout=seconds)
