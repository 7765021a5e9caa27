"""Texts with pictures (sounds, videos) in their places: `python -m stage2_prior.documents FILE.jsonl OUT --codes …`.

Each line of FILE is {"segments": ["A text, then a picture: ", {"sample": "KEY"}, " and more text."]}; KEY is the name
of a sample in one of the sets of codes (stage2_prior.encode). OUT/index.json is for data.index or data.mixture of a
unified prior, which learns all of a document, in its order.
"""

from dataclasses import dataclass, field
from pathlib import Path

from launch.command.checks import check
from launch.command.cli import UserError, parse, run


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Make shards of documents of lines of JSON and sets of codes."""

    documents: str
    """File with a document a line; the first word of the command line."""
    out: str
    """Folder for shards and index.json; the second word of the command line."""
    codes: list[str] = field(default_factory=list)
    """Indexes of the codes of the samples that documents name; none have the same keys."""
    licence: str = ""
    """Licence of the documents, noted in the index."""
    overwrite: bool = False
    """Replace a finished set."""

    def __post_init__(self) -> None:
        check("codes", self.codes, bool(self.codes), "one or more indexes of codes")


def documents(config: DocumentsConfig) -> None:
    """Write the shards, and say what they hold."""
    from launch.files.outputs import try_folder
    from stage2_prior.unified.interleaved import CodeSets, write_documents

    try_folder("out", config.out)
    if not Path(config.documents).is_file():
        raise UserError(f"documents={config.documents} is no file: give lines of JSON")
    sets = CodeSets(tuple(config.codes))
    about = {"licence": config.licence, "overwrite": config.overwrite}
    index = write_documents(Path(config.documents), sets, config.out, **about)  # type: ignore[arg-type]
    print(f"{config.out}/index.json: {len(index)} documents in {len(index.shards)} shards")


def main() -> int:
    """The command."""
    prog = "python -m stage2_prior.documents FILE.jsonl OUT"
    documents(parse(DocumentsConfig, prog=prog, positional=("documents", "out")))
    return 0


if __name__ == "__main__":
    run(main)
