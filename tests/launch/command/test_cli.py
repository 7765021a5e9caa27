"""Command lines: positional words, bare flags, hyphens, old names of settings, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from launch.command import exit_codes, renamed
from launch.command.cli import UserError, parse
from launch.command.renamed import with_new_keys
from launch.run import folder


@dataclass(frozen=True)
class Inner:
    RENAMED: ClassVar[dict[str, str]] = {"lr": "learning_rate"}

    learning_rate: float = 0.1
    """A number."""
    warm_up: bool = False
    """A flag."""


@dataclass(frozen=True)
class Settings:
    """What the test reads."""

    RENAMED: ClassVar[dict[str, str]] = {"optim": "optimizer", "from_scratch": "optimizer.warm_up"}

    source: str
    """The first word."""
    files: list[str] = field(default_factory=list)
    """The other words."""
    dry_run: bool = False
    """A flag."""
    from_: str | None = None
    """A Python keyword."""
    optimizer: Inner = field(default_factory=Inner)
    """A block."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever the user likes."""


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_mentioned", set())


def read(*words: str, **options: Any) -> Settings:
    return parse(Settings, words, prog="test", **{"positional": ("source", "files"), **options})


def test_words_flags_and_hyphens() -> None:
    expected = Settings("A", ["b", "c"], dry_run=True, optimizer=Inner(warm_up=True))
    assert read("A", "b", "--dry-run", "c", "--optimizer.warm-up") == expected
    assert read("--dry_run", "A", "--optimizer.warm_up=true", "b", "c") == expected
    assert read("A", "--dry-run", "false", "--optimizer.learning-rate", "-2") == Settings(
        "A", optimizer=Inner(learning_rate=-2)
    )
    assert read("--from", "x", "--source", "A", positional=()).from_ == "x"


def test_settings_inside_a_dictionary_keep_their_names() -> None:
    assert read("A", "--extra.a-b.c", "[1, 2]", "--extra.d=x").extra == {"a-b": {"c": [1, 2]}, "d": "x"}


def test_everything_after_the_last_word_may_be_anothers() -> None:
    settings = read("--dry-run", "A", "--config", "x", "-v", positional=("source",), rest="files")
    assert settings == Settings("A", ["--config", "x", "-v"], dry_run=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A", "--nothing", "1"], "nothing"),
        (["A", "--dry-run", "maybe", "--files", "x"], "files"),
        (["A", "--optimizer.learning_rate"], "learning_rate"),
        (["A", "--optimizer.learning_rate", "x"], "learning_rate"),
        (["--dry-run"], "source"),
        (["--dry-run"], "source is missing: give it as word 1 of the command, or as --source VALUE"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        read(*words)
    assert "\n" not in str(told.value)


def test_a_word_too_many_is_a_mistake() -> None:
    with pytest.raises(UserError, match="B"):
        read("A", "B", positional=("source",))


def test_old_names_are_understood_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    expected = Settings("A", optimizer=Inner(0.5, warm_up=True))
    assert read("A", "--optim.lr=0.5", "--from-scratch") == expected
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "note: the setting optim.lr is called optimizer.learning_rate now",
        "note: the setting from_scratch is called optimizer.warm_up now",
    ]
    assert read("A", "--optim.lr=0.5", "--from-scratch") == expected
    assert capsys.readouterr().err == ""


def test_old_names_are_understood_in_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.yaml").write_text("source: A\noptim: {lr: 0.5}\nfrom_scratch: true\n")
    expected = Settings("A", optimizer=Inner(0.5, warm_up=True))
    assert read("--config", str(tmp_path / "old.yaml")) == expected
    assert capsys.readouterr().err.count("is called") == 3
    monkeypatch.setattr(renamed, "_mentioned", set())
    monkeypatch.setenv("RANK", "1")
    assert read("--config", str(tmp_path / "old.yaml")) == expected
    assert capsys.readouterr().err == ""
    (tmp_path / "old.yaml").write_text("source: A\noptimizer: {lr: 0.5, learning_rate: 1}\n")
    with pytest.raises(UserError, match=r"optimizer\.lr is the old name of optimizer\.learning_rate.*remove"):
        read("--config", str(tmp_path / "old.yaml"))


def test_a_block_moves_with_what_is_in_it() -> None:
    old = {"optim": {"lr": 0.5}, "optimizer": {"warm_up": True}, "source": "A"}
    assert with_new_keys(old, Settings) == {"optimizer": {"learning_rate": 0.5, "warm_up": True}, "source": "A"}
    assert old["optim"] == {"lr": 0.5}


def test_a_run_of_an_older_version_is_continued(tmp_path: Path) -> None:
    config = Settings("A", optimizer=Inner(0.5, warm_up=True))
    (tmp_path / folder.CONFIG).write_text("source: A\noptim: {lr: 0.5}\nfrom_scratch: true\n")
    assert folder.adopt(tmp_path, config, ()) == {}
    with pytest.raises(UserError, match=r"optimizer\.learning_rate=0\.1 differs from 0\.5"):
        folder.adopt(tmp_path, Settings("A", optimizer=Inner(warm_up=True)), ())


def test_print_config_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (("--print_config", "learning_rate: 0.1"), ("--print-config", "source: A"), ("--help", "--from")):
        with pytest.raises(SystemExit) as ended:
            read("A", word)
        assert ended.value.code == 0
        assert said in capsys.readouterr().out


def test_shell_scripts_get_the_exit_codes() -> None:
    shell = 'eval "$(python -m launch.command.exit_codes)"; echo "[$BAD_INPUT,$STOPPED,$HUNG,$INTERRUPTED]"'
    done = subprocess.run(
        ["bash", "-c", shell.replace("python", sys.executable)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        *(exit_codes.BAD_INPUT, exit_codes.STOPPED, exit_codes.HUNG, exit_codes.INTERRUPTED)
    ]


def test_a_command_that_computed_ends_without_the_interpreters_clean_up_but_waits_for_threads(tmp_path: Path) -> None:
    """In the clean-up some have aborted."""
    written = tmp_path / "written"
    code = f"""
import atexit, os, sys, threading, time
from pathlib import Path
from launch.command import cli

class Aborts:
    def __del__(self):
        os.abort()

def write():
    threading.main_thread().join()
    Path({str(written)!r}).touch()

def main():
    import torch
    torch.kept = Aborts()
    atexit.register(print, "registered")
    threading.Thread(target=write).start()
    print("done")
    return 3

cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (3, ["done", "registered"], "")
    assert written.exists()
