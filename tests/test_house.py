"""The house's rules: which package may import which, sizes of files, and that every shipped recipe loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage2_prior.config.training import PriorTrainConfig

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "launch", "stage1_tokenizer", "stage2_prior")
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*/*.yaml"))
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OPTIONS = {"tokenizer": [], "prior": ["--tokenizer", "released", "--data.index", "codes/index.json"]}
CLASSES = {"tokenizer": TokenizerTrainConfig, "prior": PriorTrainConfig}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_files_and_functions_stay_readable() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 400, f"{path.relative_to(ROOT)} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno
                assert length <= 70, f"{path.relative_to(ROOT)}: {node.name} is too long"


def recipe_options(path: Path) -> list[str]:
    return ["--config", str(path), *OPTIONS[path.stem]]


def trainings() -> list[Any]:
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in RECIPES if path.stem in CLASSES]


@pytest.mark.parametrize("path", trainings())
def test_every_recipe_loads_and_says_how_it_fared(path: Path) -> None:
    config: Any = parse(CLASSES[path.stem], recipe_options(path), prog="test")
    assert config.steps > 0
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("accelerate launch" in line or "launch.local" in line for line in header), "the header lacks the command"


def test_there_are_the_recipes_that_are_promised() -> None:
    for name in ("mnist", "emoji", "cifar10", "celeba", "imagenet256", "imagenet256_taming"):
        assert (ROOT / "launch" / "recipes" / name / "tokenizer.yaml").is_file(), name
    for name in ("mnist", "emoji"):
        assert (ROOT / "launch" / "recipes" / name / "prior.yaml").is_file(), name


@pytest.mark.parametrize(("module", "stem"), [("stage1_tokenizer.train", "tokenizer"), ("stage2_prior.train", "prior")])
def test_print_config_shows_what_loads_again(module: str, stem: str, tmp_path: Path) -> None:
    recipe = ROOT / "launch" / "recipes" / "mnist" / f"{stem}.yaml"
    line = [sys.executable, "-m", module, *recipe_options(recipe), "--run.seed", "5", "--print_config"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["run"]["seed"] == 5
    (tmp_path / "printed.yaml").write_text(done.stdout)
    again: Any = parse(CLASSES[stem], ["--config", str(tmp_path / "printed.yaml")], prog="test")
    assert again == parse(CLASSES[stem], [*recipe_options(recipe), "--run.seed", "5"], prog="test")


def test_the_version_has_a_changelog() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
