"""What people type for a setting of each type, on the command line and in a file; and every option of every command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from launch.command import values
from launch.command.cli import UserError, parse
from launch.command.words import Words
from stage2_prior.config.sampling import SampleConfig
from tests.imports import MODULES, ROOT, is_command


@dataclass(frozen=True)
class Block:
    """A block of settings."""

    rate: float = 0.1
    """A number."""
    warm_up: bool = False
    """A flag."""
    levels: list[int] = field(default_factory=lambda: [8, 5])
    """Numbers."""
    terms: dict[str, Any] = field(default_factory=dict)
    """Whatever the user likes."""


@dataclass(frozen=True)
class Settings:
    """One setting of each type."""

    text: str = ""
    name: str | None = "x"
    count: int = 1
    size: int | None = 7
    rate: float = 0.5
    verify: bool = False
    shuffle: bool = True
    kind: Literal["vgg16", "image_net", "none"] = "vgg16"
    path: Path | None = Path("x")
    names: list[str] = field(default_factory=lambda: ["x"])
    classes: list[str] | None = None
    numbers: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    parts: list[Literal["encoder", "decoder"]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    block: Block = field(default_factory=Block)


def read(*words: str, **options: Any) -> Settings:
    return parse(Settings, words, prog="test", **options)


LISTS = [
    ("classes", "3", ["3"]),
    ("classes", "3,5", ["3", "5"]),
    ("classes", "3, 5", ["3", "5"]),
    ("classes", "[3]", ["3"]),
    ("classes", "[3,5]", ["3", "5"]),
    ("classes", "[ 3 , 5 ]", ["3", "5"]),
    ("classes", '["3"]', ["3"]),
    ("classes", '["3", "t shirt"]', ["3", "t shirt"]),
    ("classes", "['3', 'five']", ["3", "five"]),
    ("classes", "circle", ["circle"]),
    ("classes", "t shirt", ["t shirt"]),
    ("classes", "t-shirt,ankle_boot", ["t-shirt", "ankle_boot"]),
    ("classes", "[t shirt, ankle boot]", ["t shirt", "ankle boot"]),
    ("classes", '"tench, Tinca tinca",goldfish', ["tench, Tinca tinca", "goldfish"]),
    ("classes", '["tench, Tinca tinca"]', ["tench, Tinca tinca"]),
    ("classes", "bird's nest,jacks'", ["bird's nest", "jacks'"]),
    ("classes", "007", ["007"]),
    ("classes", "[007, 1e3, yes, 1.0]", ["007", "1e3", "yes", "1.0"]),
    ("classes", "[007]", ["007"]),
    ("classes", "yes", ["yes"]),
    ("classes", "a: b", ["a: b"]),
    ("classes", "#1", ["#1"]),
    ("classes", "-1", ["-1"]),
    ("classes", "none", ["none"]),
    ("classes", "null", None),
    ("classes", "[]", []),
    ("names", "null,x", ["null", "x"]),
    ("numbers", "3", [3]),
    ("numbers", "1,1,2", [1, 1, 2]),
    ("numbers", "[1, 1, 2]", [1, 1, 2]),
    ("numbers", "-1,1e3", [-1, 1000]),
    ("shares", "1e-4", [1e-4]),
    ("shares", "[.5, 2]", [0.5, 2.0]),
    ("paths", "a b/[1].png", [Path("a b/[1].png")]),
    ("paths", "~/a,~/b", [Path.home() / "a", Path.home() / "b"]),
    ("parts", "encoder", ["encoder"]),
    ("parts", "encoder,Decoder", ["encoder", "decoder"]),
    ("blocks", '[{"rate": 1e-4, "levels": 3}]', [Block(1e-4, levels=[3])]),
]

SINGLE = [
    ("text", "3", "3"),
    ("text", "null", "null"),
    ("text", "[a]", "[a]"),
    ("text", "a, b", "a, b"),
    ("text", '"3"', '"3"'),
    ("text", "a-b_c", "a-b_c"),
    ("text", "-x", "-x"),
    ("text", "", ""),
    ("text", "~/a", str(Path.home() / "a")),
    ("text", "a~/b", "a~/b"),
    ("name", "3", "3"),
    ("name", "1e5", "1e5"),
    ("name", "007", "007"),
    ("name", "null", None),
    ("name", "none", None),
    ("name", "None", None),
    ("name", "None of these", "None of these"),
    ("count", "8", 8),
    ("count", "1e6", 1_000_000),
    ("count", "1_000", 1000),
    ("count", "2.0", 2),
    ("count", "-2", -2),
    ("size", "none", None),
    ("size", "NULL", None),
    ("size", "256", 256),
    ("rate", "1e-4", 1e-4),
    ("rate", "1E-4", 1e-4),
    ("rate", "-.5", -0.5),
    ("rate", "3", 3.0),
    ("verify", "true", True),
    ("verify", "True", True),
    ("verify", "yes", True),
    ("verify", "on", True),
    ("verify", "1", True),
    ("shuffle", "false", False),
    ("shuffle", "False", False),
    ("shuffle", "no", False),
    ("shuffle", "off", False),
    ("shuffle", "0", False),
    ("kind", "none", "none"),
    ("kind", "VGG16", "vgg16"),
    ("kind", "image-net", "image_net"),
    ("path", "none", None),
    ("path", "[a], b", Path("[a], b")),
    ("path", "~/x", Path.home() / "x"),
    ("weights", '{"a/b.json": 1e-1, c: 2}', {"a/b.json": 0.1, "c": 2.0}),
    ("options", "{steps: 100, run.seed: 007}", {"steps": "100", "run.seed": "007"}),
]


@pytest.mark.parametrize(("key", "word", "value"), [*LISTS, *SINGLE])
def test_a_value_on_the_command_line(key: str, word: str, value: Any) -> None:
    assert getattr(read(f"--{key}={word}"), key) == value
    assert Words(Settings, (), None).options([f"--{key}", word]) == Words(Settings, (), None).options(
        [f"--{key}={word}"]
    )


OTHER_IN_YAML = r"#.*|.*: .*||[\"'].*|\[\.5.*|-\.5|\[a\].*|null"
"""What has another meaning in YAML: comments, dictionaries, quotes, lists, and null for a text."""
UNQUOTED = [case for case in LISTS if not re.fullmatch(OTHER_IN_YAML, case[1]) or case[1] == "null"]
UNQUOTED += [case for case in SINGLE if not re.fullmatch(OTHER_IN_YAML, case[1])]


@pytest.mark.parametrize(("key", "word", "value"), UNQUOTED)
def test_a_value_in_a_file(key: str, word: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"{key}: {word}\n")
    assert getattr(read("--config", str(tmp_path / "c.yaml")), key) == value


def test_quotes_in_a_file_keep_a_text_whole(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "classes: 'a, b'\nname: \"null\"\ntext: '[x]'\nblock: {terms: {a: 1e-3, b: 'c'}}\n"
    )
    settings = read("--config", str(tmp_path / "c.yaml"))
    assert (settings.classes, settings.text, settings.block.terms) == (["a, b"], "[x]", {"a": 1e-3, "b": "c"})


def test_a_list_as_several_words() -> None:
    assert read("--classes", "3", "5", "--count", "2").classes == ["3", "5"]
    assert read("--classes", "3,", "5").classes == ["3", "5"]
    assert read("--numbers", "3", "-5", "--verify").numbers == [3, -5]
    assert read("--block.levels", "3", "5").block.levels == [3, 5]
    # Where words without an option are waited for, they are not the list's.
    settings = read("--classes", "3", "5", positional=("names",))
    assert (settings.classes, settings.names) == (["3"], ["5"])


def test_a_path_with_a_comma_that_is_there_is_one_path(tmp_path: Path) -> None:
    place = tmp_path / "a, [b].png"
    assert read(f"--paths={place}").paths == [Path(part) for part in str(place).split(", ")]
    place.touch()
    assert read(f"--paths={place}").paths == [place]
    assert read("--paths", str(place), str(place)).paths == [place, place]


def test_flags_in_every_spelling() -> None:
    for words in (["--verify"], ["--verify", "yes"], ["--verify=1"], ["--VERIFY".lower()]):
        assert read(*words).verify
    assert not read("--verify", "--no-verify").verify
    assert not read("--no-shuffle").shuffle
    assert not read("--no_shuffle").shuffle
    for spelled in ("--block.warm-up", "--block.warm_up", "--block.warm-up=on"):
        assert read(spelled).block.warm_up
        assert not read(spelled, "--block.no-warm-up").block.warm_up
        assert not read(spelled, "--no-block.warm_up").block.warm_up
    with pytest.raises(UserError, match="--no-shuffle=3 has a value"):
        read("--no-shuffle=3")


def test_dictionaries_keep_the_names_that_users_give(tmp_path: Path) -> None:
    assert read("--weights.a-b", "1e-1", "--options.run.seed=007").options == {"run.seed": "007"}
    assert read("--weights.a/b.json", "1e-1", "--weights.c=2").weights == {"a/b.json": 0.1, "c": 2}
    (tmp_path / "c.yaml").write_text("options: {steps: 100, run.seed: 7}\n")
    settings = read("--config", str(tmp_path / "c.yaml"), "--options.steps", "3")
    assert settings.options == {"steps": "3", "run.seed": "7"}
    assert read("--block.terms.my-loss", "0.5").block.terms == {"my-loss": 0.5}
    assert read("--block.terms.my-loss", "1e-3").block.terms == {"my-loss": 1e-3}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clases", "3"], "--clases is not a known setting: did you mean classes?"),
        (["--levels", "3"], "--levels is not a known setting: did you mean block.levels?"),
        (["--block.levls", "3"], "--block.levls is not a known setting: did you mean block.levels?"),
        (["--no-clases"], "--no_clases is not a known setting: did you mean classes?"),
        (["--count", "many"], "count=many is not a whole number: give a whole number such as 8"),
        (["--count", "2.7"], "count=2.7 is not a whole number"),
        (["--size", "256x128"], "size=256x128 is not a whole number: give a whole number such as 8 or null"),
        (["--rate", "nan"], "rate=nan is not a number"),
        (["--verify=maybe"], "verify=maybe is neither true nor false"),
        (["--kind", "vgg1"], "kind=vgg1 is not known: did you mean vgg16? Choose one of vgg16, image_net, none"),
        (["--numbers", "a"], r"numbers[0]=a is not a whole number"),
        (["--classes", ""], "classes is empty: give --classes a,b, or [] for an empty list"),
        (["--classes"], "--classes has no value: give --classes a,b"),
        (["--text"], "--text has no value"),
        (["--text", "a", "b"], "b belongs to no option"),
        (["--block", "3"], "block=3 is not a block of settings: give it as --block.SETTING VALUE"),
        (["--weights", "3"], "weights=3 is not a block of settings: give it as --weights.NAME 0.5"),
        (["--weights.a", "x"], "weights.a=x is not a number"),
        (["--config", "nowhere.yaml"], "config=nowhere.yaml can't be read (No such file or directory)"),
        (["--config", "."], "config=. can't be read (Is a directory)"),
        (["--config", "{a"], "config={a can't be read"),
    ],
)
def test_a_mistake_names_the_setting_the_value_and_the_way_out(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as raised:
        read(*words)
    assert told in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("clases: [3]\n", "clases is not a known setting: did you mean classes?"),
        ("block: {levls: 3}\n", "block.levls is not a known setting: did you mean block.levels?"),
        ("count: many\n", "count=many is not a whole number"),
        ("count:\n", "count has no value"),
        ("text: [a]\n", 'text=["a"] is not a single value'),
        ("block: 3\n", "block=3 is not a block of settings"),
        ("numbers: {a: 1}\n", "numbers={'a': 1} is not a list"),
        ("[1]\n", "holds no settings"),
        ("", "holds no settings"),
        ("a: [\n", "can't be read"),
        ("\x00", "can't be read"),
    ],
)
def test_a_mistake_in_a_file(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError) as raised:
        read("--config", str(tmp_path / "c.yaml"))
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_an_option_given_twice_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("--classes", "3", "--classes", "5").classes == ["5"]
    assert capsys.readouterr().err == "note: --classes is given 2 times: the last one counts, 5\n"
    assert read("--count", "3", "--text", "a", "--count=3").count == 3
    assert read("--config", "{count: 2}", "--count", "3").count == 3
    monkeypatch.setenv("RANK", "1")
    assert read("--count", "3", "--count", "4").count == 4
    assert capsys.readouterr().err == ""


def test_words_and_their_option_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"--names is given, and words without an option too \(a\)"):
        read("a", "--names", "b", positional=("names",))


def parsed(module: str) -> list[type]:
    """The configurations that a command parses, by its text."""
    names = re.findall(r"(?<![\w.])parse\((\w+Config)\b", MODULES[module].read_text())
    return [getattr(importlib.import_module(module), name) for name in dict.fromkeys(names)]


COMMANDS = [
    (module, config) for module in MODULES if "__main__" in MODULES[module].read_text() for config in parsed(module)
]


def test_these_are_the_commands() -> None:
    assert len({module for module, _ in COMMANDS}) >= 24
    assert sum(is_command(module) for module, _ in COMMANDS) >= 20


@pytest.mark.parametrize(("module", "config"), COMMANDS, ids=lambda one: one if isinstance(one, str) else "")
def test_every_option_of_every_command_takes_its_own_form(module: str, config: Any) -> None:
    """The example of each list, dictionary and flag is read; hyphens are underscores; a list takes one value."""
    for key in values.every_key(config):
        kind = Words(config, (), None)._kind(key)
        option, one = key.removesuffix("_"), values.members(kind)[0]
        shape = typing.get_origin(one) or one
        example = values.form(option, kind)
        if shape is bool:
            for word in (f"--{option}", f"--{option.replace('_', '-')}", f"--{option}=yes"):
                assert given(config, word) == {option: "true"}
            head, dot, last = option.rpartition(".")
            assert given(config, f"--{head}{dot}no-{last}") == {option: "false"}
        elif shape in (list, tuple) and not dataclasses.is_dataclass(typing.get_args(one)[0]):
            words = example.split()
            several = json.loads(given(config, *words)[option])
            assert len(several) >= 2, example
            assert json.loads(given(config, words[0].replace("_", "-"), str(several[0]))[option]) == several[:1]
        elif shape is dict:
            assert given(config, *example.replace(".NAME", ".a-b").replace("VALUE", "1").split()), example
        elif shape in (str, int, float, Path):
            assert given(config, f"--{option.replace('_', '-')}=2") == {
                option: json.dumps(shape(2)) if shape is float else "2"
            }


def given(config: type, *words: str) -> dict[str, str]:
    return dict(part[2:].split("=", 1) for part in Words(config, (), None).options(words))


def test_help_shows_the_forms_by_examples() -> None:
    line = [sys.executable, "-m", "stage2_prior.sample", "--help"]
    shown = " ".join(subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert "Form: --classes a,b." in shown
    assert "Form: --npz." in shown
    with pytest.raises(SystemExit):
        read("--help")


def test_help_of_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for example in ("--classes a,b", "--numbers 1,2", "--weights.NAME 0.5", "--verify", "--shuffle false"):
        assert f"Form: {example}." in shown


def test_the_classes_of_a_sampling_may_be_digits() -> None:
    words = ["--prior", "p", "--tokenizer", "t", "--out", "o"]
    for classes in (["3"], ["[3]"], ["3,5"], ["3", "5"], ['["3"]'], ["circle"], ["t shirt"]):
        found = parse(SampleConfig, [*words, "--classes", *classes], prog="test").classes
        assert found is not None and all(isinstance(one, str) for one in found) and "[" not in "".join(found)
