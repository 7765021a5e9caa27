"""Train a tokenizer of texts: `python -m stage2_prior.text_tokenizer --data INDEX.json … --out tokenizer.json`.

A byte-level BPE of the `tokenizers` library, with a unified prior's special tokens, for `model.unified.text_tokenizer`.
Any other tokenizer.json may be given there instead.
"""

from dataclasses import dataclass
from pathlib import Path

from launch.command.checks import check
from launch.command.cli import UserError, parse, run

MEASURED = 1000
"""Texts whose tokens are counted."""


@dataclass(frozen=True, kw_only=True)
class TextTokenizerConfig:
    """Train a byte-level BPE on the captions of codes and on texts."""

    data: list[str]
    """Indexes of codes with captions (stage2_prior.encode) or of texts (data.pack --kind texts)."""
    out: str
    """File for the tokenizer."""
    size: int = 512
    """Tokens, the 11 special ones and the 256 bytes included; fewer where the texts have no more to merge."""
    overwrite: bool = False
    """Replace a file that is there."""

    def __post_init__(self) -> None:
        check("size", self.size, self.size >= 267, "267 (special tokens and bytes) or more")
        check("data", self.data, bool(self.data), "one or more indexes")


def text_tokenizer(config: TextTokenizerConfig) -> None:
    """Train and write it."""
    from itertools import islice

    from data.shards.loading import check_present, load_index
    from launch.files.atomic import write_file
    from launch.files.outputs import output, try_file
    from stage2_prior.unified.text_training import bytes_per_token, every_text, train_bpe

    try_file("out", config.out)
    if Path(config.out).exists() and not config.overwrite:
        raise UserError(f"out={config.out} is there: choose another file, or pass --overwrite true to replace it")
    sets = [load_index(path) for path in config.data]
    for index in sets:
        check_present(index)
    text = train_bpe(every_text(sets), config.size)
    with output(config.out):
        write_file(Path(config.out), text.to_str(pretty=False))
    mean = bytes_per_token(text, islice(every_text(sets), MEASURED))
    print(f"{config.out}: {text.get_vocab_size()} tokens, {mean:.2f} bytes a token on the first {MEASURED} texts")


def main() -> int:
    """The command."""
    text_tokenizer(parse(TextTokenizerConfig, prog="python -m stage2_prior.text_tokenizer"))
    return 0


if __name__ == "__main__":
    run(main)
