"""Finding tars by pattern and looking into them, on this machine or behind a URL."""

from __future__ import annotations

import glob
import os
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from launch.command.cli import UserError
from data.index import is_remote
from data.shards.compressed import open_plain
from data.shards.tar import BLOCK, Scan, TarError, members, samples, scan
from data.remote.files import Patience, RemoteFile, fetch

DEFAULT_SPLIT = "train"


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


def read_url(url: str, patience: Patience) -> bytes:
    """A whole remote file."""
    return fetch(url, 0, None, patience)


def scan_location(location: str, patience: Patience) -> Scan:
    """The samples of a local or remote tar, from its headers; a missing or damaged one tells so in `damage`."""
    try:
        if not is_remote(location):
            with os.fdopen(open_plain(location), "rb") as file:
                found = scan(file)
            found.size = os.stat(location).st_size  # noqa: PTH116 (of the file: a compressed one is smaller than its tar)
            return found
        return _scan_remote(location, patience)
    except OSError as error:
        failed = Scan()
        failed.damage = error.strerror or str(error)
        return failed
    except UserError as error:
        failed = Scan()
        failed.damage = str(error)
        return failed


def from_info(values: Any, split: str, source: str) -> Any:
    """The Hub's `_info.json` (splits of filenames and shard_lengths) as an index's values; other values as they are.

    UserError for a split that isn't there.
    """
    if not isinstance(values, dict) or "shardlist" in values or not isinstance(values.get("splits"), dict):
        return values
    splits = values["splits"]
    chosen = split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits else "")
    if not chosen and len(splits) == 1:
        chosen = next(iter(splits))
    if chosen not in splits:
        raise UserError(f"{source} has no split {chosen!r}: end its address with one of #{', #'.join(splits)}")
    part = splits[chosen]
    try:
        listed = [{"url": u, "nsamples": n} for u, n in zip(part["filenames"], part["shard_lengths"], strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}, split {chosen}: filenames and shard_lengths don't fit ({error})") from error
    return {"name": f"{values.get('name', '')} {chosen}".strip(), "shardlist": listed}


def relative(location: str, base: str) -> str:
    """A location as an index that lies in `base` names it."""
    if is_remote(location):
        prefix = base.rstrip("/") + "/"
        return location.removeprefix(prefix) if is_remote(base) else location
    if not base or is_remote(base):
        return str(Path(location).resolve())
    return os.path.relpath(Path(location).resolve(), Path(base).resolve())


def beside(url: str, suffix: str) -> str:
    """The URL of an index's companion file: `https://h/train.json?q` → `https://h/train.offsets.npz?q`."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.removesuffix(".json") + suffix, fragment="").geturl()


def folder_of(url: str) -> str:
    """The URL of the folder a remote file lies in."""
    parts = urlsplit(url)
    return parts._replace(path=posixpath.dirname(parts.path), query="", fragment="").geturl()


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
