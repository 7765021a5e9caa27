"""Paths and URLs of shards and of the files beside them."""

import os
import posixpath
from pathlib import Path
from urllib.parse import urlsplit


def is_remote(location: str) -> bool:
    """Whether a location is a URL (or a `pipe:` command) rather than a path."""
    return ("://" in location and not location.startswith("file://")) or location.startswith("pipe:")


def relative(location: str, base: str) -> str:
    """A location relative to `base`, the folder or URL of an index."""
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
    """The URL of a remote file's folder."""
    parts = urlsplit(url)
    return parts._replace(path=posixpath.dirname(parts.path), query="", fragment="").geturl()
