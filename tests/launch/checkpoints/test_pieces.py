"""State in pieces: any way of sharing out reads what any other has written; in the background too."""

from __future__ import annotations

import itertools
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.checkpoint import main
from launch.checkpoints import folders, writing
from launch.checkpoints import store as checkpoint
from launch.checkpoints.pieces import Piece, PieceState, Reader, write_pieces
from launch.command.cli import UserError
from launch.config import RunConfig
from launch.run.runtime import Run
from launch.run.starting import start_run
from tests.distributed import run_distributed_test


def pieces(*cuts: int, shape: tuple[int, ...] = (4, 5), fill: torch.Tensor | None = None) -> list[Piece]:
    """A weight of 20 numbers, 0 to 19 (or `fill`), cut at these places."""
    values = torch.arange(20.0) if fill is None else fill
    bounds = [0, *cuts, 20]
    return [Piece("w", shape, a, values[a:b]) for a, b in itertools.pairwise(bounds)]


def test_any_stretch_is_found_in_files_cut_elsewhere(tmp_path: Path) -> None:
    for number, piece in enumerate(pieces(3, 3, 11)):
        with (tmp_path / f"w.part{number}.safetensors").open("wb") as file:
            write_pieces([piece], file)
    reader = Reader(sorted(tmp_path.iterdir()))
    assert reader("w", 2, 10).tolist() == list(range(2, 12))
    assert reader.whole("w").tolist() == torch.arange(20.0).view(4, 5).tolist()
    with pytest.raises(UserError, match="lacks values of w"):
        reader("w", 15, 6)
    with pytest.raises(UserError, match="lacks values of v"):
        reader("v", 0, 1)


@pytest.mark.parametrize("cuts", [(), (1,), (3, 11), (3, 3, 11), (5, 10, 15), (19,)])
def test_every_stretch_is_found(cuts: tuple[int, ...], tmp_path: Path) -> None:
    for number, piece in enumerate(reversed(pieces(*cuts))):
        with (tmp_path / f"w.part{number}.safetensors").open("wb") as file:
            write_pieces([piece], file)
    files = [path for path in sorted(tmp_path.iterdir()) if load_file(path)]  # a part may be empty
    reader = Reader(files)
    for start in range(20):
        for count in range(1, 21 - start):
            assert reader("w", start, count).tolist() == list(range(start, start + count))
        with pytest.raises(UserError, match="lacks values of w"):
            reader("w", start, 21 - start)


def test_a_frozen_piece_is_a_copy_without_a_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    (piece,) = PieceState(lambda: [Piece("w", (3,), 0, weight)], everywhere=True).frozen().pieces()
    with torch.no_grad():
        weight += 1
    assert piece.values.tolist() == [1, 1, 1] and not piece.values.requires_grad


def test_stretches_that_overlap_are_read_once(tmp_path: Path) -> None:
    values = torch.arange(20.0)
    with (tmp_path / "w.part0.safetensors").open("wb") as file:
        write_pieces([Piece("w", (20,), a, values[a:b]) for a, b in ((0, 8), (2, 3), (4, 12), (12, 20))], file)
    assert Reader([tmp_path / "w.part0.safetensors"])("w", 1, 18).tolist() == list(range(1, 19))


def test_a_files_header_ends_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for name in ("w", "ww", "www", "wwwwwww"):
        with (tmp_path / name).open("wb") as file:
            write_pieces([Piece(name, (2, 1), 0, torch.tensor([1.0, 2.0]))], file)
        contents = (tmp_path / name).read_bytes()
        length = int.from_bytes(contents[:8], "little")
        assert length % 8 == 0 and len(contents) == 8 + length + 8
        assert Reader([tmp_path / name]).whole(name).tolist() == [[1.0], [2.0]]


def test_the_files_are_plain_safetensors(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        write_pieces([*pieces(7), Piece("steps", (1,), 0, torch.tensor([3.0], dtype=torch.float64))], file)
    found = load_file(tmp_path / "file")
    assert found.keys() == {"w:0", "w:7", "steps:0"}
    assert found["w:7"].tolist() == list(range(7, 20))


def save_own_piece(folder: str) -> None:
    config = RunConfig(folder, trackers=[], save_in_background=True)
    with start_run(config, config) as run:
        mine = pieces(13)[run.rank]
        checkpoint.save(run.folder, 5, {"net": PieceState(lambda: [mine], everywhere=False)}, run)
        mine.values.zero_()  # training goes on: what was copied is saved
        whole = torch.zeros(20)
        state = PieceState(lambda: pieces(fill=whole), everywhere=False)
        assert checkpoint.load_latest(run.folder, {"net": state}, run) == 5
        assert whole.tolist() == list(range(20))


def test_ranks_write_their_pieces_in_the_background_and_one_reads_them(tmp_path: Path, capsys: Any) -> None:
    run_distributed_test(save_own_piece, 2, [str(tmp_path)])
    whole = torch.zeros(20)
    state = PieceState(lambda: pieces(2, 9, fill=whole), everywhere=True)
    assert checkpoint.load_latest(tmp_path, {"net": state}) == 5
    assert whole.tolist() == list(range(20))
    assert main([str(tmp_path), "--list"]) == 0
    assert "2 ranks: net.part*.safetensors" in capsys.readouterr().out
    assert main([str(tmp_path), "--export", str(tmp_path / "out")]) == 0
    assert load_file(tmp_path / "out" / "net.safetensors")["w"].shape == (4, 5)
    damaged = tmp_path / "checkpoints" / "step-000000005" / "net.part1.safetensors"
    os.truncate(damaged, 40)
    assert main([str(tmp_path), "--verify"]) == 1
    assert "net.part1.safetensors is truncated" in capsys.readouterr().out


def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written until the event is set."""
    gate, real = threading.Event(), writing.write

    def waiting(*arguments: Any) -> Any:
        assert gate.wait(20)
        return real(*arguments)

    monkeypatch.setattr(writing, "write", waiting)
    return gate


def test_training_goes_on_while_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_disk(monkeypatch)
    config = RunConfig(str(tmp_path), trackers=[], save_in_background=True)
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with start_run(config, config) as run:
        checkpoint.save(run.folder, 1, {"model": model}, run)
        with torch.no_grad():
            model.weight.zero_()
        assert folders.steps(tmp_path) == [], "it is still being written"
        gate.set()
    assert folders.steps(tmp_path) == [1], "the run's end waits for it"
    assert checkpoint.load_latest(tmp_path, {"model": model}) == 1
    assert torch.equal(model.weight, before)


def test_a_save_waits_for_the_one_before_and_says_where_it_writes(tmp_path: Path) -> None:
    config = RunConfig(str(tmp_path), trackers=[], save_in_background=True)
    state = {"model": torch.nn.Linear(2, 2)}
    waited = []
    with start_run(config, config) as run:
        assert checkpoint.save(run.folder, 1, state, run) == tmp_path / "checkpoints" / "step-000000001"
        first = run.unfinished
        assert first is not None
        run.unfinished = lambda: waited.append(first())
        assert checkpoint.save(run.folder, 2, state, run) == tmp_path / "checkpoints" / "step-000000002"
        assert waited == [True] and 1 in folders.steps(tmp_path)


def full(*arguments: Any) -> Any:
    raise OSError(28, "No space left on device")


def run_with_full_disk(place: Path, on_save_error: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    config = RunConfig(str(place), trackers=[], save_in_background=True, on_save_error=on_save_error)
    state = {"model": torch.nn.Linear(2, 2)}
    with start_run(config, config) as run:
        checkpoint.save(run.folder, 1, state, run)
        run.finish_saving()
        monkeypatch.setattr(writing, "write", full)
        checkpoint.save(run.folder, 2, state, run)
    return run


def test_a_full_disk_is_told_afterwards_and_decided_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        run_with_full_disk(tmp_path / "on", "continue", patch)
    assert re.search(r"checkpoint of step 2 in .* can't be written", capsys.readouterr().err)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"No space left.*that of step 1 is the newest"):
        run_with_full_disk(tmp_path / "off", "stop", patch)
    for name in ("on", "off"):
        assert folders.steps(tmp_path / name) == [1]
        assert folders.verify(tmp_path / name / "checkpoints" / "step-000000001") is None
        assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == ["step-000000001"]


def test_the_form_of_a_part_must_be_the_same(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"net": torch.nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"holds net\.pt but this run needs net\.safetensors"):
        checkpoint.load_latest(tmp_path, {"net": PieceState(lambda: pieces(), everywhere=True)})
