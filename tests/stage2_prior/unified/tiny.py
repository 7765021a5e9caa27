"""Small sets and a vocabulary for the tests of unified priors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.writer import Sample, ShardWriter
from stage2_prior.codes.encoding import npy
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.specials import with_specials
from stage2_prior.codes.unified import UnifiedVocabulary, block_names

PICTURES = CodeSource("p" * 64, 24, (3, 4), {"size": 12, "channels": 1})
SOUNDS = CodeSource("s" * 64, 8, (5,), {"kind": "sounds"}, codebooks=2)
VIDEOS = CodeSource("v" * 64, 6, (2, 2, 3), {"kind": "videos"})


def letters() -> Tokenizer:
    """A tokenizer of single bytes, with the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text.decoder = decoders.ByteLevel()
    return with_specials(text)


def vocabulary(*sources: CodeSource, **forms: bool) -> UnifiedVocabulary:
    """The vocabulary of single bytes and of these tokenizers' codes."""
    return UnifiedVocabulary.of(letters(), block_names(sources or (PICTURES, SOUNDS)), **forms)


def write_codes(folder: Path, source: CodeSource, texts: list[str], *, seed: int = 0) -> ShardIndex:
    """Shards of random codes, four samples each, with captions (none where a text is empty)."""
    random = np.random.default_rng(seed)

    def samples(first: int) -> Iterator[Sample]:
        for i, text in enumerate(texts[first : first + 4], first):
            codes = random.integers(source.codebook_size, size=source.shape, dtype=np.uint16)
            yield f"{i:03d}", {"codes.npy": npy(codes)} | ({"txt": text.encode()} if text else {})

    meta = source.to_dict() | {"captions": sum(map(bool, texts))}
    return _written(folder, samples, len(texts), "codes", meta)


def write_texts(folder: Path, texts: list[str]) -> ShardIndex:
    """Shards of four texts each."""

    def samples(first: int) -> Iterator[Sample]:
        for i, text in enumerate(texts[first : first + 4], first):
            yield f"{i:03d}", {"txt": text.encode()}

    return _written(folder, samples, len(texts), "texts", {})


def _written(folder: Path, samples: object, count: int, kind: str, meta: dict) -> ShardIndex:
    tars = ShardWriter(folder)
    tars.begin({}, ["index.json"])
    records = [tars.write(f"{i:06d}.tar", samples(i)) for i in range(0, count, 4)]  # type: ignore[operator]
    tars.finish({"index.json": tars.index(records, name=kind, kind=kind, meta=meta)})
    return load_index(str(folder / "index.json"))
