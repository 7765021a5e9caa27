"""Look into a tar's bytes with Python's own tarfile, independent of our reader."""

from __future__ import annotations

import io
import tarfile

from PIL import Image


def members(contents: bytes) -> dict[str, bytes]:
    """Member name → contents."""
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def first_picture(contents: bytes) -> Image.Image:
    """The first member that is a picture."""
    name = next(name for name in members(contents) if not name.endswith((".cls", ".json")))
    return Image.open(io.BytesIO(members(contents)[name]))
