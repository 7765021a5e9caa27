"""Downloads of weights that give up on a silent server: a run should not wait for one for minutes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from launch.command.cli import UserError, reason


@contextlib.contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Inside, sockets that bring nothing for so long raise an OSError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


FETCHED = ["*.json", "model*.safetensors", "*/model*.safetensors"]
"""What is fetched of a repository: nothing that could run."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repository(key: str, name: str | None) -> None:
    """Raise ValueError unless `name` (if any) has the form ORG/NAME."""
    if name is not None and not _NAME.fullmatch(name):
        raise ValueError(f"{key}={name} is not a repository's name: give ORG/NAME")


def fetched(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder `name`, or the local copy of the Hub's repository of that name at a revision.

    A folder that is there is taken, whatever the Hub has. Raises UserError where there is neither.
    """
    folder = Path(name)
    if folder.exists() or not _NAME.fullmatch(os.fspath(name)):
        if revision is not None:
            raise UserError(f"revision={revision} is for a name on the Hub, and {folder} isn't one: leave it out")
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(os.fspath(name), revision=revision, allow_patterns=FETCHED))
    except Exception as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{name} is no folder here, and could not be fetched from the Hub{at} ({reason(error)}): correct the path "
            f"or the name, or fetch it where there is a network and give the folder"
        ) from error
