"""Batches of videos from shards: the same on any threads and ranks, damaged ones counted, pictures beside them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from data.config import DataConfig
from data.inspect import main as inspect
from data.reading.sets import training_sets
from data.reading.stream import Stream, every_sample
from data.shards.scanning import build_index
from data.videos.batches import VideoBatch
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from tests.data.making import jpeg, picture_set, write_tar
from tests.data.videos.making import number_of, video_set

CUT = VideoConfig(size=32, frames=5, fit="stretch")


def first(batch: VideoBatch) -> list[int]:
    """Number of each clip's first frame."""
    return [number_of(x_CHW.permute(1, 2, 0).numpy()) for x_CHW in batch.pixels_BCTHW[:, :, 0]]


def test_each_sample_once_in_its_middle(tmp_path: Path) -> None:
    path = video_set(tmp_path, [9, 5, 2, 1])
    (batch,) = every_sample(str(path), CUT, batch_size=10)
    assert isinstance(batch, VideoBatch) and batch.pixels_BCTHW.shape == (4, 3, 5, 32, 32)
    assert batch.keys == ["k000", "k002", "k001", "k003"] and batch.label_B.tolist() == [0, 0, 1, 1]
    assert first(batch) == [2, 40, 20, 60] and batch.captions[1] == "text 2"


def test_training_is_the_same_on_any_threads_and_ranks_and_resumes(tmp_path: Path) -> None:
    path = str(video_set(tmp_path, [6 + i % 9 for i in range(12)]))

    def read(threads: int, rank: int = 0, ranks: int = 1, start: int = 0) -> list[VideoBatch]:
        config = DataConfig(index=path, batch_size=4, lanes=4, transform=CUT, threads=threads)
        with Stream(config, seed=5, rank=rank, world_size=ranks) as stream:
            return list(islice(stream.batches(start), 6 - start))

    one, several, parts = read(1), read(3), [read(2, rank, 2) for rank in range(2)]
    for a, b, *halves in zip(one, several, *parts, strict=True):
        assert a.keys == b.keys and torch.equal(a.pixels_BCTHW, b.pixels_BCTHW)
        assert torch.equal(torch.cat([half.pixels_BCTHW for half in halves]), a.pixels_BCTHW)
    assert torch.equal(read(2, start=4)[0].pixels_BCTHW, one[4].pixels_BCTHW)
    starts: dict[str, set[int]] = {}
    for batch in one:
        for key, number in zip(batch.keys, first(batch), strict=True):
            starts.setdefault(key, set()).add(number)
    assert any(len(found) > 1 for found in starts.values()), "another epoch, another start"


def test_damaged_videos_are_replaced_and_counted_and_short_ones_dropped(tmp_path: Path) -> None:
    path = str(video_set(tmp_path, [6, 6, 6, 2, 6, 6, 6, 6], damaged=(1,)))
    config = DataConfig(index=path, batch_size=4, transform=VideoConfig(size=32, frames=5, short="drop"))
    with Stream(config, seed=0) as stream:
        keys = {key for batch in islice(stream.batches(), 6) for key in batch.keys}
        assert keys == {"k000", "k002", "k004", "k005", "k006", "k007"}
        assert sum(stream.tally.damaged.values()) and stream.tally.quarantined
    with pytest.raises(UserError, match=r"damaged, over data\.max_damaged=0\.0"):
        list(every_sample(path, CUT, batch_size=8, max_damaged=0.0))


def test_a_mixture_with_pictures_alternates_whole_batches(tmp_path: Path) -> None:
    videos = str(video_set(tmp_path / "v", [6] * 8, damaged=(1,)))
    tar = write_tar(tmp_path / "p.tar", [(f"p{i}", {"jpg": jpeg(i)}) for i in range(9)])
    build_index([tar], base=tmp_path).save(tmp_path / "p.json")
    pictures = str(tmp_path / "p.json")
    config = DataConfig(index=videos, mixture={pictures: 0.5}, batch_size=4, transform=CUT)
    with Stream(config, seed=3) as stream:
        batches = list(islice(stream.batches(), 12))
    frames = [batch.pixels_BCTHW.shape[2] for batch in batches]
    assert sorted(frames) == [1] * 4 + [5] * 8, "a third of the batches, evenly spread"
    assert np.diff(np.flatnonzero(np.array(frames) == 1)).max() <= 4
    assert {key[0] for batch in batches for key in batch.keys if batch.pixels_BCTHW.shape[2] == 5} == {"k"}
    assert "k001" not in {key for batch in batches for key in batch.keys}, "the next video takes its place"
    seen = [key for batch in batches for key in batch.keys if batch.pixels_BCTHW.shape[2] == 1]
    assert len(set(seen[:8])) == 8, "pictures go on where their last batch ended"
    with Stream(config, seed=3) as stream:
        assert torch.equal(next(iter(stream.batches(7))).pixels_BCTHW, batches[7].pixels_BCTHW)
    halves = []
    for rank in range(2):
        with Stream(config, seed=3, rank=rank, world_size=2) as stream:
            halves.append(list(islice(stream.batches(), 6)))
    for a, b, whole in zip(*halves, batches, strict=False):
        assert torch.equal(torch.cat([a.pixels_BCTHW, b.pixels_BCTHW]), whole.pixels_BCTHW)
    assert list(training_sets(config, say=lambda _: None)) == ["data.index", f"data.mixture[{pictures}]"]


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    videos, pictures = str(video_set(tmp_path / "v", [6] * 4)), str(picture_set(tmp_path / "p", [4]))
    with pytest.raises(UserError, match="holds pictures, not videos"):
        training_sets(DataConfig(index=pictures, batch_size=4, transform=CUT))
    with pytest.raises(UserError, match=r"holds videos, not pictures: .* data\.transform\.kind=videos"):
        training_sets(DataConfig(index=pictures, mixture={videos: 1.0}, batch_size=4))


def test_inspecting(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = str(video_set(tmp_path, [6, 2, 1, 9], damaged=(3,)))
    assert inspect([path, "--verify", "true", "--contact_sheet", str(tmp_path / "s.png"), "--processes", "1"]) == 1
    said = capsys.readouterr().out
    assert "4 samples (videos)" in said and "unsound samples: 1" in said and (tmp_path / "s.png").exists()
