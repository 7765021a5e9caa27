"""The script for ten minutes on a GPU: its rehearsal runs to the end, and a section that fails loses only itself."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.gpu import evidence
from tests.gpu.evidence import SECTIONS, Section
from tests.gpu.sections.bench import ROOT, Bench, read_lines
from tests.gpu.sections.table import table


@pytest.mark.slow
def test_the_rehearsal_runs_every_section(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.gpu.evidence", "--rehearse", "--out", str(tmp_path), "--gathered", "none"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    lines = read_lines(tmp_path)
    wrong = [one for one in lines if "error" in one]
    assert done.returncode == 0, f"{wrong}\n{done.stderr}"
    assert not wrong
    closed = {one["section"] for one in lines if one.get("ok")}
    assert closed >= {section.number for section in SECTIONS}
    assert {one["note"] for one in lines if one.get("group") == "peers"} == {"not gathered"}
    text = (tmp_path / "table.md").read_text()
    for section in SECTIONS:
        assert f"**{section.number}. {section.title}**" in text
    assert text.startswith("Rehearsed on a CPU"), "nobody may take its numbers for results"


def fine(bench: Bench) -> None:
    bench.row("group", f"of {bench.section}", number=1.0)


def failing(bench: Bench) -> None:
    fine(bench)
    raise ValueError("planted")


def crashing(bench: Bench) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def slow(bench: Bench) -> None:
    fine(bench)
    time.sleep(60)


def hanging(bench: Bench) -> None:
    """As in a call that waits for a device: no signal gets through. What it started is ended too."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    child = subprocess.Popen(["sleep", "60"])
    (bench.out / "child").write_text(str(child.pid))
    time.sleep(60)


def test_a_section_loses_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "WARNING", 0.3)
    planted = [fine, failing, crashing, slow, hanging, fine]
    sections = [Section(number, run.__name__, 1.0, run) for number, run in enumerate(planted)]
    assert not evidence.run(sections, Bench("", tmp_path), 30)
    lines = read_lines(tmp_path)
    closed = {one["section"]: one.get("error", "") for one in lines if "ok" in one}
    assert list(closed) == list(range(len(planted)))
    assert closed[0] == closed[5] == ""
    assert closed[1] == "ValueError: planted"
    assert closed[2] == f"ended by signal {int(signal.SIGKILL)}"
    assert closed[3].startswith("cut short at its deadline")
    assert closed[4] == "killed at its deadline"
    assert [one["section"] for one in lines if "group" in one] == [0, 1, 3, 5], "rows are there at once"
    assert not alive(int((tmp_path / "child").read_text()))
    assert "planted" in (tmp_path / "section-1.log").read_text()
    text = table(lines, [(number, run.__name__) for number, run in enumerate(planted)], rehearsed=False)
    assert "**1. failing**" in text
    assert "| of 3 | 1 |" in text


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_time_that_is_over_is_said(tmp_path: Path) -> None:
    assert not evidence.run([Section(0, "fine", 10, fine), Section(1, "late", 10, fine)], Bench("", tmp_path), 1.0)
    closed = {one["section"]: one["error"] for one in read_lines(tmp_path) if "ok" in one}
    assert closed == {0: "no time was left for it", 1: "no time was left for it"}


def test_a_section_that_cannot_fork_runs_by_itself(tmp_path: Path) -> None:
    """Where an import has started CUDA, section 0 fails, and sections are processes of their own."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "tests.gpu.evidence", "--inside", "3", "--rehearse", "--out", str(tmp_path)]
    assert subprocess.run(line, cwd=ROOT, env=environ, timeout=300, capture_output=True, check=False).returncode == 0
    assert any(one.get("group") == "kernels" for one in read_lines(tmp_path))


def test_wheels_that_are_missing_are_taken_from_the_gathered_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    wheels = tmp_path / "gathered" / "wheels"
    wheels.mkdir(parents=True)
    for name in ("made_up_package", "pytest"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "FROM_A_WHEEL = True")
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
    evidence.prepare(False, tmp_path / "gathered")
    importlib.invalidate_caches()
    assert metadata.version("made-up-package") == "1.0"
    assert importlib.import_module("made_up_package").FROM_A_WHEEL
    unpacked = Path(sys.path[-1])
    assert os.environ["PYTHONPATH"] == str(unpacked)
    assert not (unpacked / "pytest.py").exists(), "what is installed stays"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cifar", "nowhere.tar.gz"], "is not a file"),
        (["--taming", "."], "holds no taming/modules"),
        (["--nonsense", "1"], "is not an option"),
        (["--out"], "needs a value"),
    ],
)
def test_gathering_refuses_what_is_wrong(words: list[str], why: str) -> None:
    line = ["bash", str(ROOT / "tests" / "gpu" / "gather.sh"), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
