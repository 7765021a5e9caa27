"""What the system says of a file, as a line for the user."""

from __future__ import annotations

import errno
import os
from typing import Any

WAYS_OUT = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of files, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EIO: "check the disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
    errno.EISDIR: "it is a folder: give a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ELOOP: "check the path: its links go round in a circle",
}
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of writing, whatever was written."""


class OutputError(OSError):
    """An output that can't be written; `filename` is its path."""


def way_out(error: OSError) -> str:
    """What the user can do about it."""
    return WAYS_OUT.get(error.errno or 0, "check the path")


def told(error: OSError) -> str | None:
    """The error of a file in a line with the path, the reason and the way out; None for errors of other things."""
    reason = error.strerror or str(error)
    if isinstance(error, OutputError):
        return f"{_name(error)} can't be written ({reason}): {way_out(error)}"
    if error.filename is not None:
        what = "can't be written" if error.errno in DISK else "can't be used"
        return f"{_name(error)} {what} ({reason}): {way_out(error)}"
    if error.errno in DISK:
        what = "a file can't be used" if error.errno == errno.EIO else "the output (stdout or a file) can't be written"
        return f"{what} ({reason}): {way_out(error)}"
    return None


def _name(error: OSError) -> str:
    name: Any = error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else str(name)
