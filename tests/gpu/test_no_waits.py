"""No step of a training, and no sampler, waits for its GPU: whole steps on fake CUDA tensors, without one.

A process of its own runs some rows of tests/gpu/table.py, which has every quantizer, discriminator, loss, network, kind
of prior, condition and precision, and names the lines that would wait.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.watch import ROOT
from tests.stage1_tokenizer import tiny

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="fake CUDA tensors need a C++ compiler")


def printed(module: str, *words: str) -> Any:
    """The JSON that a module prints in a process of its own."""
    line = [sys.executable, "-W", "ignore", "-m", f"tests.gpu.{module}", *words]
    environment = {**tiny.environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_compiler
def test_planted_waits_are_named_with_their_lines() -> None:
    text = (Path(__file__).parent / "planted.py").read_text().splitlines()
    end = next(number for number, line in enumerate(text) if line.startswith("def nothing"))
    planted = {number + 1: line.partition("#")[2].strip() for number, line in enumerate(text[:end]) if "  # " in line}
    del planted[min(planted)]  # the import's remark
    found = printed("planted")
    lines = {int(at.split(":")[1]): at for at in found["waits"]}
    assert lines.keys() == planted.keys()
    for number, what in planted.items():
        assert lines[number].startswith("tests/gpu/planted.py:") and lines[number].endswith(what)
    assert not found["nothing"]
