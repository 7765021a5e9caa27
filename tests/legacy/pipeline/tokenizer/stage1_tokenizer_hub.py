# Made from stage1_tokenizer.hub of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from pathlib import Path
import re
import os
from .data_cli import UserError


FETCHED = ["*.json", "model*.safetensors", "*/model*.safetensors"]
"""What is fetched of a repository: nothing that could run."""


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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


def reason(error: BaseException) -> str:
    """The first sentence of a library's error, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300].rstrip(".:")
