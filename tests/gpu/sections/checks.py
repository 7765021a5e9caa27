"""Section 1: every test that needs a GPU; in a rehearsal the same functions on the CPU (tests/gpu/test_on_gpu.py)."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from tests.gpu.sections.bench import ROOT, Bench

OUTCOME = re.compile(r"^(tests/\S+\.py)::(\S+.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)", re.MULTILINE)
KEPT = 8.0
"""Seconds kept for what comes after pytest."""


def checks(bench: Bench) -> None:
    """Run pytest on the files that have such tests; a row for each file, and one for each test that failed."""
    files = files_with_gpu_tests() if not bench.rehearse else ["tests/gpu/test_on_gpu.py"]
    which = ["-m", "not gpu", "-k", "quantizers or autoregressive"] if bench.rehearse else ["-m", "gpu"]
    line = [sys.executable, "-m", "pytest", "-v", *which, "--tb=short", "-p", "no:cacheprovider", *files]
    path = bench.out / "pytest.txt"
    began = time.monotonic()
    with path.open("w") as file:
        running = subprocess.Popen(line, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            running.wait(max(bench.left() - KEPT, 1))
            late = ""
        except subprocess.TimeoutExpired:
            running.kill()
            late = f"stopped after {time.monotonic() - began:.0f} s"
    found = OUTCOME.findall(path.read_text())
    for name in files:
        outcomes = [outcome for place, _, outcome in found if place == name]
        words = {"passed": "PASSED", "failed": "FAILED", "errors": "ERROR", "skipped": "SKIPPED"}
        counts = {key: outcomes.count(word) for key, word in words.items()}
        bench.row("tests", name, **counts)
    failed = [f"{place}::{test}" for place, test, outcome in found if outcome in ("FAILED", "ERROR")]
    for name in failed:
        bench.row("tests that failed", name, error="see pytest.txt")
    if late:
        bench.row("tests", "all", note=late)
    if failed or late or running.returncode not in (0, 5):
        raise AssertionError(f"{len(failed)} tests failed, pytest ended with {running.returncode} {late}".strip())


def files_with_gpu_tests() -> list[str]:
    """Test files that mark tests with `gpu`."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if re.search(r"\bmarks?\.gpu\b", path.read_text())]
