"""Reading an index, and making the byte offsets that it lacks."""

import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.remote.files import Patience, RemoteFile, whole
from data.remote.listing import in_buckets
from data.remote.stores import without_secrets
from data.shards.index import ShardIndex, offsets_path
from data.shards.layout import Layout
from data.shards.locations import beside, folder_of, is_remote
from data.shards.offsets import SUFFIX, ShardOffsets
from data.shards.patterns import SUFFIXES as TARS
from data.shards.patterns import find_tars
from data.shards.scanning import index_samples, scan_all
from launch.command.checks import named
from launch.command.cli import UserError
from launch.command.cores import cores
from launch.files.places import place_name

_log = logging.getLogger(__name__)


def load_index(source: str | os.PathLike[str], *, with_offsets: bool = True) -> ShardIndex:
    """Read an index (ours, wids', or the Hub's `_info.json`) from a path or URL, with its offsets if there are any.

    One without a name gets its file's. For local shards, missing or unfitting offsets are made and stored beside the
    index. Without `with_offsets` no shard is opened, so damaged ones do no harm. UserError for a file that is no index
    and for a missing shard.
    """
    path, _, split = os.fspath(source).partition("#")
    if split and Path(source).exists():  # a name with a # of its own
        path, split = os.fspath(source), ""
    remote = is_remote(path)
    if names_tars(path):
        return _of_tars(path)
    if not remote and Path(path).is_dir():
        return _of_folder(Path(path), with_offsets=with_offsets)
    try:
        values = json.loads(whole(RemoteFile(path, Patience())) if remote else Path(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"the index {without_secrets(path)} is missing: check the path, or make it by data.pack or data.index"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"the index {without_secrets(path)} can't be read ({error}): check the path") from error
    base = folder_of(path) if remote else str(Path(path).parent)
    index = ShardIndex.from_json(_from_info(values, split, without_secrets(path)), base, without_secrets(path))
    index = replace(index, name=index.name or place_name(os.fspath(source)))
    if not len(index):
        raise UserError(
            f"the index {without_secrets(path)} holds no samples: make it again with `python -m data.index`"
        )
    if remote:
        _refuse_local(path, index)
    else:
        index = replace(index, path=path)
    if not with_offsets:
        return index
    if remote:
        return replace(index, offsets=_remote_offsets(path, index))
    return _with_local_offsets(index, offsets_path(Path(f"{path}#{split}" if split else path)))


def names_tars(source: str) -> bool:
    """Whether it is the path, URL or pattern of tars rather than that of an index."""
    return source.startswith("pipe:") or (urlsplit(source).path if is_remote(source) else source).endswith(TARS)


def _of_tars(pattern: str) -> ShardIndex:
    """An index of tars of pictures, from their headers; it isn't written anywhere."""
    several = any(mark in pattern for mark in "*?[{:") and not Path(pattern).exists()
    name = place_name(os.path.dirname(pattern) if several else pattern)  # noqa: PTH120
    threads = min(8, os.cpu_count() or 1)
    index, tally = index_samples(find_tars(pattern), layout=Layout(), threads=threads, name=name)
    told = [line for line in tally.lines()[1:] if not line.startswith("ignored")]
    for line in [*told, *tally.settle(allow=True)]:
        _log.warning("%s: %s", without_secrets(pattern), line.removeprefix("warning: "))
    return index


def _of_folder(folder: Path, *, with_offsets: bool) -> ShardIndex:
    """The index in a folder, or one of its tars where it has none; UserError where that isn't clear."""
    indexes = sorted(path for path in folder.glob("*.json") if _is_index(path))
    if len(indexes) == 1:
        return load_index(indexes[0], with_offsets=with_offsets)
    if indexes:
        raise UserError(f"{folder} holds several indexes, {named([path.name for path in indexes])}: give one of them")
    if not any(names_tars(path.name) for path in folder.iterdir()):
        raise UserError(
            f"{folder} is a folder without an index and without tars: give an index, or pack its pictures with "
            "`python -m data.pack`"
        )
    return _of_tars(str(folder))


def _is_index(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and ("shardlist" in values or isinstance(values.get("splits"), dict))


def check_present(index: ShardIndex, part: int = 0, parts: int = 1) -> None:
    """UserError that names the shards which are missing, unreadable or of another size than the index says.

    Each rank checks every `parts`-th shard, so that ranks share the work; the first asks buckets, by listing them.
    Remote shards of other kinds are checked when they are read.
    """
    missing, closed, changed = [], [], []
    if part == 0 and index.remote:
        size_of = {index.location(i): shard.filesize for i, shard in enumerate(index.shards)}
        for url, version in in_buckets(url for url in size_of if is_remote(url)).items():
            if version is None:
                missing.append(url)
            elif size_of[url] not in (None, version.size):
                changed.append(url)
    for i in range(part, len(index.shards), parts):
        location = index.location(i)
        if is_remote(location):
            continue
        try:
            size = os.stat(location).st_size  # noqa: PTH116
        except OSError:
            missing.append(location)
            continue
        if not os.access(location, os.R_OK):
            closed.append(location)
        if index.shards[i].filesize not in (None, size):
            changed.append(location)
    if missing:
        raise UserError(
            f"missing shard: {named(missing)}; restore it, or index what is there with `python -m data.index`"
        )
    if closed:
        raise UserError(f"shard that can't be read from here: {named(closed)}; give this user the right to")
    if changed:
        raise UserError(
            f"shard of another size than its index says: {named(changed)}; index it again with `python -m data.index`"
        )


def _from_info(values: Any, split: str, source: str) -> Any:
    """The Hub's `_info.json` (splits of filenames and shard_lengths) as an index's values; other values as they are.

    UserError for a split that isn't there.
    """
    if not isinstance(values, dict) or "shardlist" in values or not isinstance(values.get("splits"), dict):
        return values
    splits = values["splits"]
    chosen = split or (next(iter(splits)) if len(splits) == 1 else "train")
    if chosen not in splits:
        raise UserError(f"{source} has no split {chosen!r}: end its address with one of #{', #'.join(splits)}")
    part = splits[chosen]
    try:
        listed = [{"url": u, "nsamples": n} for u, n in zip(part["filenames"], part["shard_lengths"], strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}, split {chosen}: filenames and shard_lengths don't fit ({error})") from error
    return {"name": f"{values.get('name', '')} {chosen}".strip(), "shardlist": listed}


def _refuse_local(url: str, index: ShardIndex) -> None:
    """UserError where a remote index names commands or this machine's files."""
    for i, shard in enumerate(index.shards):
        if index.location(i).startswith("pipe:") or not is_remote(index.location(i)):
            raise UserError(
                f"the remote index {without_secrets(url)} names {shard.url!r}: "
                "only an index on this machine may do that"
            )


def _remote_offsets(url: str, index: ShardIndex) -> ShardOffsets | None:
    """The offsets beside a remote index, if they are there and fit; a warning where not."""
    why = "they are of other shards"
    try:
        offsets = ShardOffsets.from_bytes(whole(RemoteFile(beside(url, SUFFIX), Patience(retries=3))))
        if offsets.counts() == index.sizes:
            return offsets
    except (UserError, ValueError) as error:
        why = str(error)
    _log.warning(
        "%s has no offsets beside it (%s): each lane reads its shards from their start", without_secrets(url), why
    )
    return None


def _with_local_offsets(index: ShardIndex, stored: Path) -> ShardIndex:
    """The index with the stored offsets; if they are missing or don't fit and all shards are local, with new ones."""
    with suppress(OSError, ValueError):
        offsets = ShardOffsets.load(stored)
        if offsets.counts() == index.sizes:
            return replace(index, offsets=offsets)
    if index.remote:
        return index
    check_present(index)
    tars = [index.location(i) for i in range(len(index.shards))]
    scans = scan_all(tars, index.layout, threads=min(8, cores()))
    damaged = [f"{tar} ({scan.damage})" for tar, scan in zip(tars, scans, strict=True) if scan.damage]
    if damaged:
        raise UserError(f"damaged tars: {named(damaged)}; repair them, or index the others with `python -m data.index`")
    found = [scan.samples(index.layout) for scan in scans]
    counts = [len(of.keys) for of in found]
    both = zip(tars, counts, index.sizes, strict=True)
    if wrong := [f"{tar} ({count} samples, the index says {said})" for tar, count, said in both if count != said]:
        raise UserError(f"shards don't fit {index.path}: {named(wrong)}; make it again with `python -m data.index`")
    offsets = ShardOffsets.from_starts([of.starts for of in found], [of.pieces for of in found])
    with suppress(OSError):  # in a read-only folder they are made again next time
        offsets.save(stored)
    return replace(index, offsets=offsets)
