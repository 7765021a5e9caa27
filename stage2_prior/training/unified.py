"""What a unified prior is trained on: sets of codes and of texts, their vocabulary, and figures on held-out ones.

Shapes: B rows, T tokens, K kinds of tokens.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch

from data.reading.sets import training_sets
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from launch.command.cli import UserError
from launch.files.downloads import fetched
from launch.ranks.joined import Ranks
from launch.run.runtime import Run
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.layers.precision import ieee
from stage2_prior.codes.unified import TEXT, UnifiedVocabulary
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.priors.unified import UnifiedPrior, after
from stage2_prior.unified.opening import vocabulary_of
from stage2_prior.unified.packing import pack
from stage2_prior.unified.segments import Document, directed
from stage2_prior.unified.stream import KINDS, UnifiedStream, documents_of, every_unified

HELD_OUT = "data.held_out"


@dataclass(frozen=True)
class UnifiedSets:
    """The sets of a unified training, by their settings."""

    sets: dict[str, ShardIndex]
    vocabulary: UnifiedVocabulary

    @classmethod
    def opened(cls, config: PriorTrainConfig, rank: int = 0, ranks: int = 1) -> Self:
        """The configured sets; UserError where they don't fit each other, a tokenizer, or the ranks."""
        sets = training_sets(config.data, rank, ranks, kinds=tuple(KINDS))
        training = {key: index for key, index in sets.items() if key != HELD_OUT}
        settings = config.model.unified
        if config.init_text is not None and not settings.text_tokenizer:
            settings = replace(settings, text_tokenizer=str(fetched(config.init_text)))
        vocabulary = vocabulary_of(settings, training)
        if config.tokenizer:
            fingerprint = Tokenizer.from_pretrained(config.tokenizer).code_fingerprint
            if fingerprint not in {block.source.tokenizer for block in vocabulary.blocks}:
                raise UserError(f"tokenizer={config.tokenizer} made none of the codes: leave it out")
        return cls(sets, vocabulary)

    @property
    def training(self) -> list[ShardIndex]:
        """data.index and those of data.mixture, in order."""
        return [index for key, index in self.sets.items() if key != HELD_OUT]

    @property
    def held_out(self) -> ShardIndex | None:
        """data.held_out."""
        return self.sets.get(HELD_OUT)

    def identities(self) -> dict[str, Identity]:
        """What the sets are."""
        return {key: Identity.of(index) for key, index in self.sets.items()}

    def stream(self, config: PriorTrainConfig, run: Run) -> UnifiedStream:
        """This rank's batches."""
        return UnifiedStream(
            config.data,
            config.model.unified,
            self.training,
            self.vocabulary,
            seed=run.data_seed,
            draw_seed=config.run.seed,
            dropout=config.model.class_dropout,
            rank=run.rank,
            world_size=run.world_size,
        )

    def on_no_device(self, config: PriorTrainConfig) -> UnifiedPrior:
        """A prior that isn't allocated, unless a text model decides its shape."""
        with torch.device("meta") if config.init_text is None else contextlib.nullcontext():
            return self.fresh(config)

    def fresh(self, config: PriorTrainConfig) -> UnifiedPrior:
        """The prior with its first weights."""
        return UnifiedPrior.fresh(config.model, self.vocabulary, config.model.unified.length, config.init_text)


@ieee()
@torch.no_grad()
def unified_figures(
    prior: UnifiedPrior, index: ShardIndex, config: PriorTrainConfig, ranks: Ranks, batch_size: int = 64
) -> dict[str, float]:
    """Bits per token of each kind on held-out samples, in each direction that is trained, and bits per byte of texts.

    Every sample counts once in each direction, over all ranks, which call the prior equally often.
    """
    kinds = list(prior.vocabulary.kinds)
    sums = torch.zeros(2 * len(kinds) + 1, dtype=torch.float64, device=ranks.device)
    batches = _documents(prior, index, config, ranks, batch_size)
    documents = next(batches, None)
    while ranks.vote.any(documents is not None):
        shown = pack(documents or [], prior.source.positions, prior.vocabulary.end)
        token_BT, document_BT = shown.token_BT.to(ranks.device), shown.document_BT.to(ranks.device)
        nats_BT, _ = prior.score(token_BT, document_BT)
        of_BT = shown.kind_BT.to(ranks.device)
        of_BT = torch.cat([torch.full_like(of_BT[:, :1], -1), after(document_BT, of_BT)[:, :-1]], dim=1)
        for number in range(len(kinds)):
            there_BT = of_BT == number
            sums[2 * number] += (nats_BT.double() * there_BT).sum()
            sums[2 * number + 1] += there_BT.sum()
        sums[-1] += sum(document.size for document in documents or [])
        ranks.heartbeat()
        documents = next(batches, None)
    *totals, size = ranks.sum(sums).tolist()
    figures = {}
    for number, name in enumerate(kinds):
        nats, count = totals[2 * number : 2 * number + 2]
        if count:
            figures[f"{name}_bits_per_token"] = nats / count / math.log(2)
        if name == TEXT and size:
            figures["bits_per_byte"] = nats / size / math.log(2)
    return figures


def _documents(
    prior: UnifiedPrior, index: ShardIndex, config: PriorTrainConfig, ranks: Ranks, batch_size: int
) -> Iterator[list[Document]]:
    """The documents of each batch of this rank's samples, in each direction."""
    model, rank, size = config.model.unified, ranks.rank, ranks.world_size
    for _, samples in every_unified(index, prior.vocabulary, batch_size=batch_size, rank=rank, world_size=size):
        found: list[Document] = []
        for direction in (name for name, weight in model.directions.items() if weight > 0):
            for segments in samples:
                found += documents_of(prior.vocabulary, directed(segments, direction), model.length)  # type: ignore[arg-type]
        yield found
