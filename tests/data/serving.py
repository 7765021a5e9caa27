"""A loopback HTTP server that serves a folder, with or without ranges, and fails as it is told to."""

from __future__ import annotations

import http.server
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

Fault = Callable[[str, int], str]
"""(path, number of the request) → "", "503", "404", "drop" (in the middle) or "stall"."""


@dataclass
class Served:
    url: str
    requests: list[str] = field(default_factory=list)
    bytes_sent: int = 0


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def listening(handler: type[QuietHandler]) -> Iterator[str]:
    """A server on the loopback; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def served(folder: Path, fault: Fault = lambda path, number: "", ranges: bool = True) -> Iterator[Served]:
    state = Served("")
    released = threading.Event()
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            with lock:
                state.requests.append(self.path)
                number = len(state.requests)
            path = folder / unquote(self.path.lstrip("/").partition("?")[0])
            how = fault(self.path, number)
            if how in ("503", "404") or not path.is_file():
                self.send_error(int(how) if how.isdigit() else 404)
                return
            contents = path.read_bytes()
            total, begin, end = len(contents), 0, len(contents)
            asked = self.headers.get("Range", "") if ranges else ""
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                begin, end = int(first), min(total, int(last) + 1) if last else total
            body = contents[begin:end]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{zlib.crc32(contents):x}"')
            self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
            self.end_headers()
            sent = body if how not in ("drop", "stall") else body[: len(body) // 2]
            self.wfile.write(sent)
            self.wfile.flush()
            with lock:
                state.bytes_sent += len(sent)
            if how == "stall":
                released.wait(20)
            if how in ("drop", "stall"):
                self.close_connection = True

    with listening(Handler) as state.url:
        try:
            yield state
        finally:
            released.set()
