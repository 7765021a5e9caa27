"""Tars as other tools write them, made with Python's tarfile: any member, of any kind and name."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from data.shards.layout import Layout
from data.shards.runs import Scan, scan

Member = tuple[str, bytes] | tarfile.TarInfo


def tar_bytes(members: list[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive of files by name and contents, and of headers as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def tar_file(path: Path, members: list[Member], form: int = tarfile.GNU_FORMAT) -> Path:
    """An archive on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, form))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A link, a directory or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def scanned(raw: bytes, layout: Layout | None = None) -> Scan:
    """A scan as an indexing does it."""
    return scan(io.BytesIO(raw), layout or Layout(pieces=True))
