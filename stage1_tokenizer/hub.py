"""The Hugging Face Hub: `python -m stage1_tokenizer.hub FOLDER ORG/NAME` pushes a released folder; `fetched` gets one.

Both go through huggingface_hub, so its variables hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import UserError, parse, run
from launch.command.words import as_options
from launch.files.downloads import _NAME, reason

NEEDED = ("config.json", "model.safetensors", "metrics.json", "README.md")
"""Files of every released folder."""


_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5"})


@dataclass(frozen=True)
class HubConfig:
    """Push a released folder, a tokenizer's or a prior's, to the Hub."""

    folder: str
    """The released folder; on the command line, the first word."""
    push: str
    """Repository, ORG/NAME; made if it isn't there. The second word."""
    private: bool = False
    """Make the repository a private one; one that exists stays as it is."""
    revision: str | None = None
    """Branch to push to, made if it isn't there; null: main."""
    endpoint: str | None = None
    """Address of the Hub; null: HF_ENDPOINT, or huggingface.co."""

    def __post_init__(self) -> None:
        check_name(self.push)


def check_name(name: str | None) -> None:
    """Raise ValueError unless `name` (if any) has the form ORG/NAME."""
    if name is not None and not _NAME.fullmatch(name):
        raise ValueError(f"push={name} is no name of a repository: give ORG/NAME")


def push(config: HubConfig) -> str:
    """Push a folder in one commit; the commit's address.

    Raises UserError where the folder isn't a whole release (`check_release`) or the Hub refuses.
    """
    from huggingface_hub import HfApi

    folder = Path(config.folder)
    check_release(folder)
    api = HfApi(endpoint=config.endpoint)
    try:
        api.create_repo(config.push, private=config.private, exist_ok=True)
        if config.revision is not None:
            api.create_branch(config.push, branch=config.revision, exist_ok=True)
        message = f"Release {folder.resolve().name}"
        done = api.upload_folder(
            repo_id=config.push, folder_path=folder, revision=config.revision, commit_message=message
        )
    except Exception as error:
        raise UserError(
            f"push={config.push} failed at {api.endpoint} ({reason(error)}): the folder {folder} is whole, so log in "
            f"(hf auth login, or HF_TOKEN) and push it with `python -m stage1_tokenizer.hub {folder} {config.push}`"
        ) from error
    return str(done.commit_url)


def check_release(folder: Path) -> None:
    """Raise UserError unless a folder can be published: all files, a licence, figures, and no pickles."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a released folder, it has no {name}: make one with the release command")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if is_pickle(path):
            raise UserError(f"{path} is a pickle, which runs code where it is loaded: delete it, or save safetensors")
    if not re.search(r"^license: (?!unknown)\S+$", (folder / "README.md").read_text().split("\n---")[0], re.MULTILINE):
        raise UserError(f"{folder / 'README.md'} names no licence: release again with --licence")
    try:
        figures = [value for value in json.loads((folder / "metrics.json").read_text()).values() if is_figure(value)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'metrics.json'} can't be read ({error}): release again") from error
    if not figures:
        raise UserError(f"{folder / 'metrics.json'} has no figures: evaluate, and release again with --metrics")


def is_figure(value: object) -> bool:
    """Whether a value of metrics.json is a measured number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_pickle(path: Path) -> bool:
    """Whether a file is, holds or may hold a pickle, by its name or its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() in _PICKLES or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return True
    return start == b"PK\3\4" and any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    prog = "python -m stage1_tokenizer.hub FOLDER ORG/NAME"
    print(push(parse(HubConfig, as_options(words, ("folder", "push"), HubConfig), prog=prog)))


if __name__ == "__main__":
    run(main)
