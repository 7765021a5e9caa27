"""The house's rules: who may import whom, what lies where, sizes of files, and that every shipped recipe loads.

tests/imports.py reads the code; the table of docs/architecture.md says which room may import which.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.publishing.standalone import write_model_files
from stage2_prior.config.training import PriorTrainConfig
from tests.imports import (
    MODULES,
    PACKAGES,
    ROOT,
    SOURCES,
    Function,
    allowed,
    circles,
    files,
    imports,
    is_command,
    room,
    rooms,
    tree,
)
from tests.stage1_tokenizer import tiny

RECIPES = sorted((ROOT / "launch" / "recipes").glob("*/*.yaml"))
OPTIONS = {"tokenizer": [], "prior": ["--tokenizer", "released", "--data.index", "codes/index.json"]}
CLASSES = {"tokenizer": TokenizerTrainConfig, "prior": PriorTrainConfig}

FILE, FUNCTION, MAIN, RELEASED = 300, 60, 35, 2000
"""The most lines: of a file, a function, a command's main, and of the model files in a released tokenizer."""

WITHOUT_TORCH = ("launch.config", "launch.command.cli", "launch.files.atomic", "data.config")
"""What must load fast: configuration and what reads it. More: every module in a room called config."""


def test_there_are_no_circles_of_files() -> None:
    assert not circles(files())


def test_there_are_no_circles_of_rooms() -> None:
    assert not circles(rooms())


def test_packages_only_import_those_below() -> None:
    above = [
        str(found)
        for found in imports()
        if PACKAGES.index(found.target.partition(".")[0]) > PACKAGES.index(found.source.partition(".")[0])
    ]
    assert not above


def test_the_table_names_every_room_and_has_no_circles() -> None:
    assert allowed().keys() == rooms().keys()
    assert not circles(allowed())


def test_rooms_import_what_the_table_says() -> None:
    table = allowed()
    other = [
        f"{found} ({room(found.source)} may not import {room(found.target)})"
        for found in imports()
        if found.source not in PACKAGES
        and room(found.source) != room(found.target)
        and room(found.target) not in table.get(room(found.source), ())
    ]
    assert not other, "\n".join(other)


def test_only_commands_import_inside_functions() -> None:
    inside = [str(found) for found in imports() if found.inside and not is_command(found.source)]
    assert not inside, "\n".join(inside)


def test_at_the_top_of_packages_are_only_commands_and_configuration() -> None:
    """A command has a short main, is started by `python -m`, and the classes in it are configurations."""
    wrong = []
    for module, path in MODULES.items():
        if module in PACKAGES or not is_command(module):
            continue
        body = tree(path).body
        mains = [node for node in body if isinstance(node, Function) and node.name == "main"]
        if not mains or '__name__ == "__main__"' not in path.read_text():
            wrong.append(f"{module} is no command: move it into a room")
        wrong += [f"{module}.main has more than {MAIN} lines" for node in mains if lines(node) > MAIN]
        wrong += [
            f"{module}.{node.name} is no configuration: move it into a room"
            for node in body
            if isinstance(node, ast.ClassDef) and not node.name.endswith("Config")
        ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_readable() -> None:
    long = []
    for path in SOURCES:
        place = path.relative_to(ROOT)
        if (count := path.read_text().count("\n")) > FILE:
            long.append(f"{place} has {count} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, Function) and lines(node) > FUNCTION:
                long.append(f"{place}: {node.name} has {lines(node)} lines")
    assert not long, "\n".join(long)


def lines(node: Function) -> int:
    """Lines of a function, its decorators and docstring included."""
    assert node.end_lineno is not None
    return node.end_lineno - min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) + 1


def test_a_released_tokenizer_is_small_and_carries_no_kernels(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    write_model_files(tmp_path)
    written = sorted(tmp_path.glob("*.py"))
    counts = {path.name: path.read_text().count("\n") for path in written}
    assert sum(counts.values()) <= RELEASED, counts
    for path in written:
        text = f"{path.name}\n{path.read_text()}"
        carried = re.findall(r"tokenizer[._]kernels|winograd|(?<!backends\.)mkldnn|channels_last", text, re.IGNORECASE)
        assert not carried, f"{path.name}: {set(carried)}"


def test_configuration_loads_without_torch() -> None:
    rooms_of_config = [module for module in MODULES if room(module).endswith("/config") and module.count(".") > 1]
    line = f"import sys, {', '.join([*WITHOUT_TORCH, *rooms_of_config])}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=False).returncode == 0


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
