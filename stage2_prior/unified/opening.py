"""The vocabulary of a training: its tokenizer of texts, and a block for each tokenizer whose codes it reads."""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from data.shards.index import ShardIndex
from launch.command.cli import UserError, reason
from stage2_prior.codes.specials import with_specials
from stage2_prior.codes.unified import TOKENIZER, UnifiedVocabulary, block_names
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.unified.stream import sources_of


def vocabulary_of(config: UnifiedConfig, sets: Mapping[str, ShardIndex]) -> UnifiedVocabulary:
    """The vocabulary of the training sets, by their settings: a block for each tokenizer, in their order.

    UserError for codes of one tokenizer on several grids, without rows=true.
    """
    sources = [(key, source) for key, index in sets.items() for source in sources_of(index, key)]
    text, late = read_tokenizer(config.text_tokenizer), config.levels == "delayed"
    blocks = block_names([source for _, source in sources])
    vocabulary = UnifiedVocabulary.of(text, blocks, delayed=late, rows=config.rows)
    for key, source in sources:
        block = vocabulary.block_of(source)
        if source.grid != block.source.grid and block.row is None:
            grids = " and ".join("×".join(map(str, one.grid)) for one in (block.source, source))
            raise UserError(f"{key} has codes of one tokenizer on grids of {grids}: set model.unified.rows=true")
    return vocabulary


def read_tokenizer(place: str) -> Tokenizer:
    """The tokenizer of texts at a path, with all special tokens; UserError where there is none."""
    if not place:
        raise UserError(
            "model.unified.text_tokenizer is not set: make one with `python -m stage2_prior.text_tokenizer`, or give "
            "another tokenizer.json"
        )
    path = Path(place) / TOKENIZER if Path(place).is_dir() else Path(place)
    try:
        return with_specials(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises plain ones
        raise UserError(f"model.unified.text_tokenizer={place} can't be read: {reason(error)}") from error
