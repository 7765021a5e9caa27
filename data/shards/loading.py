"""Reading, building and mending indexes: the work behind `data.index.ShardIndex`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from launch.command.cli import UserError
from data.shards.scanning import beside, find_tars, folder_of, from_info, read_url, relative, scan_location
from data.index import IndexConfig, Shard, ShardIndex, is_remote, offsets_path
from data.shards.offsets import SUFFIX, ShardOffsets
from launch.command.progress import Progress
from data.shards.tar import Scan
from data.remote.files import Patience

SHOWN = 5
"""Shards named in an error before it says how many more there are."""


def load_index(path: str) -> ShardIndex:
    """See ShardIndex.load."""
    path, _, split = path.partition("#")
    remote = is_remote(path)
    try:
        text = read_url(path, Patience()) if remote else Path(path).read_bytes()
        values = json.loads(text)
    except FileNotFoundError as error:
        raise UserError(
            f"the index {path} is missing: check data.index, or make it with `python -m data.index`"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"the index {path} can't be read ({error}): check data.index") from error
    base = folder_of(path) if remote else str(Path(path).parent)
    index = ShardIndex.from_json(from_info(values, split, path), base, path)
    if not index.shards or not len(index):
        raise UserError(f"the index {path} holds no samples: make it anew with `python -m data.index`")
    if remote:
        return _safe_remote(path, index)
    return _with_local_offsets(replace(index, path=path), offsets_path(Path(f"{path}#{split}" if split else path)))


def _safe_remote(url: str, index: ShardIndex) -> ShardIndex:
    """A remote index with its offsets. It may not name commands or this machine's files."""
    for i, shard in enumerate(index.shards):
        if shard.url.startswith("pipe:") or not is_remote(index.location(i)):
            raise UserError(f"the remote index {url} names {shard.url!r}: only an index on this machine may do that")
    return index.with_offsets(_remote_offsets(url, index))


def build_index(tars: Sequence[str], threads: int, base: str, show_progress: bool, about: dict[str, Any]) -> ShardIndex:
    """See ShardIndex.build."""
    if not tars:
        raise UserError("no tars to index: check the pattern")
    scans = scan_all(tars, threads, show_progress)
    damaged = [f"{tar} ({found.damage})" for tar, found in zip(tars, scans, strict=True) if found.damage]
    if damaged:
        raise UserError(f"damaged or missing tars: {named(damaged)}; repair them or leave them out")
    filled = [i for i, found in enumerate(scans) if found.keys]
    if not filled:
        raise UserError(f"no samples in {named(list(tars))}: a sample is a file with an extension")
    shards = tuple(Shard(relative(tars[i], base), len(scans[i].keys), scans[i].size) for i in filled)
    offsets = ShardOffsets.from_starts([scans[i].starts for i in filled])
    return ShardIndex(shards=shards, base=base, offsets=offsets, **about)


def scan_all(
    tars: Sequence[str], threads: int, show_progress: bool = False, patience: Patience | None = None
) -> list[Scan]:
    """The samples of each tar, local or remote, from headers alone; a missing one counts as damaged."""
    found: list[Scan] = []
    look = partial(scan_location, patience=patience or Patience())
    with ThreadPoolExecutor(threads) as pool, Progress("index", len(tars), unit="shards", enabled=show_progress) as bar:
        for one in pool.map(look, tars):
            found.append(one)
            bar.advance()
    return found


def check_present(index: ShardIndex, part: int = 0, parts: int = 1) -> None:
    """UserError that names the local shards which are missing or of another size than the index says.

    Each rank looks at every `parts`-th shard, so that many ranks don't ask for the same ones.
    """
    missing, changed = [], []
    for i in range(part, len(index.shards), parts):
        location = index.location(i)
        if is_remote(location):
            continue
        try:
            size = os.stat(location).st_size  # noqa: PTH116
        except OSError:
            missing.append(location)
            continue
        if index.shards[i].filesize not in (None, size):
            changed.append(location)
    if missing:
        raise UserError(
            f"missing shard: {named(missing)}; restore it, or index what is there with `python -m data.index`"
        )
    if changed:
        raise UserError(
            f"shard of another size than its index says: {named(changed)}; index it anew with `python -m data.index`"
        )


def named(items: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _with_local_offsets(index: ShardIndex, stored: Path) -> ShardIndex:
    """The index with its offsets; made anew where they are missing or of another set, if all shards are local."""
    try:
        offsets = ShardOffsets.load(stored)
        if offsets.counts() == index.sizes:
            return index.with_offsets(offsets)
    except (OSError, ValueError):
        pass
    if index.remote:
        return index
    check_present(index)
    tars = [index.location(i) for i in range(len(index.shards))]
    scans = scan_all(tars, threads=min(8, os.cpu_count() or 1))
    damaged = [f"{tar} ({found.damage})" for tar, found in zip(tars, scans, strict=True) if found.damage]
    if damaged:
        raise UserError(f"damaged tars: {named(damaged)}; repair them, or index the others with `python -m data.index`")
    wrong = [
        f"{tar} ({len(found.keys)} samples, the index says {size})"
        for tar, found, size in zip(tars, scans, index.sizes, strict=True)
        if len(found.keys) != size
    ]
    if wrong:
        raise UserError(f"shards that don't fit {index.path}: {named(wrong)}; make it anew with `python -m data.index`")
    offsets = ShardOffsets.from_starts([found.starts for found in scans])
    with suppress(OSError):  # In a read-only folder they are made again next time.
        offsets.save(stored)
    return index.with_offsets(offsets)


def _remote_offsets(url: str, index: ShardIndex) -> ShardOffsets | None:
    """The offsets beside a remote index, if they are there and fit."""
    try:
        offsets = ShardOffsets.from_bytes(read_url(beside(url, SUFFIX), Patience(retries=3)))
    except (UserError, ValueError):
        return None
    return offsets if offsets.counts() == index.sizes else None


def command(config: IndexConfig) -> int:
    """What `python -m data.index` does."""
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise UserError(f"{out} is there already: give another name, or --overwrite")
    about: dict[str, Any] = {"name": config.name, "licence": config.licence}
    if config.classes:
        try:
            about["classes"] = Path(config.classes).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"classes={config.classes} can't be read ({error.strerror}): check the path") from error
    if config.pattern.partition("#")[0].endswith(".json"):
        index = _moved(load_index(config.pattern), str(out.parent), about)
    else:
        index = build_index(find_tars(config.pattern), config.threads, str(out.parent), True, about)
    index.save(out)
    print(f"{out}: {len(index)} samples in {len(index.shards)} shards")
    return 0


def _moved(index: ShardIndex, base: str, about: dict[str, Any]) -> ShardIndex:
    """The index as it reads from another folder, with what is new about it."""
    shards = tuple(
        replace(shard, url=relative(index.location(i), base), filesize=shard.filesize)
        for i, shard in enumerate(index.shards)
    )
    return replace(index, shards=shards, base=base, **{key: value for key, value in about.items() if value})
