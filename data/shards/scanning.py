"""Finding tars by pattern and looking into them, on this machine or behind a URL."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from data.remote.files import Patience, RemoteFile
from data.shards.compressed import open_plain
from data.shards.index import Shard, ShardIndex
from data.shards.locations import is_remote, relative
from data.shards.offsets import ShardOffsets
from data.shards.tar import BLOCK, Scan, TarError, members, samples, scan
from launch.command.checks import named
from launch.command.cli import UserError
from launch.command.progress import Progress


def find_tars(pattern: str) -> list[str]:
    """Tars that a pattern means, sorted: braces (`{000..127}`) anywhere, `*` and `?` in paths and in fsspec's schemes.

    UserError where it means none. What a URL without `*` names is taken to be there.
    """
    import braceexpand

    found: list[str] = []
    try:
        patterns = [pattern] if pattern.startswith("pipe:") else list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}: write ranges like {{000..127}}") from error
    for one in patterns:
        if not is_remote(one):
            found += glob.glob(one, recursive=True) if glob.has_magic(one) else [one]  # noqa: PTH207
        elif glob.has_magic(one) and not one.startswith(("http", "pipe:")):
            found += _remote_glob(one)
        else:
            found.append(one)
    if not found:
        raise UserError(f"{pattern} matches no tar: check the pattern, and quote it for the shell")
    return sorted(set(found))


def build_index(
    sources: Sequence[str | os.PathLike[str]],
    *,
    threads: int = 2,
    base: str | os.PathLike[str] = "",
    show_progress: bool = False,
    **about: Any,
) -> ShardIndex:
    """Index bare tars, in their order, from their headers alone, several at a time.

    `about` are further fields (name, classes, licence, kind, meta). Local urls are stored relative to `base`, the
    folder the index will lie in. UserError for a missing, damaged or empty tar.
    """
    tars, base = [os.fspath(tar) for tar in sources], os.fspath(base)
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


def scan_location(location: str, patience: Patience) -> Scan:
    """The samples of a local or remote tar, from its headers; a missing or damaged one tells so in `damage`."""
    try:
        if not is_remote(location):
            with os.fdopen(open_plain(location), "rb") as file:
                found = scan(file)
            found.size = os.stat(location).st_size  # noqa: PTH116 (of the file: a compressed one is smaller than its tar)
            return found
        return _scan_remote(location, patience)
    except (OSError, UserError) as error:
        failed = Scan()
        failed.damage = getattr(error, "strerror", None) or str(error)
        return failed


def _scan_remote(url: str, patience: Patience) -> Scan:
    """Headers of a remote tar: contents are jumped over where that saves more than a request costs."""
    file = RemoteFile(url, patience)
    try:
        if not url.startswith("pipe:"):
            found = scan(file)
            found.size = file.size
            return found
        return _scan_stream(file)
    finally:
        file.close()


def _scan_stream(file: RemoteFile) -> Scan:
    """As `scan`, where nothing can be jumped over."""
    found = Scan()
    try:
        for first, raw in samples(file):
            for member in members(raw, first):
                end = member.data + -(-member.size // BLOCK) * BLOCK
                found.add(member.name, member.start, end)
    except TarError as error:
        found.damage = str(error)
    return found


def _remote_glob(pattern: str) -> list[str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        return [filesystem.unstrip_protocol(name) for name in filesystem.glob(path)]
    except (ImportError, ValueError, OSError) as error:
        raise UserError(
            f"{pattern} can't be listed ({error}): install the package fsspec names, or use braces"
        ) from error
