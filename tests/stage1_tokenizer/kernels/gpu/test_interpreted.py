"""Runs the tests of Triton's programs in its interpreter, in a process of its own with TRITON_INTERPRET set."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy
import pytest

from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.kernels.gpu.compiling import need_triton

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_programs_compute_what_the_plain_forms_do(file: Path) -> None:
    need_triton()
    if [int(part) for part in version("triton").split(".")[:2]] < [3, 9] and numpy.lib.NumpyVersion(
        numpy.__version__
    ) >= "2.4.0":
        pytest.skip("the interpreter of triton before 3.9 may need numpy before 2.4; with 3.6 it does")
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file)]
    environment = tiny.environment() | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
