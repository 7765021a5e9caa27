"""Trials of mutants in forked processes: torch, the project and all tests are loaded once, a mutant costs its tests."""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutation.forks import fork_ranks, in_children
from tests.mutation.mutants import Mutant, mutated
from tests.mutation.reach import Recorder, forget_changed, read, version

OPTIONS = ("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-W", "ignore")
PATIENCE = 20.0
"""A trial may take three times as long as its tests did, and this many seconds more."""
NOT_APPLIED = 71
CAUGHT, SURVIVED, UNREACHED, TIMEOUT = "caught", "survived", "no test", "timeout"


class Session:
    """A pytest plugin: collects the tests once, and in place of running them does `work` with them."""

    def __init__(self, work: Callable[[list[pytest.Item]], None]) -> None:
        self.work = work
        self.failed = ""
        self.collected = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that doesn't load."""
        self.collected &= not report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Work, instead of running the tests."""
        self.work([item for item in session.items if not item.get_closest_marker("slow")])
        return True


class Failing:
    """A pytest plugin: notes the first failure."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note it."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def record(items: list[pytest.Item], root: Path, paths: set[str], out: Path, workers: int, patience: float) -> None:
    """Record which tests reach which lines, for test files that have changed; each in a process."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    known = forget_changed(out, {(name, version(chosen[0].path)) for name, chosen in files.items()})
    ranks = Path(tempfile.mkdtemp(prefix="ranks-"))

    def recording(chosen: list[pytest.Item]) -> Callable[[], int]:
        def run() -> int:
            fork_ranks()
            own = Path(tempfile.mkdtemp(dir=ranks))
            recorder = Recorder(root, paths, out, own)
            chosen[0].config.pluginmanager.register(recorder)
            recorder.run(chosen)
            return 0

        return run

    jobs = [(name, recording(chosen), patience) for name, chosen in files.items() if name not in known]
    for name, code, word, seconds in in_children(jobs, workers):
        print(f"recorded {name} in {seconds:.0f} s" + ("" if code == 0 else f" (exit {code} {word})"), flush=True)
        if code != 0:  # cut short: what was recorded of it is all there will be
            note = {"test": f"{name}::", "version": version(files[name][0].path), "seconds": seconds}
            save(out, note | {"passed": False, "lines": {}})
    shutil.rmtree(ranks)


class Trials:
    """Trials of mutants against the tests that reach them, with at most `budget` seconds of tests each.

    The tests of the module's own folder come first, and of these those that run the fewest lines: they look closest.
    """

    def __init__(self, root: Path, reached: Path, workers: int, budget: float) -> None:
        self.root, self.workers, self.budget = root, workers, budget
        self.records = read(reached)
        self.broken_file = reached.with_name("broken.json")
        self.broken = set(json.loads(self.broken_file.read_text())) if self.broken_file.exists() else set()

    @lru_cache(2)  # noqa: B019
    def _of(self, path: str) -> list[tuple[str, float, set[int]]]:
        """The tests in files that run some line of a module: names, seconds and lines, in the order of trials."""
        mirrored = f"tests/{Path(path).parent}/"
        files = {record["test"].partition("::")[0] for record in self.records if path in record["lines"]}
        found = [
            (record["test"], record["seconds"], set(record["lines"].get(path, ())))
            for record in self.records
            if record["test"].partition("::")[0] in files and record["test"] not in self.broken
        ]
        extent = {record["test"]: sum(map(len, record["lines"].values())) for record in self.records}
        return sorted(found, key=lambda test: (not test[0].startswith(mirrored), extent[test[0]]))

    def tests(self, path: str, mutant: Mutant | None = None) -> tuple[list[str], float]:
        """The tests that run a line of the mutant, and their seconds; what runs at import can be seen by any."""
        chosen, total = [], 0.0
        lines = None if mutant is None or mutant.at_import else {*range(mutant.line, mutant.last_line + 1)}
        for name, seconds, seen in self._of(path):
            if (not chosen or total + seconds <= self.budget) and (lines is None or lines & seen):
                chosen.append(name)
                total += seconds
        return chosen, total

    def inside(self, items: list[pytest.Item], wanted: list[Mutant]) -> Iterator[dict[str, Any]]:
        """Mutants of functions: the collected functions get the changed code."""
        by_name = {item.nodeid: item for item in items}
        for path in {mutant.path for mutant in wanted}:  # commands import some of them late
            importlib.import_module(path.removesuffix(".py").replace("/", "."))
        functions = self._functions({mutant.path for mutant in wanted})
        gc.collect()
        gc.freeze()

        def trial(mutant: Mutant | None, names: list[str]) -> int:
            if mutant is not None:
                try:
                    swapped = swap(functions[mutant.path], mutated(mutant, self.root))
                except ValueError:
                    swapped = 0
                if not swapped:
                    return NOT_APPLIED
            return run_items([by_name[name] for name in names if name in by_name])

        yield from self._all(wanted, trial)

    def at_import(self, wanted: list[Mutant]) -> Iterator[dict[str, Any]]:
        """Mutants of what runs at import: the project is imported anew, with the changed module."""

        def trial(mutant: Mutant | None, names: list[str]) -> int:
            if mutant is not None:
                load_mutated(self.root / mutant.path, mutated(mutant, self.root))
            session = Session(lambda items: os._exit(run_items(items)))
            pytest.main([*OPTIONS, *names], plugins=[session])
            return 1  # the tests could not be collected

        yield from self._all(wanted, trial)

    def _all(self, wanted: list[Mutant], trial: Callable[[Mutant | None, list[str]], int]) -> Iterator[dict[str, Any]]:
        jobs, alone = [], []
        for mutant in wanted:
            names, seconds = self.tests(mutant.path, mutant)
            if names:
                jobs.append((mutant, partial(trial, mutant, names), 3 * seconds + PATIENCE))
            else:
                alone.append(mutant)
        for mutant in alone:
            yield _result(mutant, UNREACHED, "", 0.0)
        for mutant, code, word, seconds in in_children(jobs, self.workers):
            result = {None: TIMEOUT, 0: SURVIVED, NOT_APPLIED: "not applied"}.get(code, CAUGHT)
            yield _result(mutant, result, "" if result == SURVIVED else word, seconds)

    def control(self, items: list[pytest.Item], caught_by: dict[str, set[str]]) -> None:
        """Run the tests that caught mutants of a module with nothing changed; those that fail are left out from now on.

        They are added to broken.json: what they caught must be tried again.
        """
        by_name = {item.nodeid: item for item in items}
        jobs = []
        for path, names in caught_by.items():
            chosen = [by_name[name] for name, *_ in self._of(path) if name in names and name in by_name]
            jobs.append((path, partial(run_items, chosen), 10 * self.budget + PATIENCE))
        for path, code, word, _ in in_children([job for job in jobs if caught_by[job[0]]], self.workers):
            if code:
                print(f"{word} fails without a change (exit code {code}): what it caught of {path} is tried again")
                self.broken.add(word)
        self.broken_file.write_text(json.dumps(sorted(self.broken)))

    def _functions(self, paths: set[str]) -> dict[str, list[FunctionType]]:
        found: dict[str, list[FunctionType]] = {path: [] for path in paths}
        names = {str(self.root / path): path for path in paths}
        for entry in gc.get_objects():
            if isinstance(entry, FunctionType) and (name := names.get(entry.__code__.co_filename)):
                found[name].append(entry)
        return found


def _result(mutant: Mutant, result: str, word: str, seconds: float) -> dict[str, Any]:
    return {
        "key": mutant.key,
        "path": mutant.path,
        "function": mutant.function,
        "line": mutant.line,
        "operator": mutant.operator,
        "text": mutant.text,
        "change": mutant.change,
        "result": result,
        "by": word,
        "seconds": round(seconds, 2),
    }


def run_items(items: list[pytest.Item]) -> int:
    """Run tests until the first fails: 1 then, else 0. The name of the last one run is left in the file `word`."""
    if not items:
        return 0
    fork_ranks()
    random.seed(0)
    failing = Failing()
    items[0].config.pluginmanager.register(failing)
    word = Path(os.environ["TMPDIR"]) / "word"
    for place, item in enumerate(items):
        word.write_text(item.nodeid)
        following = items[place + 1] if place + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failing.failed:
            return 1
    return 0


def swap(functions: list[FunctionType], module: CodeType) -> int:
    """Give the functions of a module the code of the same names and lines in a changed one; how many are other ones."""
    swapped = 0
    codes = {(code.co_qualname, code.co_firstlineno): code for code in _codes(module)}
    for function in functions:
        old = function.__code__
        new = codes.get((old.co_qualname, old.co_firstlineno))
        if new is not None and new != old:
            function.__code__ = new  # ValueError where the change takes other variables of an outer function
            swapped += 1
    return swapped


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def load_mutated(path: Path, code: CodeType) -> None:
    """Let the module at `path` be imported with other code."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def get(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        return code if Path(loader.path) == path else get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get  # type: ignore[method-assign]


def save(path: Path, result: dict[str, Any]) -> None:
    """Append one result to a file of JSON lines."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")
