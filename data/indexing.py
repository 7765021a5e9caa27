"""Reading, building and mending indexes: the work behind `data.index.ShardIndex`."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.cli import UserError
from data.index import Shard, ShardIndex, is_remote, offsets_path
from data.offsets import ShardOffsets
from data.plain import open_plain
from data.progress import Progress
from data.tar import Scan, scan

SHOWN = 5
"""Shards named in an error before it says how many more there are."""


def load_index(path: str) -> ShardIndex:
    """See ShardIndex.load."""
    remote = is_remote(path)
    try:
        text = _read_url(path).decode("utf-8") if remote else Path(path).read_text(encoding="utf-8")
        values = json.loads(text)
    except FileNotFoundError as error:
        raise UserError(
            f"the index {path} is missing: check data.index, or make it with `python -m data.index`"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"the index {path} can't be read ({error}): check data.index") from error
    values = _from_info(values)
    base = posixpath.dirname(path) if remote else str(Path(path).parent)
    index = ShardIndex.from_json(values, base, path)
    if not index.shards or not len(index):
        raise UserError(f"the index {path} holds no samples: make it anew with `python -m data.index`")
    if remote:
        return index.with_offsets(_remote_offsets(path, index))
    return _with_local_offsets(replace(index, path=path), Path(path))


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
    shards = tuple(Shard(_relative(tars[i], base), len(scans[i].keys), scans[i].size) for i in filled)
    offsets = ShardOffsets.from_starts([scans[i].starts for i in filled])
    return ShardIndex(shards=shards, base=base, offsets=offsets, **about)


def scan_all(tars: Sequence[str], threads: int, show_progress: bool = False) -> list[Scan]:
    """The samples of each tar, local or remote, from headers alone; a missing one counts as damaged."""
    found = []
    with ThreadPoolExecutor(threads) as pool, Progress("index", len(tars), unit="shards", enabled=show_progress) as bar:
        for one in pool.map(_scan_one, tars):
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


def _with_local_offsets(index: ShardIndex, path: Path) -> ShardIndex:
    """The index with its offsets; made anew where they are missing or of another set, if all shards are local."""
    stored = offsets_path(path)
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
        raise UserError(f"shards that don't fit {path}: {named(wrong)}; make it anew with `python -m data.index`")
    offsets = ShardOffsets.from_starts([found.starts for found in scans])
    with suppress(OSError):  # In a read-only folder they are made again next time.
        offsets.save(stored)
    return index.with_offsets(offsets)


def _remote_offsets(path: str, index: ShardIndex) -> ShardOffsets | None:
    """The offsets beside a remote index, if they are there and fit."""
    return None


def _read_url(url: str) -> bytes:
    raise UserError(f"{url}: remote indexes are not read yet")


def _scan_one(tar: str) -> Scan:
    try:
        with os.fdopen(open_plain(tar), "rb") as file:
            found = scan(file)
        found.size = os.stat(tar).st_size  # noqa: PTH116 (of the file: a compressed one is smaller than its tar)
        return found
    except OSError as error:
        failed = Scan()
        failed.damage = error.strerror or str(error)
        return failed


def _relative(tar: str, base: str) -> str:
    if is_remote(tar):
        return tar.removeprefix(base.rstrip("/") + "/") if base and is_remote(base) else tar
    if not base or is_remote(base):
        return str(Path(tar).resolve())
    return os.path.relpath(Path(tar).resolve(), Path(base).resolve())


def _from_info(values: Any) -> Any:
    """The Hub's `_info.json` (webdataset's and img2dataset's splits) as our keys; other values as they are."""
    if not isinstance(values, dict) or "shardlist" in values or "splits" not in values:
        return values
    return values


def scheme(location: str) -> str:
    """The scheme of a URL: `https`, `s3`, `pipe`, …"""
    return "pipe" if location.startswith("pipe:") else urlsplit(location).scheme
