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
import torch

from tests.gpu.stage2 import Stage2
from tests.gpu.table import CONFIGS, NEEDS, NOT_HERE, RIDERS, ROWS, choices, known, options, settings
from tests.gpu.wanted import IN_LIBRARIES, IN_STEPS, NOT_YET
from tests.gpu.watch import ROOT, Watch
from tests.stage1_tokenizer import tiny

CPU = torch.device("cpu")
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


def groups() -> list[Any]:
    """The rows of each stage in parts of ten to thirty seconds, for several workers."""
    parts = {"tokenizer": 3, "prior": 1, "sampler": 1}
    return [
        pytest.param(stage, ROWS[stage][part::count], id=f"{stage}-{part + 1}")
        for stage, count in parts.items()
        for part in range(count)
    ]


@needs_compiler
@pytest.mark.parametrize(("stage", "rows"), groups())
def test_steps_do_not_wait(stage: str, rows: list[str]) -> None:
    found = printed("waits", stage, *rows)
    assert found.keys() == set(rows)
    wrong = []
    for row, result in found.items():
        if "error" in result and not any(word in row for word in NOT_YET):
            wrong.append(f"{stage} {row}: {result['error']} {result['at']}")
        allowed = tuple(place for word, place in IN_STEPS if word in row.split())
        waits = [wait for wait in result.get("waits", ()) if not (allowed and wait.startswith(allowed))]
        wrong += [f"{stage} {row} waits at {wait}" for wait in waits]
    assert not wrong, "\n" + "\n".join(wrong)


def test_libraries_do_not_wait_where_tensors_are_real(tmp_path: Path) -> None:
    """transformers skips questions to its tensors where it meets fakes, so real ones are watched, on the CPU."""
    rows = ["", "model.order=random", "model.condition=text", "model.kind=masked", "model.kind=multiscale"]
    rows += ["model.kind=depth", "model.kind=masked model.condition=text"]
    wrong = []
    for number, row in enumerate(rows):
        training = Stage2([*options("prior", row), "--run.folder", str(tmp_path / str(number))], device=CPU)
        training.step()
        with Watch("cpu") as watch:
            training.step()
        for wait in watch.waits:
            inside = wait.partition(" in ")[2]
            if inside and not inside.startswith(tuple(IN_LIBRARIES)):
                wrong.append(f"prior {row} waits at {wait}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_wait_in_a_library_is_named(tmp_path: Path) -> None:
    training = Stage2([*options("prior", ""), "--run.folder", str(tmp_path)], device=CPU)
    with Watch("cpu") as watch:
        training.prior.lm(
            inputs_embeds=torch.zeros(1, 3, 32), use_cache=False
        )  # by transformers' own loop over the layers
    assert [wait for wait in watch.waits if " in transformers/masking_utils.py:" in wait]


def test_every_choice_has_a_row_or_a_reason() -> None:
    """A new choice is a row by itself; what is listed by hand must still be there."""
    names = {name for config in CONFIGS.values() for name, _, _ in settings(config)}
    for stage in ROWS:
        there = {one for row in ROWS[stage] for one in row.split()}
        assert {one.partition("=")[0] for one in there} - {"given", "bf16", "graph"} <= names
        for name, value in choices(CONFIGS[stage]):
            reasons = known(name, f"{name}={value}", NOT_HERE)
            assert (f"{name}={value}" in there) != bool(reasons), f"{name}={value} {reasons}"
    for key in (*NOT_HERE, *NEEDS, *RIDERS):
        assert any(f"{name}.".startswith(f"{key.partition('=')[0]}.") for name in names), (
            f"{key} is no setting any more"
        )
