"""Progress of long work: a bar on a terminal, plain lines now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINE_SECONDS = 15.0


class Progress:
    """Counts work done, with rate and remaining time.

    On a terminal it draws a bar; where stderr is a file or a pipe it prints a line every LINE_SECONDS and one at the
    end. `enabled=False` (every rank but one) prints nothing.
    """

    def __init__(self, title: str, total: int | None, *, unit: str, start: int = 0, enabled: bool = True):
        terminal = sys.stderr.isatty()
        self._lines = enabled and not terminal
        self._title, self._total, self._unit = title, total, unit
        self._start, self._done = start, start
        self._began = self._last = time.monotonic()
        self._note = ""
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=f" {unit}",
            initial=start,
            disable=not (enabled and terminal),
            dynamic_ncols=True,
        )

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` (a loss, a file name) stands at the end of the line."""
        self._done += count
        self._note = note or self._note
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._lines and time.monotonic() - self._last >= LINE_SECONDS:
            self._print_line()

    def close(self) -> None:
        """End the bar; in a log, print the final count."""
        if self._lines and self._done > self._start:
            self._print_line()
        self._lines = False
        self._bar.close()

    def _print_line(self) -> None:
        self._last = time.monotonic()
        rate = (self._done - self._start) / max(self._last - self._began, 1e-9)
        of_total = f"/{self._total}" if self._total is not None else ""
        left = ""
        if self._total is not None and rate > 0 and self._done < self._total:
            left = f", {tqdm.format_interval((self._total - self._done) / rate)} left"
        note = f", {self._note}" if self._note else ""
        line = f"{self._title}: {self._done}{of_total} {self._unit}, {rate:.3g} {self._unit}/s{left}{note}"
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def progress(items: Iterable[Item], title: str, *, unit: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a Progress over it."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(title, total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()
