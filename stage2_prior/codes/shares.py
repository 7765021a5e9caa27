"""An encoding split among jobs: each encodes some of the shards, and this command joins their indexes.

    python -m stage2_prior.encode … --out DIR --part 0 --parts 8     # and 1 … 7: DIR/part-00000-of-00008, …
    python -m stage2_prior.codes.shares --out DIR --parts 8          # DIR/index.json, in the order of the pictures

Shapes: K codes.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.remote.writing import there
from data.shards.index import Shard, ShardIndex
from data.shards.loading import load_index
from data.shards.locations import is_remote
from launch.command.cli import UserError, parse, run
from launch.files.outputs import try_file

INDEX, NUMBERS = "index.json", "picture_shards"
MOST_COUNTED = 1 << 16
"""Binary codes of more are counted by their bits."""


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Join the indexes of an encoding's parts."""

    out: str
    """The `out` of the parts' encoding."""
    parts: int
    """Number of parts."""


def part_folder(out: str, part: int, parts: int) -> str:
    """The folder of a part's codes."""
    return posixpath.join(out, f"part-{part:05d}-of-{parts:05d}")


def shards_of(rank: int, world_size: int, sizes: Sequence[int]) -> list[int]:
    """The shards that a rank (or part) encodes: the largest first, each to the rank with the least so far."""
    load = [0] * world_size
    mine = []
    for shard in sorted(range(len(sizes)), key=lambda shard: (-sizes[shard], shard)):
        chosen = min(range(world_size), key=lambda other: (load[other], other))
        load[chosen] += sizes[shard]
        if chosen == rank:
            mine.append(shard)
    return sorted(mine)


def share(index: ShardIndex, part: int, parts: int) -> ShardIndex:
    """The pictures of one part; its meta names their shards in the whole. UserError for an empty part."""
    numbers = shards_of(part, parts, index.sizes)
    if not numbers:
        raise UserError(f"parts={parts} is more than the {len(index.shards)} shards: set it to {len(index.shards)}")
    offsets = index.offsets and index.offsets.of_shards(numbers)
    shards = tuple(index.shards[number] for number in numbers)
    return replace(index, shards=shards, offsets=offsets, meta={**index.meta, NUMBERS: numbers})


def join(out: str, parts: int) -> ShardIndex:
    """Join the parts' indexes to OUT/index.json and return it. UserError if a part is unfinished or differs."""
    try_file("out", Path(out) / INDEX)
    shards: dict[int, Shard] = {}
    histogram_K, captions, first = np.zeros(0, dtype=np.int64), 0, None
    for part in range(parts):
        folder = part_folder(out, part, parts)
        place = f"{folder}/{INDEX}"
        if not (there(place) if is_remote(place) else Path(place).exists()):
            raise UserError(f"{folder} has no {INDEX}: finish part {part} of {parts} first")
        index = load_index(place)
        meta = {key: value for key, value in index.meta.items() if key not in _OWN}
        if first is None:
            first, histogram_K = replace(index, meta=meta), np.zeros(len(index.meta["histogram"]), dtype=np.int64)
        elif meta != first.meta:
            raise UserError(f"{folder} differs from part 0 in its pictures, tokenizer or options: encode it again")
        histogram_K += np.asarray(index.meta["histogram"])
        captions += index.meta.get("captions", 0)
        for number, shard in zip(index.meta[NUMBERS], index.shards, strict=True):
            shards[number] = replace(shard, url=f"{posixpath.basename(folder)}/{shard.url}")
    if first is None or sorted(shards) != list(range(len(shards))):
        raise UserError(
            f"out={out}: the parts are not of one encoding: encode all of them from one index with the same --parts"
        )
    use = summary(histogram_K, bits="counted" in first.meta)
    meta = {**first.meta, **({"captions": captions} if captions else {}), **use}
    meta["histogram"] = histogram_K.tolist()
    whole = replace(first, shards=tuple(shards[number] for number in sorted(shards)), meta=meta, offsets=None)
    whole = replace(whole, base=out, path="")
    whole.save(posixpath.join(out, INDEX))
    return whole


def counted_bits(codebook_size: int, binary: bool) -> tuple[int, ...]:
    """Factors of one bit each, where codes are counted by their bits: a table of all codes would grow with 2^L."""
    return (1,) * (codebook_size.bit_length() - 1) if binary and codebook_size > MOST_COUNTED else ()


def summary(histogram_K: np.ndarray, bits: bool = False) -> dict[str, float]:
    """Share of the codes that occur, and the perplexity of their distribution (K if it is uniform).

    Of codes that are counted by their `bits`, histogram_K has the numbers of zeros and ones of each: the share of these
    values that occur, and the perplexity of bits that are independent, which is not less than the codes'.
    """
    if bits:
        share_L2 = histogram_K.reshape(-1, 2) / max(1, histogram_K[:2].sum())
        nats = -np.where(share_L2 > 0, share_L2 * np.log(np.maximum(share_L2, 1e-300)), 0).sum()
        return {"used": float((histogram_K > 0).mean()), "perplexity": float(np.exp(nats))}
    share_K = histogram_K / max(1, histogram_K.sum())
    present = share_K[share_K > 0]
    entropy = float(-(present * np.log(present)).sum())
    return {"used": float((histogram_K > 0).mean()), "perplexity": float(np.exp(entropy))}


_OWN = (NUMBERS, "captions", "histogram", "used", "perplexity")
"""Meta that differs between parts."""


def main() -> int:
    """The command."""
    config = parse(JoinConfig, prog="python -m stage2_prior.codes.shares")
    index = join(config.out, config.parts)
    print(f"{posixpath.join(config.out, INDEX)}: {len(index)} samples in {len(index.shards)} shards")
    return 0


if __name__ == "__main__":
    run(main)
