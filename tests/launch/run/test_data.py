"""A run keeps to the data that it began on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launch.command.cli import UserError
from launch.config import RunConfig
from launch.run.data import DATA
from launch.run.starting import start_run


@dataclass(frozen=True)
class Sets:
    """The block of data."""

    index: str = "a.json"
    """Trained on."""
    held_out: str = "b.json"
    """Evaluated on."""


@dataclass(frozen=True)
class JobConfig:
    """A run on some data."""

    run: RunConfig
    """The run."""
    data: Sets = field(default_factory=Sets)
    """Its data."""


@dataclass(frozen=True)
class Thing:
    """A data set of one fact."""

    fact: int

    def to_dict(self) -> dict[str, Any]:
        return {"fact": self.fact}

    def difference(self, saved: Mapping[str, Any]) -> str:
        return "" if saved["fact"] == self.fact else f"fact {self.fact}, not {saved['fact']}"


def start(folder: Path, trained: int, evaluated: int = 7, *, allow: list[str] | None = None, **paths: str) -> str:
    """Start a run and end it; its log."""
    run = RunConfig(str(folder / "run"), trackers=[], allow_changes=allow or [])
    data = {"data.index": Thing(trained), "data.held_out": Thing(evaluated)}
    with start_run(JobConfig(run, Sets(**paths)), run, free=["data.held_out"], data=data) as started:
        started.say("began")
    return (folder / "run" / "log.txt").read_text()


def test_the_same_data_go_on_also_from_another_place(tmp_path: Path) -> None:
    start(tmp_path, 1)
    start(tmp_path, 1)
    assert "other data" not in start(tmp_path, 1, index="moved/a.json")


def test_other_data_at_the_same_path_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    start(tmp_path, 1)
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.suffix in (".json", ".yaml")}
    with pytest.raises(UserError, match=r"data\.index .*fact 2, not 1.*run\.allow_changes=\[data\.index\]") as error:
        start(tmp_path, 2)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"data\.held_out .*fact 8, not 7"):
        start(tmp_path, 1, 8)
    assert before == {file: file.read_bytes() for file in before}
    start(tmp_path, 1)


def test_an_allowed_change_is_told_recorded_and_lasts(tmp_path: Path) -> None:
    start(tmp_path, 1)
    assert "the run goes on with other data in data.index: fact 2, not 1" in start(tmp_path, 2, allow=["data.index"])
    assert "fact 2, not 1" in json.loads((tmp_path / "run" / "run.json").read_text())["notes"][0]
    start(tmp_path, 2)
    with pytest.raises(UserError, match="fact 1, not 2"):
        start(tmp_path, 1)


def test_a_free_setting_that_names_another_set_is_told(tmp_path: Path) -> None:
    start(tmp_path, 1)
    assert "other data in data.held_out: fact 8, not 7" in start(tmp_path, 1, 8, held_out="c.json")


def test_a_run_from_before_is_noted_and_kept_from_then_on(tmp_path: Path) -> None:
    start(tmp_path, 1)
    (tmp_path / "run" / DATA).unlink()
    assert "doesn't say which data" in start(tmp_path, 2)
    with pytest.raises(UserError, match="fact 1, not 2"):
        start(tmp_path, 1)


@pytest.mark.parametrize("content", ["{", '{"data.index": {}}', '{"data.index": 3}'])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    start(tmp_path, 1)
    (tmp_path / "run" / DATA).write_text(content)
    with pytest.raises(UserError, match=r"data\.json can't be read"):
        start(tmp_path, 1)


def test_a_block_may_be_allowed_as_a_whole(tmp_path: Path) -> None:
    start(tmp_path, 1)
    config = JobConfig(RunConfig(str(tmp_path / "run"), trackers=[], allow_changes=["data"]), Sets(index="c.json"))
    with start_run(config, config.run):
        pass
    assert dataclasses.asdict(config)["data"]["index"] in (tmp_path / "run" / "config.yaml").read_text()
