"""Indexes tars from their headers, on this machine or behind a URL."""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from data.remote.files import Patience, RemoteFile
from data.remote.stores import without_secrets
from data.shards.compressed import open_plain
from data.shards.index import Shard, ShardIndex
from data.shards.layout import Layout
from data.shards.locations import is_remote, relative
from data.shards.offsets import ShardOffsets
from data.shards.runs import Scan, scan
from data.shards.settling import settled
from data.shards.tally import Tally
from launch.command.checks import named
from launch.command.cli import UserError
from launch.command.progress import Progress

_HEADERS = 1 << 16
"""Bytes of a remote tar that are read at once for its headers."""


def build_index(
    sources: Sequence[str | os.PathLike[str]],
    *,
    threads: int = 2,
    base: str | os.PathLike[str] = "",
    hashes: bool = False,
    show_progress: bool = False,
    **about: Any,
) -> ShardIndex:
    """Index tars, in their order, from their headers alone, several at a time: every key is a sample.

    With `hashes` local ones are read whole, for the hashes of their contents, by which their set is known.
    `about` are further fields (name, classes, licence, kind, meta). Local urls are stored relative to `base`, the
    folder of the index. UserError for a missing, damaged or empty tar.
    """
    tars = [os.fspath(tar) for tar in sources]
    scans = _sound_scans(tars, Layout(), threads, show_progress)
    return _index(tars, scans, Layout(), os.fspath(base), hashes, threads, about)


def index_samples(
    sources: Sequence[str | os.PathLike[str]],
    *,
    layout: Layout,
    kind: str = "pictures",
    classes: Sequence[str] = (),
    threads: int = 2,
    base: str | os.PathLike[str] = "",
    hashes: bool = False,
    show_progress: bool = False,
    **about: Any,
) -> tuple[ShardIndex, Tally]:
    """As `build_index`, for tars from anywhere: settles which members are the samples, and what the labels mean.

    `kind` is pictures or sounds. Only samples with one are in the index; the tally has what was taken and left out.
    """
    tars = [os.fspath(tar) for tar in sources]
    scans = _sound_scans(tars, replace(layout, pieces=True), threads, show_progress)
    layout, names, tally = settled(scans, layout, classes, named([without_secrets(tar) for tar in tars]), kind)
    about = {**about, "classes": names, "kind": kind}
    return _index(tars, scans, layout, os.fspath(base), hashes, threads, about), tally


def _sound_scans(tars: Sequence[str], layout: Layout, threads: int, show_progress: bool) -> list[Scan]:
    if not tars:
        raise UserError("no tars to index: check the pattern")
    scans = scan_all(tars, layout, threads, show_progress)
    damaged = [f"{without_secrets(tar)} ({scan.damage})" for tar, scan in zip(tars, scans, strict=True) if scan.damage]
    if damaged:
        raise UserError(f"damaged or missing tars: {named(damaged)}; repair them or leave them out")
    return scans


def _index(
    tars: Sequence[str],
    scans: Sequence[Scan],
    layout: Layout,
    base: str,
    hashes: bool,
    threads: int,
    about: Mapping[str, Any],
) -> ShardIndex:
    found = [scan.samples(layout) for scan in scans]
    filled = [i for i, of in enumerate(found) if of.keys]
    if not filled:
        raise UserError(f"no samples in {named(list(tars))}: a sample is a file with an extension")
    with ThreadPoolExecutor(threads) as pool:
        digests = list(pool.map(sha256_of, [tars[i] for i in filled])) if hashes else [None] * len(filled)
    shards = tuple(
        Shard(relative(tars[i], base), len(found[i].keys), scans[i].size, digest)
        for i, digest in zip(filled, digests, strict=True)
    )
    offsets = ShardOffsets.from_starts([found[i].starts for i in filled], [found[i].pieces for i in filled])
    return ShardIndex(shards=shards, base=base, layout=layout, offsets=offsets, **about)


def scan_all(tars: Sequence[str], layout: Layout, threads: int, show_progress: bool = False) -> list[Scan]:
    """The runs of members of each tar, local or remote, from headers alone; a missing one counts as damaged."""
    scans: list[Scan] = []
    with ThreadPoolExecutor(threads) as pool, Progress("index", len(tars), unit="shards", enabled=show_progress) as bar:
        for one in pool.map(partial(_scan_location, layout), tars):
            scans.append(one)
            bar.advance()
    return scans


def _scan_location(layout: Layout, location: str) -> Scan:
    try:
        if is_remote(location):
            with contextlib.closing(RemoteFile(location, Patience(), chunk=_HEADERS)) as remote:
                result = scan(remote, layout)  # jumps over contents where that saves more than a request costs
                result.size = remote.size
            return result
        with os.fdopen(open_plain(location), "rb") as file:
            result = scan(file, layout)
        result.size = os.stat(location).st_size  # noqa: PTH116 (of the file: a compressed one is smaller than its tar)
        return result
    except (OSError, UserError) as error:
        return Scan(damage=getattr(error, "strerror", None) or str(error))


def sha256_of(location: str) -> str | None:
    """The sha256 of a local tar; None of a remote one."""
    if is_remote(location):
        return None
    try:
        with open(location, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{location} can't be read ({error.strerror}): repair it or leave it out") from error
