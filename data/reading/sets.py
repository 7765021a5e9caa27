"""The sets that a training reads, opened and checked before any device is taken."""

from collections.abc import Callable, Sequence

from data.config import CodeDataConfig
from data.media import KINDS, media_of
from data.shards.classes import held_to
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import check_present, load_index
from launch.command.cli import UserError


def training_sets(
    config: CodeDataConfig,
    rank: int = 0,
    ranks: int = 1,
    say: Callable[[str], None] = print,
    kinds: Sequence[str] = (),
) -> dict[str, ShardIndex]:
    """The indexes by their settings: data.index, data.mixture[PATH] and data.held_out, as far as they are set.

    Each rank checks a part of the local shards. UserError for a missing or changed shard, for another kind of samples,
    and for a mixture's classes that `data.index` has not. With `kinds`, sets of these kinds may be mixed, and their
    classes have no meaning.
    """
    if not config.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    places = {"data.index": config.index, **{f"data.mixture[{path}]": path for path in config.mixture}}
    places |= {"data.held_out": config.held_out} if config.held_out else {}
    found: dict[str, ShardIndex] = {}
    for key, path in places.items():
        index = load_index(path)
        mixed = key.startswith("data.mixture") and index.kind in media_of(config.kind).mixes
        if index.kind not in (kinds or (config.kind,)) and not mixed:
            way = (
                "encode them with stage2_prior.encode" if config.kind == "codes" else f"give an index of {config.kind}"
            )
            if config.kind != "codes" and (known := KINDS.get(index.kind)) and known.transform:
                way += f", or set data.transform.kind={index.kind}"
            raise UserError(f"{key}={path} holds {index.kind}, not {config.kind}: {way}")
        check_present(index, rank, ranks)
        if key.startswith("data.mixture") and not (kinds or mixed):
            held_to(index, found["data.index"].classes, key, "data.index", say if rank == 0 else None)
        found[key] = index
    if rank == 0 and config.held_out:
        _tell_same(found, say)
    return found


def _tell_same(sets: dict[str, ShardIndex], say: Callable[[str], None]) -> None:
    """A note if the held-out set is one of the training's, by its place or by the hashes of its shards."""
    held_out = sets["data.held_out"]
    identity = Identity.of(held_out)
    hashed = all(shard.sha256 for shard in identity.shards)
    for key, index in sets.items():
        if key == "data.held_out":
            continue
        if index.path == held_out.path or (hashed and Identity.of(index).digest == identity.digest):
            say(f"note: data.held_out is the same set as {key}: its figures are those of training samples")
