"""What a step costs a GPU on paper stays within limits, and recipes say in their headers what on_paper computes.

These are counts of operations on fake CUDA tensors (tests/gpu/costs.py), not measurements.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.gpu.test_no_waits import needs_compiler
from tests.gpu.watch import ROOT
from tests.stage1_tokenizer import tiny

pytestmark = needs_compiler
COMPARED = ("cifar10", "imagenet256", "nearest_code")
"""Recipes whose headers are compared with what is computed; of the others, those that are shown agree in form."""
HEADER = re.compile(
    r"^# On paper \(tests/benchmarks/on_paper\.py\): ([\d.]+) TFLOP, ([\d.]+) GB, (\d+) launches, ([\d.]+) GiB, and "
    r"([\d.]+) ms at least on an$\n^# H100, for (\d+) [a-z]+ a GPU\.$",
    re.M,
)


@cache
def on_paper() -> Any:
    line = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.on_paper", "--recipe", *COMPARED]
    done = subprocess.run(
        line, cwd=ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not a measurement" in done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def test_imagenet256_stays_within_its_memory_and_work() -> None:
    found = on_paper()["imagenet256"]["tokenizer"]
    assert found["pictures"] == 16
    assert found["gigabytes"] <= 120
    assert found["peak_gib"] <= 14
    assert found["launches"] <= 2000
    assert 21 < found["tflop"] < 22  # of the networks, so it changes with them alone


def test_llamagen_b_takes_few_launches() -> None:
    found = on_paper()["imagenet256"]["prior"]
    assert found["pictures"] == 32
    assert found["launches"] <= 1200
    assert found["peak_gib"] <= 8


def test_the_search_for_codes_takes_few_launches() -> None:
    assert on_paper()["nearest_code"]["search"]["launches"] <= 20


def test_headers_say_what_is_computed() -> None:
    told = 0
    for name in COMPARED:
        for stage in ("tokenizer", "prior"):
            recipe = ROOT / "launch" / "recipes" / name / f"{stage}.yaml"
            if recipe.exists():
                told += 1
                header = HEADER.search(recipe.read_text())
                assert header is not None, f"{recipe} doesn't say what on_paper computes"
                found = on_paper()[name][stage]
                numbers = [found[key] for key in ("tflop", "gigabytes", "launches", "peak_gib")]
                numbers += [found["seconds_h100"] * 1e3, found["pictures"]]
                for said, computed in zip(map(float, header.groups()), numbers, strict=True):
                    assert said == pytest.approx(computed, rel=0.03, abs=0.06), f"{recipe}: {header.groups()} {numbers}"
    assert told == 4


def test_recipes_for_gpus_have_such_a_line() -> None:
    recipes = (ROOT / "launch" / "recipes").glob("*/*.yaml")
    for recipe in (path for path in recipes if path.stem in ("tokenizer", "prior")):
        hardware = re.search(r"^# Hardware: (.*)", recipe.read_text(), re.M)
        if hardware and re.search(r"\bGPUs?\b", hardware[1]) and "no GPU" not in hardware[1]:
            assert HEADER.search(recipe.read_text()), f"{recipe} doesn't say what on_paper computes"
