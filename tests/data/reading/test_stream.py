"""Batches: the same for all threads and ranks, resumed exactly, complete in evaluation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.config import CodeDataConfig, DataConfig
from data.pictures.config import TransformConfig
from data.reading.stream import Stream, every_code, every_sample
from launch.command.cli import UserError
from tests.data.making import code_set, picture_set
from tests.distributed import run_distributed_test

RANDOM = TransformConfig(size=16, flip=True, random_crop=True, min_scale=0.7)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_set(tmp_path_factory.mktemp("pictures"), [10, 17, 21])


def config(index: Path, **values: Any) -> DataConfig:
    return DataConfig(index=str(index), **{"batch_size": 8, "window": 5, "transform": RANDOM, **values})


def take(config: DataConfig, count: int, start: int = 0, rank: int = 0, world_size: int = 1) -> list[Any]:
    with Stream(config, seed=7, rank=rank, world_size=world_size) as stream:
        return list(islice(stream.batches(start), count))


def same(left: Any, right: Any) -> bool:
    return (
        left.step == right.step
        and left.keys == right.keys
        and torch.equal(left.label_B, right.label_B)
        and torch.equal(left.pixels_BCHW, right.pixels_BCHW)
    )


def test_threads_and_read_ahead_do_not_change_the_batches(pictures: Path) -> None:
    one = take(config(pictures, threads=1, read_ahead=1), 15)
    four = take(config(pictures, threads=4, read_ahead=6), 15)
    assert all(map(same, one, four))
    assert one[0].pixels_BCHW.shape == (8, 3, 16, 16) and one[0].pixels_BCHW.dtype == torch.uint8


def test_early_batches_are_the_same_samples_in_their_own_size(pictures: Path) -> None:
    early = config(pictures, early_steps=4, early_size=8)
    whole, plain = take(early, 6), take(config(pictures), 6)
    assert [batch.pixels_BCHW.shape[-1] for batch in whole] == [8] * 4 + [16] * 2
    assert [batch.keys for batch in whole] == [batch.keys for batch in plain]
    assert all(map(same, whole[4:], plain[4:]))
    assert all(map(same, take(early, 3, start=3), whole[3:]))
    small = take(config(pictures, transform=replace(RANDOM, size=8)), 4)
    assert all(map(same, whole, small))
    held_out = list(every_sample(str(pictures), RANDOM, batch_size=8))
    assert {batch.pixels_BCHW.shape[-1] for batch in held_out} == {16}


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_give_the_global_batches(pictures: Path, world_size: int) -> None:
    whole = take(config(pictures), 6)
    parts = [take(config(pictures), 6, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert [key for part in parts for key in part[step].keys] == batch.keys
        assert torch.equal(torch.cat([part[step].pixels_BCHW for part in parts]), batch.pixels_BCHW)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_resume_on_other_ranks_continues_the_sequence(pictures: Path, before: int, after: int) -> None:
    whole = [batch.keys for batch in take(config(pictures), 12)]

    def keys(world_size: int, start: int, count: int) -> list[list[str]]:
        ranks = [take(config(pictures), count, start, rank, world_size) for rank in range(world_size)]
        return [[key for batches in ranks for key in batches[i].keys] for i in range(count)]

    assert keys(before, 0, 5) + keys(after, 5, 7) == whole


def keys_of_the_processes(index: str, stretches: list[tuple[int, int]]) -> list[list[list[str]]]:
    """One of several processes: of each (start, count), its rank's parts put together with the others'."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = []
    for start, count in stretches:
        own = [batch.keys for batch in take(config(Path(index)), count, start, rank, world_size)]
        gathered: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(gathered, own)
        found.append([[key for part in gathered for key in part[i]] for i in range(count)])
    return found


def test_two_processes_and_one_continue_each_others_sequence(pictures: Path) -> None:
    """2 → 1 and 1 → 2, with processes of their own and a process group."""
    whole = [batch.keys for batch in take(config(pictures), 12)]
    both = run_distributed_test(keys_of_the_processes, 2, [str(pictures), [(0, 5), (5, 7)]])
    assert both == [[whole[:5], whole[5:]]] * 2


def test_a_resume_gives_the_same_pixels(pictures: Path) -> None:
    assert all(map(same, take(config(pictures), 9)[4:], take(config(pictures), 5, start=4)))


def test_an_epoch_holds_each_sample_once_with_its_label(pictures: Path) -> None:
    batches = take(config(pictures), 6)
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == 48
    first = {0: 0, 1: 10, 2: 27}
    for batch in batches:
        for key, label in zip(batch.keys, batch.label_B.tolist(), strict=True):
            assert label == (first[int(key[1:3])] + int(key[4:])) % 3


def test_a_kept_batch_is_not_overwritten(pictures: Path) -> None:
    with Stream(config(pictures, read_ahead=1), seed=7) as stream:
        batches = stream.batches()
        first = next(batches)
        copy = first.pixels_BCHW.clone()
        for _ in range(5):
            next(batches)
        assert torch.equal(first.pixels_BCHW, copy)


def test_the_augmentation_changes_with_the_epoch(pictures: Path) -> None:
    with Stream(config(pictures), seed=7) as stream:
        pixels: dict[str, set[bytes]] = {}
        for batch in islice(stream.batches(), 24):
            for key, row in zip(batch.keys, batch.pixels_BCHW, strict=True):
                pixels.setdefault(key, set()).add(row.numpy().tobytes())
    assert np.mean([len(seen) for seen in pixels.values()]) > 3


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_once_in_index_order(pictures: Path, world_size: int) -> None:
    keys, sizes = [], []
    for rank in range(world_size):
        for batch in every_sample(str(pictures), RANDOM, batch_size=7, rank=rank, world_size=world_size):
            keys += batch.keys
            sizes.append(len(batch.keys))
    assert keys == sorted(keys) and len(set(keys)) == 48
    assert max(sizes) == 7


def test_every_sample_does_nothing_random_and_keeps_to_its_limit(pictures: Path) -> None:
    plain = TransformConfig(size=16)
    left = next(every_sample(str(pictures), RANDOM, batch_size=48))
    right = next(every_sample(str(pictures), plain, batch_size=48, threads=4))
    assert torch.equal(left.pixels_BCHW, right.pixels_BCHW)
    limited = [key for batch in every_sample(str(pictures), plain, batch_size=5, limit=12) for key in batch.keys]
    assert limited == left.keys[::4]


def test_codes_come_back(tmp_path: Path) -> None:
    path = code_set(tmp_path, [6, 5])
    with Stream(CodeDataConfig(index=str(path), batch_size=4), seed=1) as stream:
        seen = Counter()
        for batch in islice(stream.batches(), 5):
            assert batch.idx_Bhw.shape == (4, 2, 3) and batch.idx_Bhw.dtype == torch.int64
            for key, codes, label in zip(batch.keys, batch.idx_Bhw, batch.label_B.tolist(), strict=True):
                number = int(key[4:]) + (6 if key.startswith("c01") else 0)
                assert codes.flatten().tolist() == [(number + i) % 50 for i in range(6)] and label == 1
                seen[key] += 1
        assert len(seen) >= 8
        assert stream.index.meta["codebook_size"] == 50
    assert sum(len(batch.keys) for batch in every_code(str(path), batch_size=4)) == 11


def test_mixtures_draw_from_each_index_and_resume(pictures: Path, tmp_path: Path) -> None:
    other = picture_set(tmp_path, [30], name="other")
    values = {"mixture": {str(other): 0.5}, "lanes": 4, "batch_size": 8}
    whole = take(config(pictures, **values), 30)
    assert "s00-0029" in {key for batch in whole for key in batch.keys}
    assert "s02-0020" in {key for batch in whole for key in batch.keys}
    again = take(config(pictures, **values), 10, start=20)
    assert all(map(same, whole[20:], again))


@pytest.mark.parametrize(
    ("values", "world_size", "words"),
    [
        ({}, 3, "not a multiple of the 3 ranks"),
        ({"batch_size": 96, "lanes": 96}, 1, "more than the 48 samples"),
    ],
)
def test_numbers_that_do_not_fit_are_one_line(pictures: Path, values: dict, world_size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        take(config(pictures, **values), 1, world_size=world_size)


def test_a_missing_or_changed_shard_is_one_line_before_the_first_batch(tmp_path: Path) -> None:
    path = picture_set(tmp_path, [4, 4])
    shard = tmp_path / "set-01.tar"
    raw = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=r"missing shard: .*set-01\.tar"):
        Stream(config(path), seed=0)
    shard.write_bytes(raw + b"\0" * 512)
    with pytest.raises(UserError, match=r"another size .*set-01\.tar"):
        Stream(config(path), seed=0)
    with pytest.raises(UserError, match="another size"):
        every_sample(str(path), RANDOM, batch_size=2)


def test_codes_and_pictures_are_not_taken_for_each_other(pictures: Path, tmp_path: Path) -> None:
    codes = code_set(tmp_path, [8])
    with pytest.raises(UserError, match="holds codes, not pictures"):
        Stream(config(codes), seed=0)
    with pytest.raises(UserError, match="holds pictures, not codes"):
        Stream(CodeDataConfig(index=str(pictures), batch_size=4), seed=0)
