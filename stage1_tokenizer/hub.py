"""The Hugging Face Hub: `python -m stage1_tokenizer.hub FOLDER ORG/NAME` pushes a released folder; `fetched` gets one.

Both go through huggingface_hub, so its variables hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import UserError, parse, run
from launch.files.downloads import _NAME, reason
from stage1_tokenizer.publishing.folder import check_release


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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.hub FOLDER ORG/NAME"
    print(push(parse(HubConfig, argv, prog=prog, positional=("folder", "push"))))


if __name__ == "__main__":
    run(main)
