"""Finds tars by pattern and indexes them from their headers, on this machine or behind a URL."""

import contextlib
import glob
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data.remote.files import Patience, RemoteFile
from data.remote.listing import matching
from data.remote.stores import printable
from data.shards.compressed import open_plain
from data.shards.index import Shard, ShardIndex
from data.shards.locations import is_remote, relative
from data.shards.offsets import ShardOffsets
from data.shards.tar import Scan, scan
from launch.command.checks import named
from launch.command.cli import UserError
from launch.command.progress import Progress


def find_tars(pattern: str) -> list[str]:
    """Tars that match a pattern, sorted: braces (`{000..127}`) anywhere, `*` and `?` in paths and in all
    URLs that can be listed.

    UserError where there are none. A URL without `*` is assumed to exist.
    """
    import braceexpand

    tars: set[str] = set()
    try:
        patterns = [pattern] if pattern.startswith("pipe:") else list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}: write ranges like {{000..127}}") from error
    for one in patterns:
        if not is_remote(one):
            tars.update(glob.glob(one, recursive=True) if glob.has_magic(one) else [one])  # noqa: PTH207
        elif glob.has_magic(one.partition("?")[0] if one.startswith("http") else one) and not one.startswith("pipe:"):
            tars.update(matching(one))
        else:
            tars.add(one)
    if not tars:
        raise UserError(f"{pattern} matches no tar: check the pattern, and quote it for the shell")
    return sorted(tars)


def build_index(
    sources: Sequence[str | os.PathLike[str]],
    *,
    threads: int = 2,
    base: str | os.PathLike[str] = "",
    hashes: bool = False,
    show_progress: bool = False,
    **about: Any,
) -> ShardIndex:
    """Index tars, in their order, from their headers alone, several at a time.

    With `hashes` local ones are read whole, for the hashes of their contents, by which their set is known.
    `about` are further fields (name, classes, licence, kind, meta). Local urls are stored relative to `base`, the
    folder of the index. UserError for a missing, damaged or empty tar.
    """
    tars, base = [os.fspath(tar) for tar in sources], os.fspath(base)
    if not tars:
        raise UserError("no tars to index: check the pattern")
    scans = scan_all(tars, threads, show_progress)
    damaged = [f"{printable(tar)} ({scan.damage})" for tar, scan in zip(tars, scans, strict=True) if scan.damage]
    if damaged:
        raise UserError(f"damaged or missing tars: {named(damaged)}; repair them or leave them out")
    filled = [i for i, scan in enumerate(scans) if scan.keys]
    if not filled:
        raise UserError(f"no samples in {named(list(tars))}: a sample is a file with an extension")
    with ThreadPoolExecutor(threads) as pool:
        digests = list(pool.map(_digest, [tars[i] for i in filled])) if hashes else [None] * len(filled)
    shards = tuple(
        Shard(relative(tars[i], base), len(scans[i].keys), scans[i].size, digest)
        for i, digest in zip(filled, digests, strict=True)
    )
    offsets = ShardOffsets.from_starts([scans[i].starts for i in filled])
    return ShardIndex(shards=shards, base=base, offsets=offsets, **about)


def scan_all(tars: Sequence[str], threads: int, show_progress: bool = False) -> list[Scan]:
    """The samples of each tar, local or remote, from headers alone; a missing one counts as damaged."""
    scans: list[Scan] = []
    with ThreadPoolExecutor(threads) as pool, Progress("index", len(tars), unit="shards", enabled=show_progress) as bar:
        for one in pool.map(_scan_location, tars):
            scans.append(one)
            bar.advance()
    return scans


def _scan_location(location: str) -> Scan:
    try:
        if is_remote(location):
            with contextlib.closing(RemoteFile(location, Patience())) as remote:
                result = scan(remote)  # jumps over contents where that saves more than a request costs
                result.size = remote.size
            return result
        with os.fdopen(open_plain(location), "rb") as file:
            result = scan(file)
        result.size = os.stat(location).st_size  # noqa: PTH116 (of the file: a compressed one is smaller than its tar)
        return result
    except (OSError, UserError) as error:
        return Scan(damage=getattr(error, "strerror", None) or str(error))


def _digest(location: str) -> str | None:
    """The sha256 of a local tar; None of a remote one."""
    if is_remote(location):
        return None
    try:
        with open(location, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{location} can't be read ({error.strerror}): repair it or leave it out") from error
