"""Checkpoints: exact, atomic, checked, and passed over where damaged."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.checkpoints import folders, writing
from launch.checkpoints import store as checkpoint
from launch.command.cli import UserError
from launch.config import RunConfig
from launch.run.starting import start_run
from tests.distributed import run_distributed_test


class Counter:
    def __init__(self, value: int = 0):
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


def parts(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def weights(state: dict[str, Any]) -> list[torch.Tensor]:
    moments = [value for entry in state["optimizer"].state_dict()["state"].values() for value in entry.values()]
    return [*state["model"].state_dict().values(), *moments]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    saved, loaded = parts(0), parts(1)
    assert not same(saved, loaded)
    checkpoint.save(tmp_path, 7, saved)
    assert checkpoint.load_latest(tmp_path, loaded) == 7
    assert same(saved, loaded)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path, parts()) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, parts(), keep=2)
    assert folders.steps(tmp_path) == [10, 3]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, parts(0))
    checkpoint.save(tmp_path, 1, parts(1))
    assert checkpoint.load_latest(tmp_path, loaded := parts(2)) == 1
    assert same(loaded, parts(1))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (truncate, "model.pt", "truncated"),
        (flip_a_bit, "optimizer.pt", "altered"),
        (Path.unlink, "model.pt", "missing"),
        (Path.unlink, "manifest.json", "missing"),
        (truncate, "manifest.json", "can't be read"),
    ],
)
def test_a_damaged_one_is_passed_over_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, file: str, reason: str
) -> None:
    older = parts(0)
    checkpoint.save(tmp_path, 1, older)
    newest = checkpoint.save(tmp_path, 2, parts(1))
    damage(newest / file)
    loaded = parts(2)
    assert checkpoint.load_latest(tmp_path, loaded) == 1
    assert same(loaded, older)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert reason in warning
    assert file in warning
    assert newest.name in warning


def test_another_format_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint.save(tmp_path, 1, parts(0))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    assert checkpoint.load_latest(tmp_path, parts(1)) is None
    assert "manifest.json has format 2, this program reads 1" in capsys.readouterr().err


def test_a_checkpoint_is_described_in_a_line(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, {"model": torch.nn.Linear(1000, 500)})
    assert folders.described(path) == "2.0 MB, 1 ranks: model.pt"
    many = checkpoint.save(tmp_path, 2, {name: torch.nn.Linear(1, 1) for name in "hbfadgce"})
    assert folders.described(many).endswith(": a.pt, b.pt, c.pt, d.pt, e.pt, f.pt, g.pt, h.pt")
    (path / "manifest.json").unlink()
    assert folders.described(path) == "manifest.json is missing or can't be read"


class Full:
    """A part that meets a full disk, as torch's writer tells it: in a RuntimeError of its own, or not at all."""

    def __init__(self, hidden: bool):
        self.hidden = hidden

    def state_dict(self) -> dict[str, Any]:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            if self.hidden:
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
            raise


@pytest.mark.parametrize("hidden", [True, False])
def test_a_full_disk_is_one_line_and_leaves_the_older_one(tmp_path: Path, hidden: bool) -> None:
    checkpoint.save(tmp_path, 1, parts(0))
    with pytest.raises(
        UserError, match=r"step 2 in .* can't be written \(No space left.*\); that of step 1 is the newest"
    ):
        checkpoint.save(tmp_path, 2, {"model": Full(hidden)})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "No space left on device"), "No space left"), (OSError("quota"), "quota")]
)
def test_a_disk_that_takes_no_folder_is_told_by_its_own_words(
    tmp_path: Path, error: OSError, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "_make_empty", fail)
    with pytest.raises(UserError, match=rf"step 1 .*can't be written .*{told}.*there is no older one"):
        checkpoint.save(tmp_path, 1, parts())


def test_other_failures_of_a_part_are_raised(tmp_path: Path) -> None:
    class Broken:
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("not a matter of the disk")

    with pytest.raises(RuntimeError, match="not a matter of the disk"):
        checkpoint.save(tmp_path, 1, {"model": Broken()})  # type: ignore[dict-item]


def test_a_frozen_state_is_a_copy_all_the_way_down() -> None:
    weight = torch.ones(2, requires_grad=True)
    state = {"list": [weight, {"pair": (weight, 3)}], "word": "x", "none": None}

    class Part:
        def state_dict(self) -> dict[str, Any]:
            return state

    copied = writing.frozen({"part": Part()})["part"].state_dict()
    with torch.no_grad():
        weight += 1
    assert not copied["list"][0].requires_grad
    assert copied["list"][0].tolist() == copied["list"][1]["pair"][0].tolist() == [1.0, 1.0]
    assert isinstance(copied["list"][1]["pair"], tuple) and copied["list"][1]["pair"][1] == 3
    assert (copied["word"], copied["none"]) == ("x", None)


def test_what_goes_wrong_in_the_background_is_raised_where_it_is_waited_for() -> None:
    def work() -> str | None:
        raise MemoryError("no room for a copy")

    with pytest.raises(MemoryError, match="no room for a copy"):
        writing.Background(work).wait()
    assert writing.Background(lambda: "the disk is full").wait() == "the disk is full"


def test_a_kill_while_saving_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, parts(0), keep=1)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "_finish", killed)
        checkpoint.save(tmp_path, 2, parts(1), keep=1)
    loaded = parts(2)
    assert checkpoint.load_latest(tmp_path, loaded) == 1
    assert same(loaded, parts(0))
    checkpoint.save(tmp_path, 2, parts(1), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000002"]


def test_other_parts_are_refused(tmp_path: Path) -> None:
    state = parts()
    checkpoint.save(tmp_path, 1, state)
    with pytest.raises(UserError, match=r"holds model\.pt, optimizer\.pt but this run needs .*ema\.pt"):
        checkpoint.load_latest(tmp_path, {**state, "ema": state["model"]})


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    path = checkpoint.save(tmp_path, 1, {"part": Counter(1)})
    torch.save(Evil(), path / "part.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    with (path / "part.pt").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest["files"]["part.pt"] = {"size": (path / "part.pt").stat().st_size, "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint.load_latest(tmp_path, {"part": Counter()})
    assert not (tmp_path / "evil").exists()


def save_on_each_rank(folder: str) -> list[str]:
    with start_run(RunConfig(folder), RunConfig(folder, trackers=[])) as run:
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        checkpoint.save(run.folder, 5, {"model": model}, run)
        assert checkpoint.load_latest(run.folder, {"model": model}, run) == 5
        return sorted(path.name for path in (run.folder / "checkpoints/step-000000005").iterdir())


def test_two_ranks_save_and_one_loads(tmp_path: Path) -> None:
    results = run_distributed_test(save_on_each_rank, 2, [str(tmp_path / "run")])
    assert results == [["manifest.json", "model.pt"]] * 2
    assert checkpoint.load_latest(tmp_path / "run", {"model": torch.nn.Linear(2, 2)}) == 5
