"""Make the index of tars that exist: how many samples each holds, and where they begin.

    python -m data.index PATTERN OUT.json [options]

The file is wids' JSON (`wids-shard-index-v1`) with our keys beside its own; byte offsets are in a small file beside it
(`data.shards.offsets`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data.remote.writing import there
from data.shards.index import ShardIndex
from data.shards.layout import Layout
from data.shards.loading import load_index
from data.shards.locations import folder_of, is_remote, relative
from data.shards.patterns import find_tars
from data.shards.quarantine import set_aside
from data.shards.scanning import index_samples
from data.shards.tally import ALLOWED, Tally
from data.shards.text import text_lines
from launch.command.checks import check
from launch.command.cli import UserError, parse, run
from launch.files.outputs import try_file


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
    media: Literal["pictures", "sounds", "videos", "texts"] = "pictures"
    """What the samples are."""
    picture: list[str] = field(default_factory=list)
    """Extensions of the members that are the samples, the preferred one first, such as jpg,png or
    image.png. None: plain ones before compound ones (jpg before depth.png), in the order that docs/data.md has."""
    keys: Literal["first_dot", "last_dot"] = "first_dot"
    """Where a member's name ends and its extension begins: at the first dot, or at the last one for names that have
    dots themselves (frame.0001.jpg)."""
    allow_left_out: float = ALLOWED
    """Share of the pictures (and of the labels and captions) that may be left out, each reason being listed."""
    overwrite: bool = False
    """Replace an existing index."""

    def __post_init__(self) -> None:
        check("allow_left_out", self.allow_left_out, 0 <= self.allow_left_out <= 1, "a share between 0 and 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, make the index and write it."""
    prog = "python -m data.index PATTERN OUT.json"
    config = parse(IndexConfig, argv, prog=prog, positional=("pattern", "out"))
    out, remote = config.out, is_remote(config.out)
    if (there(out) if remote else Path(out).exists()) and not config.overwrite:
        raise UserError(f"{out} exists already: give another name, or pass --overwrite")
    try_file("out", out, inputs=(config.classes, config.pattern.partition("#")[0]))
    base = folder_of(out) if remote else str(Path(out).parent)
    index, tally = make_index(config, base)
    here = [place for place in map(index.location, range(len(index.shards))) if not is_remote(place)]
    if remote and here:
        raise UserError(f"out={out} would name {here[0]}, which is only on this machine: copy the tars to the bucket")
    lines = ["taken as it is listed; the tars were not opened"]
    if tally is not None:
        lines = [*tally.lines(), *tally.settle(config.allow_left_out)]
        index.meta["tally"] = tally.to_json()
    aside = "" if remote else set_aside(Path(out), index)
    index.save(out)
    print("\n".join([*lines, *filter(None, [aside]), f"{out}: {len(index)} samples in {len(index.shards)} shards"]))
    return 0


def make_index(config: IndexConfig, base: str) -> tuple[ShardIndex, Tally | None]:
    """The index, and what was taken and left out; None where the tars of a list weren't opened."""
    layout = Layout(config.keys, tuple(name.lstrip(".").lower() for name in config.picture))
    about: dict[str, Any] = {"name": config.name, "licence": config.licence}
    classes, listed = _class_names(config.classes), None
    if _names_a_list(config.pattern):
        listed = load_index(config.pattern, with_offsets=False)
        tars = [listed.location(i) for i in range(len(listed.shards))]
        about = {key: value or getattr(listed, key) for key, value in about.items()} | {"meta": listed.meta}
        classes = classes or listed.classes
        settled = bool(listed.layout.picture) and layout == Layout()
        anew = config.media != "pictures" and listed.kind == "pictures"  # lists of other tools name no kind
        if (anew and settled) or (config.media not in ("pictures", listed.kind) and not anew):
            raise UserError(f"media={config.media} is not what {config.pattern} lists, {listed.kind}: leave it out")
        if listed.kind != "pictures" and layout != Layout():
            raise UserError(
                f"picture and keys are for pictures, and {config.pattern} lists {listed.kind}: leave them out"
            )
        if listed.kind != "pictures" or settled or (listed.remote and layout == Layout() and not anew):
            listed = load_index(config.pattern)
            shards = tuple(replace(shard, url=relative(tar, base))
                           for shard, tar in zip(listed.shards, tars, strict=True))  # fmt: skip
            return replace(listed, shards=shards, base=base, classes=classes, **about), None
    else:
        tars = find_tars(config.pattern)
    index, tally = index_samples(
        tars,
        layout=layout,
        classes=classes,
        threads=config.threads,
        base=base,
        hashes=config.hashes,
        show_progress=True,
        kind=config.media,
        **about,
    )
    if listed is not None and len(listed) != len(index):
        tally.noted(f"the list says {len(listed)} samples", config.pattern.rpartition("/")[2])
    return index, tally


def _names_a_list(pattern: str) -> bool:
    return (pattern if Path(pattern).exists() else pattern.partition("#")[0]).endswith(".json")


def _class_names(path: str | None) -> list[str]:
    """The lines of a file."""
    if not path:
        return []
    try:
        return text_lines(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"classes={path} can't be read ({error.strerror}): check the path") from error


if __name__ == "__main__":
    run(main, computes=False)
