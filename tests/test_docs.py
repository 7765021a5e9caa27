"""The documentation's commands parse, and what it names exists: links, files, modules, settings, recipes."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from launch.command.cli import UserError
from launch.config import RunConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage2_prior.config.training import PriorTrainConfig
from tests.imports import PACKAGES, ROOT, rooms

ROOMS = rooms()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "slurm" / "README.md", *ROOT.glob("docs/*.md")]
SUFFIXES = (".json", ".jsonl", ".yaml", ".py", ".sh", ".md", ".safetensors", ".xz")
OURS = (*PACKAGES, "tests")


def pages() -> list[Any]:
    """Every page, as a test's parameter."""
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def quoted(page: Path) -> Iterator[str]:
    """What stands between backticks, outside of blocks."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def shell_lines(page: Path) -> list[str]:
    """The commands in blocks and between backticks: continued lines joined, without variables and comments."""
    text = page.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks += [
        "\n".join(line[4:] for line in block.splitlines()) for block in re.findall(r"(?m)(?:^ {4}\S.*\n?)+", plain)
    ]
    blocks += [words for words in quoted(page) if not re.search(r"…|[A-Z]{3,}", words)]
    lines = [line.split("  #")[0].strip() for line in "\n".join(blocks).replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match("python -m [^…]*$|accelerate launch .* -m [^…]*$", line)]


def documented() -> list[Any]:
    """Every command of every page, once."""
    found = {line: page for page in reversed(PAGES) for line in shell_lines(page)}
    return [pytest.param(line, id=f"{page.stem}: {line[:60]}") for line, page in found.items()]


class ParsedError(Exception):
    """Raised in place of a command's work."""


def parse_only(monkeypatch: pytest.MonkeyPatch, module: str, words: list[str]) -> None:
    """Start a command with real options and leave it once they are parsed. A mistake in them raises or exits."""
    command = importlib.import_module(module)

    def stopping(parse: Any) -> Any:
        def parsed(*args: Any, **options: Any) -> None:
            parse(*args, **options)
            raise ParsedError

        return parsed

    with monkeypatch.context() as patched:
        if hasattr(command, "parse"):
            patched.setattr(command, "parse", stopping(command.parse))
        else:
            patched.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))
        patched.setattr(sys, "argv", [module, *words])
        with pytest.raises(SystemExit if "--help" in words else (ParsedError, UserError)) as raised:
            command.main()
    assert not isinstance(raised.value, UserError) or "No such file" in str(raised.value)


@pytest.mark.parametrize("line", documented())
def test_documented_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    module, words = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    if module == "launch.local":
        parse_only(monkeypatch, module, words)
        module, words = words[2], words[3:]
    if module.startswith(("tests.", "docs.", "pytest")):
        place = ROOT.joinpath(*module.split("."))
        assert module == "pytest" or place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
        return
    parse_only(monkeypatch, module, words)


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in slugs(target), f"{page.name} links to {link}, a heading that isn't there"


@pytest.mark.parametrize("page", pages())
def test_files_named_exist(page: Path) -> None:
    for words in quoted(page):
        for name in re.findall(
            r"(?<![\w/.-])(?:data|docs|launch|tests|stage1_tokenizer|stage2_prior)/[\w./*-]+", words
        ):
            if re.search(r"\b[A-Z]{2,}\b|^\w+/\*$|^data/shards/\w+(/|$)", name):  # a placeholder; packed data
                continue
            assert name in ROOMS or list(ROOT.glob(name.rstrip("/."))), f"{page.name} names {name}"


def defined(path: Path) -> set[str]:
    """Names at the top of a module, with what its classes define as Class.name."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in names_of(node.body)}
        found |= names_of([node])
        if isinstance(node, ast.Assign) and "__all__" in names_of([node]):
            found |= set(ast.literal_eval(node.value))
    return found


def names_of(body: list[ast.stmt]) -> set[str]:
    """Names that some statements bind."""
    found = set()
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:cut])
        module = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if module.is_file():
            return cut == len(parts) or bool({".".join(parts[cut : cut + 2]), parts[cut]} & defined(module))
    return False


def settings(config: Any) -> set[str]:
    """Dotted names of a configuration's settings, blocks included."""
    found = set()
    hints = get_type_hints(config)
    for field in fields(config):
        found.add(field.name)
        for kind in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(kind):
                found |= {f"{field.name}.{name}" for name in settings(kind)}
    return found


SETTINGS = settings(TokenizerTrainConfig) | settings(PriorTrainConfig) | {f"run.{name}" for name in settings(RunConfig)}
BLOCKS = {name.partition(".")[0] for name in SETTINGS if "." in name}


@pytest.mark.parametrize("page", pages())
def test_modules_and_settings_named_exist(page: Path) -> None:
    for words in quoted(page):
        for name in re.findall(r"(?<![\w/.-])(?:--)?([a-z]\w*(?:\.\w+)+)", words):
            first = name.partition(".")[0]
            known = exists(name) or name in SETTINGS or Path(name).suffix in SUFFIXES
            assert known or first not in {*OURS, *BLOCKS}, f"{page.name} names {name}"


@pytest.mark.parametrize("page", pages())
def test_names_are_where_the_page_says(page: Path) -> None:
    """In words such as: `name` in `folder/file.py`; `folder/file.py`: `Class.method`."""
    text = page.read_text()
    pairs = re.findall(r"`([\w.]+)` (?:in|of) `([\w/]+\.py)`", text)
    pairs += [(name, file) for file, name in re.findall(r"`([\w/]+\.py)`: `([A-Z]\w+(?:\.\w+)?)`", text)]
    for name, file in pairs:
        assert name in defined(ROOT / file), f"{page.name}: there is no {name} in {file}"


def section(page: str, heading: str) -> str:
    """What stands under a heading."""
    text = (ROOT / "docs" / page).read_text()
    return re.split(r"(?m)^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1)[0]


def test_the_recipes_named_are_those_that_ship() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", section("results.md", "Recipes"), re.MULTILINE))
    assert named == {place.name for place in (ROOT / "launch" / "recipes").iterdir() if place.is_dir()}


def test_the_readme_stays_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 150


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_named_in_docstrings_and_comments_exist(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in (tokenize.STRING, tokenize.COMMENT):
                    for name in re.findall(rf"(?<![\w/.\[-])({'|'.join(OURS)})((?:\.[A-Za-z_]\w*)+)", token.string):
                        dotted = "".join(name)
                        known = exists(dotted) or dotted in SETTINGS or Path(dotted).suffix in SUFFIXES
                        assert known, f"{path.relative_to(ROOT)}:{token.start[0]} names {dotted}"
