"""Push a released folder to the Hugging Face Hub: `python -m stage1_tokenizer.hub FOLDER ORG/NAME`.

huggingface_hub's environment variables apply: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run
from launch.files.downloads import check_repository


@dataclass(frozen=True)
class HubConfig:
    """Push a released folder, a tokenizer's or a prior's, to the Hub."""

    folder: str
    """The released folder; the first argument."""
    push: str
    """Repository, ORG/NAME; created if it doesn't exist. The second argument."""
    private: bool = False
    """Create the repository as a private one; an existing one stays as it is."""
    revision: str | None = None
    """Branch to push to, created if it doesn't exist; null: main."""
    endpoint: str | None = None
    """Address of the Hub; null: HF_ENDPOINT, or huggingface.co."""

    def __post_init__(self) -> None:
        check_repository("push", self.push)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.hub FOLDER ORG/NAME"
    config = parse(HubConfig, argv, prog=prog, positional=("folder", "push"))
    from stage1_tokenizer.publishing.hub import push

    options = {"revision": config.revision, "endpoint": config.endpoint}
    print(push(Path(config.folder), config.push, private=config.private, **options))


if __name__ == "__main__":
    run(main)
