"""Downloads of weights that give up on a silent server: a run should not wait for one for minutes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Inside, sockets that bring nothing for so long raise an OSError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
