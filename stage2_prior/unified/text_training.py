"""A byte-level BPE trained on texts, by the `tokenizers` library."""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data.config import CodeDataConfig
from data.reading.stream import every_sample_of
from data.shards.index import ShardIndex
from data.texts.batches import TextBatch
from launch.command.cli import UserError
from stage2_prior.codes.specials import SPECIALS
from stage2_prior.unified.stream import of_kind

LEAST = len(SPECIALS) + 256
"""Tokens without any merge."""


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` tokens, special ones and all bytes included, so that no text has unknown parts.

    (Sennrich et al. 2016, on bytes as of Radford et al. 2019)
    """
    text = Tokenizer(models.BPE())
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    text.train_from_iterator(texts, trainer)
    return text


def every_text(sets: Sequence[ShardIndex]) -> Iterator[str]:
    """The texts of sets of texts, and the captions of sets of codes, in order; UserError for other sets."""
    for index in sets:
        config = of_kind(CodeDataConfig(batch_size=256, max_damaged=0.0), index)
        if index.kind == "codes" and not index.meta.get("captions"):
            raise UserError(f"{index.path} has no captions: pack the samples with theirs, and encode them again")
        for batch in every_sample_of(index, config, 0, 1):
            yield from batch.texts if isinstance(batch, TextBatch) else filter(None, batch.captions)


def bytes_per_token(text: Tokenizer, texts: Iterable[str]) -> float:
    """Mean bytes of a token on some texts."""
    sums = [0, 0]
    for one in texts:
        sums[0] += len(one.encode())
        sums[1] += len(text.encode(one, add_special_tokens=False).ids)
    return sums[0] / max(1, sums[1])
