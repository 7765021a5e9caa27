"""Ctrl-C: the first press ends a command in good order, the second one at once, both with exit code INTERRUPTED.

A terminal sends SIGINT to every process of its foreground group, but not to ranks, which torch starts in groups of
their own; `kill -INT` reaches one process only. So whoever waits for other processes hands the first press on to them
as SIGUSR2, which asks once however often it comes, and the second one as SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import psutil

from launch.command.exit_codes import INTERRUPTED

HANDED_ON = signal.SIGUSR2
"""The first press of Ctrl-C, from a process that waits for this one."""


class _Presses:
    """What this process knows of Ctrl-C."""

    def __init__(self) -> None:
        self.own = 0
        """How often it got SIGINT itself."""
        self.asked = False
        """Whether the first press has had its effect."""
        self.ask: Callable[[], None] | None = None
        """That effect; None: KeyboardInterrupt."""
        self.raised = False
        """Whether it was KeyboardInterrupt."""
        self.listening = False
        """Whether the handlers below are in place."""

    def came(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of both signals."""
        again = number == signal.SIGINT and self.own > 0
        self.own += number == signal.SIGINT
        if again:
            end_at_once()
        if self.asked:
            return
        self.asked = True
        if self.ask is not None:
            self.ask()
            return
        self.raised = True
        raise KeyboardInterrupt


_presses = _Presses()


def listen() -> None:
    """Handle Ctrl-C from now on as described above, until the process ends. In the main thread."""
    _presses.ask = None
    if not _presses.listening:
        _presses.listening = True
        _handle(_presses.came)


def leave() -> None:
    """The process is about to end, and its exit code is known: only a second press ends it earlier from now on."""
    signal.signal(HANDED_ON, signal.SIG_IGN)
    _presses.ask = _pass


def asked() -> bool:
    """Whether Ctrl-C was pressed."""
    return _presses.asked


def raised() -> bool:
    """Whether Ctrl-C raised KeyboardInterrupt, which libraries may turn into errors of their own."""
    return _presses.raised


def _pass() -> None:
    """What a first press does when nothing is left to interrupt."""


@contextlib.contextmanager
def asking(ask: Callable[[], None]) -> Iterator[None]:
    """In the block the first press calls `ask`, in the main thread, instead of raising KeyboardInterrupt.

    The second press ends the process, and those that it started. Without `listen`, what was before is put back.
    """
    before, state = _presses.ask, (_presses.own, _presses.asked)
    _presses.ask = ask
    handlers = None if _presses.listening else _handle(_presses.came)
    try:
        yield
    finally:
        _presses.ask = before
        if handlers is not None:
            _presses.own, _presses.asked = state
            for number, handler in handlers.items():
                signal.signal(number, handler)


def hand_on() -> None:
    """Tell the processes that this one waits for that Ctrl-C was pressed; KeyboardInterrupt where there is none yet."""
    if not to_children(HANDED_ON):
        raise KeyboardInterrupt


def to_children(number: int) -> bool:
    """Send a signal to the processes that this one started; whether there is any."""
    children = psutil.Process().children()
    for child in children:
        with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
            child.send_signal(number)
            child.send_signal(signal.SIGCONT)  # a stopped one would not hear it
    return bool(children)


def leave_to_parent() -> None:
    """Ignore Ctrl-C in a worker process, which the terminal tells too: its parent ends it."""
    _handle(signal.SIG_IGN)


def end_at_once() -> None:
    """End this process and all that it started."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    os._exit(INTERRUPTED)


def _handle(handler: Any) -> dict[signal.Signals, Any]:
    """Put a handler in place; those that were there before."""
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, HANDED_ON)}
