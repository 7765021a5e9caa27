"""Batches of packed rows from sets of codes and sets of texts, as much a function of seed and step as any other.

A step takes a fixed number of samples from each set: its share, by weight, of data.batch_size. So every token that a
step reads follows from seed and step, on any number of ranks; how many rows they fill differs from step to step.

Shapes: B samples of the global batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from data.codes.batches import CodeBatch
from data.config import CodeDataConfig, DocumentDataConfig, TextDataConfig
from data.reading.stream import Stream, every_sample_of
from data.shards.index import ShardIndex
from data.texts.batches import TextBatch
from data.texts.documents import DocumentBatch
from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.unified import Block, Packed, UnifiedVocabulary
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.unified.draws import drawn
from stage2_prior.unified.packing import pack
from stage2_prior.unified.segments import Document, Interleaved, MediaSegment, Segment, TextSegment, layout, pieces

KINDS = {"codes": CodeDataConfig, "texts": TextDataConfig, "documents": DocumentDataConfig}
"""Kinds of samples that a unified prior reads, and the settings that read them."""


@dataclass(frozen=True)
class UnifiedBatch:
    """One rank's part of a step."""

    step: int
    packed: Packed
    samples: int
    """Samples of this rank."""
    cut: int
    """Text tokens that didn't fit."""


class UnifiedStream:
    """Endless batches of one rank; a context manager. UserError as of `data.reading.stream.Stream`."""

    def __init__(
        self,
        data: CodeDataConfig,
        config: UnifiedConfig,
        sets: Sequence[ShardIndex],
        vocabulary: UnifiedVocabulary,
        *,
        seed: int,
        draw_seed: int,
        dropout: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """`sets` are data.index and those of data.mixture, in order; `seed` orders samples, `draw_seed` draws for them.

        `dropout` is the share of samples whose text is dropped (model.class_dropout).
        """
        self.config, self.vocabulary, self.draw_seed, self.dropout = config, vocabulary, draw_seed, dropout
        self.rank, self.samples = rank, data.batch_size
        self.sizes = shares(data.batch_size, [1.0, *data.mixture.values()], world_size)
        self._stack = ExitStack()
        self.streams: list[Stream] = []
        for i, (path, index, size) in enumerate(zip([data.index, *data.mixture], sets, self.sizes, strict=True)):
            own = of_kind(data, index, index=path, mixture={}, batch_size=size, held_out=None)
            # Each set is ordered by a seed of its own, as of a mixture.
            stream = Stream(own, seed=seed + (i << 64), rank=rank, world_size=world_size)
            self.streams.append(self._stack.enter_context(stream))
        self._blocks = [blocks_of(index, vocabulary) for index in sets]

    def batches(self, start: int = 0) -> Iterator[UnifiedBatch]:
        """This rank's part of the steps `start`, `start` + 1, … without end."""
        for step, parts in enumerate(zip(*(stream.batches(start) for stream in self.streams), strict=True), start):
            yield self._batch(step, parts)

    def _batch(self, step: int, parts: Sequence[Any]) -> UnifiedBatch:
        draws = drawn(self.draw_seed, step, self.samples, self.config.directions, self.dropout)  # type: ignore[arg-type]
        documents: list[Document] = []
        first, count = 0, 0
        for size, blocks, part in zip(self.sizes, self._blocks, parts, strict=True):
            samples = segments_of(part, self.vocabulary, blocks)
            own = first + self.rank * len(samples)
            for number, segments in enumerate(samples):
                documents += documents_of(self.vocabulary, draws[own + number].of(segments), self.config.length)
            first, count = first + size, count + len(samples)
        packed = pack(documents, self.config.length, self.vocabulary.end)
        return UnifiedBatch(step, packed, count, sum(document.cut for document in documents))

    def close(self) -> None:
        """End the threads and close the files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def every_unified(
    index: ShardIndex, vocabulary: UnifiedVocabulary, *, batch_size: int = 64, rank: int = 0, world_size: int = 1,
    limit: int | None = None,
) -> Iterator[tuple[list[str], list[list[Segment]]]]:  # fmt: skip
    """Keys and segments of each sample of a set exactly once, in batches: rank q's contiguous slice."""
    config = of_kind(CodeDataConfig(batch_size=batch_size, max_damaged=0.0), index)
    blocks = blocks_of(index, vocabulary)
    for batch in every_sample_of(index, config, rank, world_size, limit):
        yield batch.keys, segments_of(batch, vocabulary, blocks)


def sources_of(index: ShardIndex, key: str = "data.index") -> list[CodeSource]:
    """The sources of a set's codes; none of a set of texts."""
    if index.kind == "codes":
        return [CodeSource.of_index(index, index.path, key)]
    return [CodeSource.from_dict(saved) for saved in index.meta.get("sources", ())]


def blocks_of(index: ShardIndex, vocabulary: UnifiedVocabulary) -> list[Block]:
    """The blocks of a set's codes, in the order of its sources; UserError for codes that the vocabulary hasn't."""
    return [vocabulary.block_of(source) for source in sources_of(index)]


def segments_of(
    batch: CodeBatch | TextBatch | DocumentBatch, vocabulary: UnifiedVocabulary, blocks: Sequence[Block] = ()
) -> list[list[Segment]]:
    """The segments of each sample of a batch: a text alone; a caption, if there is one, and codes; or a document's.

    `blocks` are those of the set's codes.
    """
    if isinstance(batch, TextBatch):
        return [[TextSegment.of(vocabulary, text)] for text in batch.texts]
    if isinstance(batch, DocumentBatch):
        return [
            Interleaved(
                TextSegment.of(vocabulary, part) if isinstance(part, str) else MediaSegment(blocks[part[0]], part[1])
                for part in parts
            )
            for parts in batch.documents
        ]
    captions = batch.captions or [""] * len(batch.keys)
    return [
        [*([TextSegment.of(vocabulary, text)] if text else []), MediaSegment(blocks[0], codes)]
        for text, codes in zip(captions, batch.idx_Bhw.numpy(), strict=True)
    ]


def documents_of(vocabulary: UnifiedVocabulary, segments: Sequence[Segment], length: int) -> list[Document]:
    """The documents of a sample, none longer than `length`: what is text alone or interleaved goes on in further ones.

    A caption is cut, so that it stays beside its codes.
    """
    if isinstance(segments, Interleaved) or all(isinstance(one, TextSegment) for one in segments):
        return pieces(layout(vocabulary, segments), length)
    return [layout(vocabulary, segments, length)]


def shares(samples: int, weights: Sequence[float], world_size: int = 1) -> list[int]:
    """Samples of each set in a global batch, by largest remainder; UserError where ranks don't divide one of them."""
    exact = np.asarray(weights) / sum(weights) * samples
    sizes = np.floor(exact).astype(int)
    sizes[np.argsort(-(exact - sizes), kind="stable")[: samples - int(sizes.sum())]] += 1
    found: list[int] = sizes.tolist()
    if min(found) < 1 or any(size % world_size for size in found):
        raise UserError(
            f"data.batch_size={samples} gives the sets of data.index and data.mixture {', '.join(map(str, found))} "
            f"samples a step, each of which must be a multiple of the {world_size} ranks: set data.batch_size or the "
            "weights of data.mixture to make them so"
        )
    return found


def of_kind(data: CodeDataConfig, index: ShardIndex, /, **changes: Any) -> CodeDataConfig:
    """The settings that read an index's kind of samples. UserError where no unified prior reads it."""
    if index.kind not in KINDS:
        raise UserError(
            f"{index.path or index.base} holds {index.kind}: encode them with stage2_prior.encode, or give texts"
        )
    same = {name: getattr(data, name) for name in data.__dataclass_fields__}
    return KINDS[index.kind](**(same | changes))
