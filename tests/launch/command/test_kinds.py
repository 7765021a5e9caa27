"""Blocks of settings in several forms, chosen by their kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from launch.command.cli import UserError, parse
from launch.command.kinds import narrowed


@dataclass(frozen=True, kw_only=True)
class Round:
    """Round things."""

    kind: Literal["round"] = "round"
    """Which."""
    radius: int = 1
    """How wide."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square things."""

    kind: Literal["square"] = "square"
    """Which."""
    side: int = 2
    """How long."""

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"block.shape.side={self.side} is out of range: set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block."""

    first: int = 0
    """Before."""
    shape: Round | Square = field(default_factory=Round)
    """The form."""
    last: int = 0
    """After."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Everything."""

    block: Block
    """What it holds."""
    name: str = ""
    """Its name."""


def read(*words: str) -> Whole:
    return parse(Whole, words, prog="test")


def test_the_default_form_needs_nothing() -> None:
    assert read() == Whole(block=Block()) and type(read().block) is Block
    assert read("--block.shape.radius", "5") == Whole(block=Block(shape=Round(radius=5)))


@pytest.mark.parametrize(
    "words",
    [
        ("--block.shape.kind", "square", "--block.shape.side", "7"),
        ("--block.shape.side=7", "--block.shape.kind=Square"),
        ("--block.shape", '{"kind": "square", "side": 7}'),
        ("--block", '{"shape": {"kind": "square", "side": 7}}'),
        ("--config", '{"block": {"shape": {"kind": "square", "side": 7}}}'),
        ("--config", '{"block": {"shape": {"kind": "square", "side": 3}}}', "--block.shape.side", "7"),
    ],
)
def test_another_form_is_chosen_by_its_kind(words: tuple[str, ...]) -> None:
    found = read(*words)
    assert found == Whole(block=Block(shape=Square(side=7)))
    assert type(found) is Whole and type(found.block) is Block and type(found.block.shape) is Square


def test_a_file_chooses_and_what_is_printed_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("block:\n  shape:\n    kind: square\n    side: 9\n")
    assert read("--config", str(tmp_path / "a.yaml")).block.shape == Square(side=9)
    with pytest.raises(SystemExit):
        read("--config", str(tmp_path / "a.yaml"), "--name", "x", "--print_config")
    (tmp_path / "b.yaml").write_text(capsys.readouterr().out)
    assert read("--config", str(tmp_path / "b.yaml")) == Whole(block=Block(shape=Square(side=9)), name="x")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--block.shape.kind", "oval"), "block.shape.kind=oval is not known: choose one of round, square"),
        (("--block.shape.side", "3"), "--block.shape.side is not a known setting"),
        (("--block.shape.kind", "square", "--block.shape.radius", "3"), "block.shape.radius is not a known setting"),
        (("--block.shape.kind", "square", "--block.shape.side", "0"), "block.shape.side=0 is out of range"),
        (("--block.shape.kind", "square", "--block.shape.side", "x"), "block.shape.side=x is not a whole number"),
        (("--config", "missing.yaml"), "config=missing.yaml can't be read"),
        (
            ("--config", '{"block": {"shape": {"kind": "round"}}}', "--block.shape.kind", "square"),
            "block.shape.kind is given as round and as square: leave one out",
        ),
        (("--block.shape.kind",), "--block.shape.kind has no value"),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        read(*words)
    assert "\n" not in str(error.value)


def test_help_shows_the_chosen_form_in_the_same_order(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in ((), ("--block.shape.kind", "square")):
        with pytest.raises(SystemExit):
            read(*words, "--help")
        shown.append(capsys.readouterr().out)
    assert "--block.shape.radius" in shown[0] and "side" not in shown[0]
    assert "--block.shape.side" in shown[1] and "radius" not in shown[1] and "How long." in shown[1]
    for text in shown:
        order = [text.index(name) for name in ("--block.first", "--block.shape.kind", "--block.last", "--name")]
        assert order == sorted(order)


def test_a_class_without_forms_is_itself() -> None:
    assert narrowed(Round, ["--kind", "square"]) is Round
