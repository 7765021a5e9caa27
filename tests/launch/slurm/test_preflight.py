"""The look at every node: each thing that is off is told in one line that names the node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.command.cli import UserError
from launch.slurm.preflight import begin, compare, gpu_problems, index_problem, look


def report(folder: Path, node: str, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """A node's own report, with something changed."""
    monkeypatch.setenv("SLURMD_NODENAME", node)
    look(folder, 0, [])
    path = folder / f"{node}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin(tmp_path / "preflight")
    return tmp_path / "preflight"


def test_like_nodes_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in ("n1", "n2"):
        report(folder, node, monkeypatch)
    compare(folder, ["n1", "n2"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"commit": "abc"}, "node n2 has commit abc, node n1"),
        ({"versions": {"torch": "1.0"}}, "node n2 has accelerate none, node n1"),
        ({"problems": ["GPU 3 (H100) has 2 uncorrected memory errors"]}, "node n2: GPU 3"),
        ({"token": "another"}, "node n2 sees another"),
    ],
)
def test_what_is_off_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], told: str
) -> None:
    report(folder, "n1", monkeypatch)
    report(folder, "n2", monkeypatch, **changes)
    with pytest.raises(UserError, match=rf"preflight: .*{told.replace('(', '.').replace(')', '.')}"):
        compare(folder, ["n1", "n2"])


def test_a_node_without_a_report_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(folder, "n1", monkeypatch)
    with pytest.raises(UserError, match="node n2 left no report"):
        compare(folder, ["n1", "n2"])


def test_a_node_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shared file system"):
        look(tmp_path / "not here", 0, [])


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, code: int = 0) -> None:
    """A nvidia-smi that prints these lines."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_gpus_are_counted_and_their_errors_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "0, H100, 0, 0\n1, H100, 7, 0\n2, H100, 0, 1")
    assert gpu_problems(4) == [
        "3 GPUs instead of 4",
        "GPU 1 (H100) has 7 uncorrected memory errors",
        "GPU 2 (H100) can't remap its bad memory rows any more",
    ]


def test_a_failing_nvidia_smi_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "Unable to determine the device handle for GPU 0000:0F:00.0", 15)
    (problem,) = gpu_problems(1)
    assert problem.startswith("nvidia-smi failed: Unable")


def test_no_gpus_asked_for_none_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu_problems(0) == []
    assert "nvidia-smi doesn't answer" in gpu_problems(1)[0]


def test_shards_are_looked_up(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3] / "data" / "samples" / "mnist"
    assert index_problem(str(root / "held_out.json")) is None
    missing = tmp_path / "index.json"
    missing.write_text((root / "held_out.json").read_text())
    problem = index_problem(str(missing))
    assert problem is not None
    assert "held_out-000000" in problem
