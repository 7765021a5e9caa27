"""Whether an index and its shards can be read from this machine: `python -m data.shards.check INDEX`.

Says nothing and ends with 0 where all is well, else with one line and exit code 2. Of remote shards only the first is
opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.remote.files import Patience, RemoteFile, whole
from data.shards.loading import check_present, load_index
from launch.command.cli import parse, run


@dataclass(frozen=True)
class CheckConfig:
    """Check that an index and its shards can be read from this machine."""

    index: str
    """The shard index; the first word."""


def check_readable(path: str) -> None:
    """UserError that says why the index or one of its shards can't be read from here."""
    index = load_index(path)
    if index.remote:
        whole(RemoteFile(index.location(0), Patience(retries=3), stop=512, index_size=index.shards[0].filesize))
    check_present(index)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    check_readable(parse(CheckConfig, argv, prog="python -m data.shards.check INDEX", positional=("index",)).index)
    return 0


if __name__ == "__main__":
    run(main, computes=False)
