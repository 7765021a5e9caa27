"""One encoding shared out to several jobs: each takes some of the shards, and this command joins their indexes.

    python -m stage2_prior.encode … --out DIR --part 0 --parts 8      # and 1 … 7; DIR/part-00000-of-00008 python -m
    stage2_prior.codes.shares --out DIR --parts 8                  # DIR/index.json, in the order of the pictures

K codes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.shards.index import Shard, ShardIndex
from data.shards.loading import load_index
from data.shards.offsets import ShardOffsets
from launch.command.cli import UserError, parse, run
from stage2_prior.codes.usage import summary

INDEX, NUMBERS = "index.json", "picture_shards"


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Join the indexes of an encoding's parts."""

    out: str
    """The folder of the whole encoding."""
    parts: int
    """How many parts it has."""


def part_folder(out: str, part: int, parts: int) -> str:
    """Where a part's codes go."""
    return os.fspath(Path(out) / f"part-{part:05d}-of-{parts:05d}")


def shards_of(rank: int, world_size: int, sizes: Sequence[int]) -> list[int]:
    """The shards that a rank (or part) encodes: largest first, each to who has the least so far. Disjoint, complete."""
    load = [0] * world_size
    mine = []
    for shard in sorted(range(len(sizes)), key=lambda shard: (-sizes[shard], shard)):
        chosen = min(range(world_size), key=lambda other: (load[other], other))
        load[chosen] += sizes[shard]
        if chosen == rank:
            mine.append(shard)
    return sorted(mine)


def share(index: ShardIndex, part: int, parts: int) -> ShardIndex:
    """The pictures of one part; meta says which shards of the whole they are. UserError for a part without any."""
    numbers = shards_of(part, parts, index.sizes)
    if not numbers:
        raise UserError(f"parts={parts} is more than the {len(index.shards)} shards: set it to {len(index.shards)}")
    offsets = None
    if index.offsets is not None:
        offsets = ShardOffsets.from_starts([index.offsets.of_shard(number).tolist() for number in numbers])
    shards = tuple(index.shards[number] for number in numbers)
    return replace(index, shards=shards, offsets=offsets, meta={**index.meta, NUMBERS: numbers})


def join(out: str, parts: int) -> ShardIndex:
    """Write OUT/index.json from the parts' and return it. UserError where a part is unfinished or unlike another."""
    found: dict[int, Shard] = {}
    histogram_K, captions, first = np.zeros(0, dtype=np.int64), 0, None
    for part in range(parts):
        folder = Path(part_folder(out, part, parts))
        if not (folder / INDEX).exists():
            raise UserError(f"{folder} has no {INDEX}: finish part {part} of {parts} first")
        index = load_index(folder / INDEX)
        meta = {key: value for key, value in index.meta.items() if key not in _OWN}
        if first is None:
            first, histogram_K = replace(index, meta=meta), np.zeros(len(index.meta["histogram"]), dtype=np.int64)
        elif meta != first.meta:
            raise UserError(f"{folder} is of another tokenizer or other options than part 0: encode it anew")
        histogram_K += np.asarray(index.meta["histogram"])
        captions += index.meta.get("captions", 0)
        for number, shard in zip(index.meta[NUMBERS], index.shards, strict=True):
            found[number] = replace(shard, url=f"{folder.name}/{shard.url}")
    if first is None or sorted(found) != list(range(len(found))):
        raise UserError(f"out={out}: the parts don't make a whole: encode them all from one index, with one --parts")
    meta = {**first.meta, **({"captions": captions} if captions else {}), **summary(histogram_K)}
    meta["histogram"] = histogram_K.tolist()
    whole = replace(first, shards=tuple(found[number] for number in sorted(found)), meta=meta, offsets=None)
    whole = replace(whole, base=out, path="")
    whole.save(Path(out) / INDEX)
    return whole


_OWN = (NUMBERS, "captions", "histogram", "used", "perplexity")
"""What differs from part to part."""


def main() -> int:
    """The command."""
    config = parse(JoinConfig, prog="python -m stage2_prior.codes.shares")
    index = join(config.out, config.parts)
    print(f"{Path(config.out) / INDEX}: {len(index)} samples in {len(index.shards)} shards")
    return 0


if __name__ == "__main__":
    run(main)
