"""The commands as users start them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch.command.cli import parse
from launch.command.exit_codes import BAD_INPUT
from stage2_prior.config.training import PriorTrainConfig
from tests import forked
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import write_tokenizer

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*/prior.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_is_read_and_says_how_it_is_started(recipe: Path):
    config = parse(PriorTrainConfig, ["--config", str(recipe)], prog="train")
    assert config.steps > config.optimizer.warmup
    text = recipe.read_text()
    assert f"--config launch/recipes/{recipe.parent.name}/prior.yaml" in text
    assert "# Hardware: " in text and "# Expected: " in text


def test_a_prior_given_another_tokenizers_codes_is_one_line_and_exit_code_2(coded: Coded, tmp_path: Path):
    other = write_tokenizer(tmp_path / "other", seed=5)
    arguments = ["--run.folder", str(tmp_path / "run"), "--data.index", coded.codes, "--tokenizer", other]
    done = forked.call([sys.executable, "-m", "stage2_prior.train", *arguments])
    assert done.returncode == BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: tokenizer={other} has the fingerprint ")
    assert not (tmp_path / "run").exists()
