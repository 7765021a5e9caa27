"""The set-up: pins for all that is installed directly, and scripts that pass shellcheck."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from launch import setup_env
from launch.stages.figures import setup_seconds

ROOT = Path(__file__).parent.parent.parent


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", requirement)[0]).lower()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}
    assert {name_of(requirement) for requirement in wanted} <= pinned
    assert next(line for line in lines if "==" in line).startswith("torch==")


def test_a_set_up_environment_is_found_ready() -> None:
    assert setup_env.problem("json") == ""
    assert "no_such_module" in setup_env.problem("no_such_module")
    assert not setup_env.mend_torchvision()


@pytest.mark.parametrize("option", ["--help", "--out"])
def test_quickstart_answers_before_it_installs(option: str) -> None:
    done = subprocess.run(
        ["bash", "launch/quickstart.sh", option], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if option == "--help":
        assert (done.returncode, "--processes N" in done.stdout) == (0, True)
    else:
        assert (done.returncode, done.stderr) == (2, "error: --out needs a folder\n")


def test_the_pipeline_refuses_an_unknown_set() -> None:
    line = [sys.executable, "-m", "launch.pipeline", "--data", "imagenet"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "imagenet is no sample set" in done.stderr


def test_the_time_of_the_setup_is_found(tmp_path: Path) -> None:
    assert setup_seconds(tmp_path) is None
    (tmp_path / ".vqloom-setup").write_text("run 0123abc\nseconds 96\n")
    assert setup_seconds(tmp_path) == 96
