"""An encoding in parts: shards shared out, indexes joined to what one job would have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.shards.index import Shard, ShardIndex
from launch.command.cli import UserError
from stage2_prior.codes import shares
from stage2_prior.codes.shares import INDEX, join, part_folder, share


def pictures(count: int = 5) -> ShardIndex:
    shards = tuple(Shard(f"pictures-{number}.tar", 10 + number) for number in range(count))
    return ShardIndex(shards, name="some", classes=["a", "b"])


def encoded(out: Path, part: int, parts: int, tokenizer: str = "abc") -> None:
    """What an encoding leaves of one part: an index of code shards named as the pictures' own."""
    given = share(pictures(), part, parts)
    shards = tuple(
        Shard(f"codes-{place:06d}.tar", shard.nsamples, 100 + shard.nsamples)
        for place, shard in enumerate(given.shards)
    )
    meta = {**given.meta, "tokenizer": tokenizer, "codebook_size": 3, "histogram": [part, 1, 0], "used": 0.1}
    folder = Path(part_folder(str(out), part, parts))
    for shard in shards:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / shard.url).write_bytes(b"\0" * (shard.filesize or 0))
    ShardIndex(shards, name="some", classes=["a", "b"], kind="codes", meta=meta).save(folder / INDEX)


@pytest.fixture(autouse=True)
def no_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shards here are no tars: read the indexes without looking into them."""
    import json

    def load(path: Path) -> ShardIndex:
        return ShardIndex.from_json(json.loads(Path(path).read_text()), str(Path(path).parent), str(path))

    monkeypatch.setattr(shares, "load_index", load)


def test_parts_are_disjoint_and_complete() -> None:
    taken = [shard.url for part in range(3) for shard in share(pictures(), part, 3).shards]
    assert sorted(taken) == [f"pictures-{number}.tar" for number in range(5)]


def test_more_parts_than_shards_are_refused() -> None:
    with pytest.raises(UserError, match=r"parts=6 is more than the 5 shards"):
        share(pictures(), 5, 6)


def test_joined_parts_have_the_order_of_the_pictures(tmp_path: Path) -> None:
    for part in range(3):
        encoded(tmp_path, part, 3)
    whole = join(str(tmp_path), 3)
    assert whole.sizes == pictures().sizes
    assert whole.meta["histogram"] == [3, 3, 0]
    assert "picture_shards" not in whole.meta
    assert all((tmp_path / shard.url).exists() for shard in whole.shards)


def test_an_unfinished_or_foreign_part_is_refused(tmp_path: Path) -> None:
    encoded(tmp_path, 0, 2)
    with pytest.raises(UserError, match="finish part 1 of 2 first"):
        join(str(tmp_path), 2)
    encoded(tmp_path, 1, 2, tokenizer="another")
    with pytest.raises(UserError, match="differs from part 0 in its pictures, tokenizer"):
        join(str(tmp_path), 2)
