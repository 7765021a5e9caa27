"""Make the index of tars that exist: how many samples each holds, and where they begin.

    python -m data.index PATTERN OUT.json [options]

The file is wids' JSON (`wids-shard-index-v1`) with our keys beside its own; byte offsets are in a small file beside it
(`data.shards.offsets`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.remote.writing import there
from data.shards.loading import load_index
from data.shards.locations import folder_of, is_remote, relative
from data.shards.scanning import build_index, find_tars
from data.shards.text import text_lines
from launch.command.cli import UserError, parse, run


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Index WebDataset tars, or turn the Hub's `_info.json` into an index, without decoding anything."""

    pattern: str
    """Tars: a path or URL with * and {000..127}; or an `_info.json`, with `#split` at its end. The first word."""
    out: str
    """The index file to write, a path or a URL in a bucket; the second word."""
    name: str = ""
    """Name of the set."""
    classes: str | None = None
    """A text file with the class names, one a line."""
    licence: str = ""
    """Licence of the samples, or where its text is."""
    threads: int = 8
    """Tars scanned in parallel."""
    hashes: bool = True
    """Read local tars whole, for the hashes of their contents: a run notices then if they are replaced by others of the
    same names and sizes. False reads their headers only."""
    overwrite: bool = False
    """Replace an existing index."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, make the index and write it."""
    prog = "python -m data.index PATTERN OUT.json"
    config = parse(IndexConfig, argv, prog=prog, positional=("pattern", "out"))
    out, remote = config.out, is_remote(config.out)
    if (there(out) if remote else Path(out).exists()) and not config.overwrite:
        raise UserError(f"{out} exists already: give another name, or pass --overwrite")
    base = folder_of(out) if remote else str(Path(out).parent)
    about: dict[str, Any] = {"name": config.name, "licence": config.licence}
    if config.classes:
        try:
            about["classes"] = text_lines(Path(config.classes).read_bytes())
        except OSError as error:
            raise UserError(f"classes={config.classes} can't be read ({error.strerror}): check the path") from error
    if config.pattern.partition("#")[0].endswith(".json"):
        index = load_index(config.pattern)
        shards = tuple(replace(shard, url=relative(index.location(i), base)) for i, shard in enumerate(index.shards))
        given = {key: value for key, value in about.items() if value}
        index = replace(index, shards=shards, base=base, **given)
    else:
        index = build_index(
            find_tars(config.pattern),
            threads=config.threads,
            base=base,
            hashes=config.hashes,
            show_progress=True,
            **about,
        )
    here = [place for place in map(index.location, range(len(index.shards))) if not is_remote(place)]
    if remote and here:
        raise UserError(f"out={out} would name {here[0]}, which is only on this machine: copy the tars to the bucket")
    index.save(out)
    print(f"{out}: {len(index)} samples in {len(index.shards)} shards")
    return 0


if __name__ == "__main__":
    run(main)
