"""Bytes of remote files; dropped connections, busy servers and stalls are retried.

`http(s)://` goes through the standard library, `pipe:` through webdataset's opener, everything else (`s3://`, `gs://`,
`hf://`, …) through fsspec and the package that it names for the scheme.
"""

from __future__ import annotations

import http.client
import logging
import random
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from launch.command.cli import UserError, reason

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_RANGE = 1 << 23
_LONGEST_PAUSE = 30.0
_FINAL_STATUS = {400, 401, 403, 404, 405, 410, 416}
_jitter = random.Random()
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How a failed remote read is retried; see the fields of data.config.CodeDataConfig."""

    retries: int = 8
    retry_pause: float = 0.5
    stall_seconds: float = 30.0


class FinalError(Exception):
    """Retrying is useless: the file isn't there, or may not be read."""


def printable(url: str) -> str:
    """The URL without user, password and query: those may hold secrets, and messages are logged."""
    if url.startswith("pipe:"):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class RemoteFile:
    """A remote file that can be read and sought in; failed reads resume where they stopped.

    UserError, naming the file, when it isn't there or `patience` is exhausted. `size` is None where the server doesn't
    tell. Bytes from `stop` on are not requested. `stopped`, set by another thread, ends the waiting.
    """

    def __init__(
        self,
        url: str,
        patience: Patience,
        *,
        start: int = 0,
        stop: int | None = None,
        stopped: threading.Event | None = None,
    ):
        self.url, self.offset, self._stop = url, start, stop
        self.size: int | None = None
        self._patience, self._stopped = patience, stopped or threading.Event()
        self._body: _HttpBody | _PipeBody | _FsspecBody | None = None
        self._failures = 0

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end of the file."""
        pieces, left = [], count
        while left > 0 and (piece := self._some(min(left, _CHUNK))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def seek(self, offset: int) -> int:
        """Go to an offset: a short way forward by reading, else by opening the file again."""
        if 0 <= offset - self.offset <= _CHUNK or (offset > self.offset and self.url.startswith("pipe:")):
            while self.offset < offset and self._some(min(offset - self.offset, _CHUNK)):
                pass
        elif offset != self.offset:
            self.close()
        self.offset = offset
        return offset

    def close(self) -> None:
        """Close the connection."""
        body, self._body = self._body, None
        if body is not None:
            try:
                body.close()
            except Exception as error:  # a connection that fails to close is closed all the same
                _log.debug("closing %s: %s", printable(self.url), error)

    def _some(self, count: int) -> bytes:
        while True:
            try:
                self._open()
                assert self._body is not None
                piece = self._body.read(count)
                if not piece and self.size is not None and self.offset < self.size:
                    raise ConnectionError(f"the connection ended at byte {self.offset} of {self.size}")
            except FinalError as error:
                raise UserError(
                    f"{printable(self.url)} can't be read ({error}): check the address and the rights"
                ) from error
            except Exception as error:  # every transport has its own exceptions; all others are worth a retry
                self._failed(error)
                continue
            self.offset += len(piece)
            self._failures = 0 if piece else self._failures
            return piece

    def _open(self) -> None:
        if self._body is None:
            self._body = _opened(self.url, self.offset, self._stop, self._patience.stall_seconds)
            if self._body.size is not None:
                if self.size not in (None, self._body.size):
                    raise FinalError(f"its size changed from {self.size} to {self._body.size} bytes")
                self.size = self._body.size

    def _failed(self, error: Exception) -> None:
        """Wait before the next attempt; UserError after the last."""
        self.close()
        self._failures += 1
        name, patience = printable(self.url), self._patience
        what = f"nothing came for {patience.stall_seconds:g} s" if isinstance(error, TimeoutError) else reason(error)
        if self._failures >= patience.retries:
            raise UserError(
                f"shard {name} can't be read at byte {self.offset}, {self._failures} attempts failed ({what}): "
                "resume when it can be reached, or increase data.retries"
            ) from error
        _log.warning(
            "shard %s, byte %d: %s; attempt %d of %d", name, self.offset, what, self._failures + 1, patience.retries
        )
        pause = min(patience.retry_pause * 2 ** (self._failures - 1), _LONGEST_PAUSE)
        if self._stopped.wait(pause * (0.75 + 0.5 * _jitter.random())):
            raise UserError(f"shard {name}: reading was stopped")


def fetch(url: str, start: int, stop: int | None, patience: Patience, stopped: threading.Event | None = None) -> bytes:
    """Bytes `start` to `stop` - 1 of a remote file (None: to its end). UserError as in RemoteFile."""
    with closing(RemoteFile(url, patience, start=start, stop=stop, stopped=stopped)) as file:
        contents = file.read(sys.maxsize if stop is None else stop - start)
    if stop is not None and len(contents) < stop - start:
        raise UserError(f"{printable(url)} ends at byte {start + len(contents)}: its index is of another file")
    return contents


def _opened(url: str, start: int, stop: int | None, seconds: float) -> _HttpBody | _PipeBody | _FsspecBody:
    if url.startswith(("http://", "https://")):
        return _HttpBody(url, start, stop, seconds)
    if url.startswith("pipe:"):
        return _PipeBody(url, start, seconds)
    return _FsspecBody(url, start, stop, seconds)


class _HttpBody:
    def __init__(self, url: str, start: int, stop: int | None, seconds: float):
        last = "" if stop is None else stop - 1
        headers = {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity", "User-Agent": "vqloom"}
        try:
            self._response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=seconds)
        except urllib.error.HTTPError as error:
            error.close()
            kind = FinalError if error.code in _FINAL_STATUS else ConnectionError
            raise kind(f"HTTP status {error.code}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError from error
            raise
        length = self._response.headers.get("Content-Length")
        whole = self._response.headers.get("Content-Range", "").rpartition("/")[2]
        if self._response.status == http.client.PARTIAL_CONTENT:
            self.size = int(whole) if whole.isdigit() else None
        else:
            self.size = int(length) if length else None
            _skip(self.read, start)

    def read(self, count: int) -> bytes:
        return self._response.read1(count)

    def close(self) -> None:
        self._response.close()


class _PipeBody:
    size: int | None = None

    def __init__(self, url: str, start: int, seconds: float):
        import webdataset

        self._seconds = seconds
        self._stream: Any = webdataset.gopen(url, "rb")
        _skip(self.read, start)

    def read(self, count: int) -> bytes:
        return within(self._seconds, lambda: self._stream.read(count))

    def close(self) -> None:
        within(self._seconds, self._stream.close)


class _FsspecBody:
    """Reads ranges of a few megabytes: file objects of some schemes are shared between threads."""

    def __init__(self, url: str, start: int, stop: int | None, seconds: float):
        import fsspec

        try:
            self._filesystem, self._path = fsspec.core.url_to_fs(url)
            self.size: int | None = within(seconds, lambda: self._filesystem.size(self._path))
        except (FileNotFoundError, PermissionError) as error:
            raise FinalError(reason(error)) from error
        except (ImportError, ValueError) as error:
            raise FinalError(f"fsspec can't open it: {error}") from error
        self._offset, self._seconds = start, seconds
        self._stop = min(end for end in (stop, self.size, sys.maxsize) if end is not None)
        self._buffer = memoryview(b"")

    def read(self, count: int) -> bytes:
        if not self._buffer and self._offset < self._stop:
            first, last = self._offset, min(self._offset + _RANGE, self._stop)
            self._buffer = memoryview(within(self._seconds, lambda: self._filesystem.cat_file(self._path, first, last)))
            self._offset += len(self._buffer)
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        return bytes(piece)

    def close(self) -> None:
        self._buffer = memoryview(b"")


def _skip(read: Callable[[int], bytes], count: int) -> None:
    while count > 0:
        piece = read(min(count, _CHUNK))
        if not piece:
            raise ConnectionError("the connection ended early")
        count -= len(piece)


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
