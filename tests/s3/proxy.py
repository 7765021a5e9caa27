"""A proxy in front of the real server that counts requests and fails as it is told to."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.data.serving import QuietHandler, listening

Fault = Callable[[str, str, int], str]
"""(method, path, number of the request) → "", or one of FAULTS."""

FAULTS = ("503", "429", "expired", "reset", "truncated", "stall", "slow")
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired: SECRETTOKEN.</Message></Error>"
_HOP = ("connection", "transfer-encoding", "keep-alive")


@dataclass
class Proxy:
    """Its address, and what went through it."""

    url: str = ""
    fault: Fault = lambda method, path, number: ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path with query."""
    bytes_sent: int = 0

    def count(self, ending: str = "") -> int:
        """Requests of objects whose path ends so."""
        return sum(path.partition("?")[0].endswith(ending) for _, path in self.requests)


@contextmanager
def proxied(address: str) -> Iterator[Proxy]:
    """A proxy of the server at HOST:PORT."""
    state, released, lock = Proxy(), threading.Event(), threading.Lock()

    class Handler(QuietHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                state.requests.append((self.command, self.path))
                how = state.fault(self.command, self.path, len(state.requests))
            if how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif how in ("503", "429", "expired"):
                status = 400 if how == "expired" else int(how)
                self.answer(status, [("Content-Type", "application/xml")], _EXPIRED if how == "expired" else b"", "")
            else:
                connection = http.client.HTTPConnection(address, timeout=30)
                try:
                    # The Host header as the client sent it: its signature covers it.
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in _HOP:
                            connection.putheader(name, value)
                    connection.endheaders(body)
                    got = connection.getresponse()
                    headers = [(name, value) for name, value in got.getheaders() if name.lower() not in _HOP]
                    self.answer(got.status, headers, got.read(), how)
                finally:
                    connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, how: str) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body[: len(body) // 2] if how in ("truncated", "stall") else body
            for first in range(0, len(sent), 1 << 16 if how != "slow" else max(1, len(sent) // 10)):
                self.wfile.write(sent[first : first + (1 << 16 if how != "slow" else max(1, len(sent) // 10))])
                time.sleep(0.05 if how == "slow" else 0)
            self.wfile.flush()
            with lock:
                state.bytes_sent += len(sent)
            if how == "stall":
                released.wait(20)
            if how in ("truncated", "stall"):
                self.close_connection = True

    with listening(Handler) as state.url:
        try:
            yield state
        finally:
            released.set()
