"""Which tests run which lines: recorded once, so that a mutant meets only the tests that can see it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

Lines = set[tuple[str, int]]


class Recorder:
    """Writes one JSON line for each test to `out`: its name, seconds, whether it passed, and the lines it ran.

    Lines of a fixture that several tests share count for each of them. `ranks` is a folder for what forked ranks ran.
    """

    def __init__(self, root: Path, paths: set[str], out: Path, ranks: Path) -> None:
        self.names = {str(root / path): path for path in paths}
        self.out, self.ranks = out, ranks
        self.lines: Lines = set()
        self.fixtures: dict[int, Lines] = {}
        self.passed = True
        multiprocessing.util.register_after_fork(self, Recorder.in_rank)

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        """The tracer of calls: looks into functions of the modules in question alone."""
        name = self.names.get(frame.f_code.co_filename)
        if name is None:
            return None
        lines, self_lines = frame.f_code.co_firstlineno, self.lines
        self_lines.add((name, lines))

        def local(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            if event == "line":
                self.lines.add((name, frame.f_lineno))
            return local

        return local

    def in_rank(self) -> None:
        """A forked rank of a test: hand its lines to the test when it ends."""
        self.lines = set()
        path = self.ranks / f"{os.getpid()}.json"
        multiprocessing.util.Finalize(None, lambda: path.write_text(json.dumps(sorted(self.lines))), exitpriority=1000)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Collect the lines of a shared fixture apart."""
        if fixturedef.scope == "function":
            yield
            return
        before, self.lines = self.lines, set()
        yield
        self.fixtures[id(fixturedef)], self.lines = self.lines, before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Only tests that pass can catch a mutant."""
        self.passed &= report.outcome == "passed"

    def run(self, items: list[pytest.Item]) -> None:
        """Run all tests, tracing."""
        for place, item in enumerate(items):
            self.lines, self.passed = set(), True
            started = time.perf_counter()
            threading.settrace(self.trace)
            sys.settrace(self.trace)
            try:
                following = items[place + 1] if place + 1 < len(items) else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            finally:
                sys.settrace(None)
                threading.settrace(None)  # type: ignore[arg-type]
            self._write(item, time.perf_counter() - started)

    def _write(self, item: pytest.Item, seconds: float) -> None:
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for definition in definitions:
                self.lines |= self.fixtures.get(id(definition), set())
        for path in self.ranks.glob("*.json"):
            self.lines |= {(name, line) for name, line in json.loads(path.read_text())}
            path.unlink()
        by_file: dict[str, list[int]] = {}
        for name, line in sorted(self.lines):
            by_file.setdefault(name, []).append(line)
        record = {
            "test": item.nodeid,
            "version": version(item.path),
            "seconds": round(seconds, 3),
            "passed": self.passed,
            "lines": by_file,
        }
        with self.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


def version(path: Path) -> str:
    """Changes when a test file does."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def forget_changed(out: Path, versions: set[tuple[str, str]]) -> set[str]:
    """Drop the records of test files that are not among these (names and versions); the names of those left."""
    records = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    kept = [one for one in records if (one["test"].partition("::")[0], one["version"]) in versions]
    out.write_text("".join(json.dumps(one) + "\n" for one in kept))
    return {one["test"].partition("::")[0] for one in kept}


def read(path: Path) -> list[dict[str, Any]]:
    """The records of the tests that passed, fastest first."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted((record for record in records if record["passed"]), key=lambda record: record["seconds"])
