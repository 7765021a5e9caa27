"""The ablation, for a few steps with tiny networks: changes get as many steps as take the recipe's time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from tests.benchmarks.ablation import CHANGES, Ablation, main
from tests.benchmarks.test_race import ROOT, TOKENIZER

SAMPLES = str(ROOT / "data" / "samples" / "emoji" / "held_out.json")


@pytest.fixture
def words(tmp_path: Path) -> dict[str, str]:
    recipe = tmp_path / "tokenizer.yaml"
    recipe.write_text(TOKENIZER.replace("size: 16", "size: 32") + "evaluate_samples: 20\n")
    return {"recipe": str(recipe), "data": SAMPLES, "held_out": SAMPLES, "out": str(tmp_path / "out"), "steps": "8"}


def test_changes_are_trained_for_the_recipes_time(
    words: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for name, value in words.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["ablation", *options, "recipe", "progressive"])
    for _ in range(2):  # the second time nothing is left to train
        main()
    once, again = capsys.readouterr().out.split("| change |", 2)[1:]
    name, ratio, steps = (cell.strip() for cell in once.splitlines()[2].split("|")[1:4])
    assert (name, ratio, steps) == ("recipe", "1.00", "8")
    name, ratio, steps = (cell.strip() for cell in once.splitlines()[3].split("|")[1:4])
    assert name == "progressive"
    assert int(steps) >= 4
    assert 0 < float(ratio) < 1.5
    assert once.splitlines()[2:4] == again.splitlines()[2:4]


def test_every_change_changes_the_recipe() -> None:
    recipe = str(ROOT / "launch" / "recipes" / "photos64" / "tokenizer.yaml")
    ablation = Ablation(argparse.Namespace(recipe=recipe, data=SAMPLES, held_out=SAMPLES, out="out", steps=40))
    plain = ablation.config({}, 40)
    for name, change in CHANGES.items():
        assert (ablation.config(change, 40, early=30) == plain) == (name == "recipe"), name
    assert ablation.config(CHANGES["half-batch"], 40).data.batch_size == plain.data.batch_size // 2
    assert ablation.config(CHANGES["accumulated"], 40).data.micro_batch == plain.data.batch_size
    assert ablation.config(CHANGES["progressive"], 40, early=30).data.early_size == 32
