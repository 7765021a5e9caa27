"""Figures of a unified prior by likelihood: of texts with and without their samples, of samples with and without texts.

For each held-out sample of codes x and its text t, once over all ranks:

    text.bits_per_byte                  -log2 p(t | x) by the text's bytes in UTF-8, its end included
    text.bits_per_byte_without_media    -log2 p(t) of the text alone
    bits_per_code_without_text          -log2 p(x | <none>) by code; bits_per_code is of p(x | t)
    captions.exact_match                share of the samples whose likeliest text, token by token, is t
    retrieval.text_to_picture           share of the texts t for which p(t | x) is largest for their own sample
    retrieval.picture_to_text           share of the samples x for which p(x | t) is largest for their own text

Both retrievals are among candidates with different texts, by Bayes' rule where all are equally likely.
Of sounds and videos their names have sound and video for picture.

Shapes: B documents, T tokens of a row, N codes, C candidates.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from data.shards.index import ShardIndex
from launch.command.cli import UserError
from launch.ranks.joined import Ranks
from stage1_tokenizer.layers.precision import ieee
from stage2_prior.codes.specials import SPAN
from stage2_prior.codes.unified import TEXT
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.of_block import NOTHING, BlockPrior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.unified.packing import pack
from stage2_prior.unified.prompts import to_describe
from stage2_prior.unified.segments import Direction, Document, MediaSegment, Segment, TextSegment, directed, layout
from stage2_prior.unified.stream import documents_of, every_unified

GREEDY = Drawing(temperature=0)


class BothWays:
    """Measures a unified prior on held-out samples of one block and their texts."""

    def __init__(self, prior: UnifiedPrior, over: BlockPrior, index: ShardIndex, ranks: Ranks, batch_size: int):
        """`over` is the prior over the codes of `index`."""
        self.prior, self.over, self.index, self.ranks, self.batch_size = prior, over, index, ranks, batch_size
        self.device = next(prior.parameters()).device

    @ieee()
    @torch.no_grad()
    def figures(self, captions: int, retrieval: int) -> dict[str, Any]:
        """All figures, of at most so many captions and candidates; the same on every rank."""
        found = self.likelihoods()
        if captions:
            found["captions"] = self.exact_match(captions)
        if retrieval:
            found["retrieval"] = self.retrieval(retrieval)
        return found

    def likelihoods(self) -> dict[str, Any]:
        """Bits per byte of texts with and without the codes, and bits per code without texts."""
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for samples in self._samples(rank=self.ranks.rank, world_size=self.ranks.world_size):
            pairs = [pair for pair in map(_pair, samples) if pair is not None]
            code_BN = torch.stack([_codes(media) for _, media in (_parts(one) for one in samples)])
            token_BL = torch.full((len(code_BN), 1), NOTHING)
            nats_BN, _ = self.over.score(code_BN.to(self.device), token_BL.to(self.device))
            sums[3:] += torch.stack([nats_BN.double().sum(), sums.new_full((), nats_BN.numel())])
            for number, direction in ((0, "media_to_text"), (1, "text")):
                documents = [self._document(pair, direction) for pair in pairs]  # type: ignore[arg-type]
                if documents:
                    sums[number] += self.text_nats(documents).sum()
            sums[2] += sum(text.size for text, _ in pairs)
            self.ranks.heartbeat()
        given, alone, size, nats, codes = self.ranks.sum(sums).tolist()
        found: dict[str, Any] = {"bits_per_code_without_text": nats / max(codes, 1) / math.log(2)}
        if size:
            bits = {"bits_per_byte": given, "bits_per_byte_without_media": alone}
            found["text"] = {name: value / size / math.log(2) for name, value in bits.items()} | {"bytes": int(size)}
        return found

    def exact_match(self, most: int) -> dict[str, Any]:
        """The share of samples, evenly spaced, whose greedy caption is their text, letter by letter."""
        rank, world_size = self.ranks.rank, self.ranks.world_size
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for samples in self._samples(rank=rank, world_size=world_size, limit=most):
            pairs = [pair for pair in map(_pair, samples) if pair is not None]
            if not pairs:
                continue
            texts = [self.prior.vocabulary.decode_text(list(text.ids)) for text, _ in pairs]
            longest = max(len(text.ids) for text, _ in pairs) + 1
            right = sum(
                a == b for a, b in zip(self.captions([media for _, media in pairs], longest), texts, strict=True)
            )
            sums += torch.tensor([right, len(pairs)], dtype=torch.float64, device=self.device)
            self.ranks.heartbeat()
        right_count, count = self.ranks.sum(sums).tolist()
        if not count:
            raise UserError(f"codes={self.index.path} have no captions: set captions and retrieval to 0")
        return {"exact_match": right_count / count, "count": int(count)}

    def captions(self, media: Sequence[MediaSegment], tokens: int) -> list[str]:
        """The likeliest texts, token by token, of some samples."""
        code_BN = torch.stack([_codes(one) for one in media])
        prompts = to_describe(self.prior.vocabulary, self.over.block, code_BN)
        uniform_BU = torch.zeros(len(prompts), tokens, device=self.device)
        continued = self.prior.continued(uniform_BU, prompts, GREEDY)
        return [self.prior.vocabulary.decode_text(ids) for ids in continued]

    def retrieval(self, candidates: int) -> dict[str, Any]:
        """R@1 in both directions among as many samples, evenly spaced, with different texts."""
        pairs = self._candidates(candidates)
        count = len(pairs)
        score_2CC = torch.zeros(2, count, count, dtype=torch.float64, device=self.device)
        code_CN = torch.stack([_codes(media) for _, media in pairs]).to(self.device)
        for number in range(self.ranks.rank, count, self.ranks.world_size):
            text, _ = pairs[number]
            for start in range(0, count, self.batch_size):
                some = slice(start, start + self.batch_size)
                documents = [self._document((text, media), "media_to_text") for _, media in pairs[some]]
                score_2CC[0, number, some] = -self.text_nats(documents)
                texts = [one.ids for one, _ in pairs[some]]
                token_BL = _padded(texts).to(self.device)
                nats_BN, _ = self.over.score(code_CN[number].expand(len(texts), -1), token_BL)
                score_2CC[1, number, some] = -nats_BN.double().sum(1)
            self.ranks.heartbeat()
        score_2CC = self.ranks.sum(score_2CC)
        own_2C = score_2CC.diagonal(dim1=1, dim2=2)
        others_2CC = score_2CC.masked_fill(torch.eye(count, dtype=torch.bool, device=self.device), -torch.inf)
        to_media, to_text = (own_2C > others_2CC.amax(2)).double().mean(1).tolist()
        what = SPAN[self.over.source.kind]
        return {f"text_to_{what}": to_media, f"{what}_to_text": to_text, "candidates": count}

    def text_nats(self, documents: Sequence[Document]) -> Tensor:
        """-ln p of the text tokens that bear loss, of each document, nats_B float64."""
        longest, kind = max(map(len, documents)), self.prior.vocabulary.kind_number(TEXT)
        nats = []
        for start in range(0, len(documents), self.batch_size):
            # Each document has a row of its own, which `pack` sorts by length: rows are asked for one by one.
            rows = [
                pack([one], longest, self.prior.vocabulary.end) for one in documents[start : start + self.batch_size]
            ]
            token_BT, document_BT, kind_BT = (
                torch.cat([getattr(row, name) for row in rows]).to(self.device)
                for name in ("token_BT", "document_BT", "kind_BT")
            )
            nats_BT, _ = self.prior.score(token_BT, document_BT)
            nats.append((nats_BT.double() * (kind_BT == kind)).sum(1))
        return torch.cat(nats)

    def _document(self, pair: tuple[TextSegment, MediaSegment], direction: Direction) -> Document:
        document = layout(self.prior.vocabulary, directed(pair, direction))
        if len(document) > self.prior.source.positions:
            raise UserError(
                f"codes={self.index.path} has a text of {pair[0].size} bytes, which is too long for the prior's "
                f"{self.prior.source}: shorten it"
            )
        return document

    def _candidates(self, count: int) -> list[tuple[TextSegment, MediaSegment]]:
        """Samples with different texts, the same on every rank: the first of each text, evenly spaced."""
        found: dict[tuple[int, ...], tuple[TextSegment, MediaSegment]] = {}
        for samples in self._samples():
            for pair in map(_pair, samples):
                if pair is not None:
                    found.setdefault(tuple(pair[0].ids), pair)
        if len(found) < 2:
            raise UserError(f"codes={self.index.path} have less than two different captions: set retrieval to 0")
        pairs = list(found.values())
        return [pairs[number * len(pairs) // count] for number in range(count)] if count < len(pairs) else pairs

    def _samples(self, **which: Any) -> Iterator[list[list[Segment]]]:
        for _, samples in every_unified(self.index, self.prior.vocabulary, batch_size=self.batch_size, **which):
            yield samples


@ieee()
@torch.no_grad()
def text_figures(prior: UnifiedPrior, index: ShardIndex, ranks: Ranks, batch_size: int) -> dict[str, Any]:
    """Bits per byte of a set of texts, longer ones in pieces as in training; each byte counts once over the ranks."""
    device, kind = next(prior.parameters()).device, prior.vocabulary.kind_number(TEXT)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    which = {"rank": ranks.rank, "world_size": ranks.world_size}
    for _, samples in every_unified(index, prior.vocabulary, batch_size=batch_size, **which):
        documents = [one for each in samples for one in documents_of(prior.vocabulary, each, prior.source.positions)]
        packed = pack(documents, prior.source.positions, prior.vocabulary.end)
        nats_BT, _ = prior.score(packed.token_BT.to(device), packed.document_BT.to(device))
        sums[0] += (nats_BT.double() * (packed.kind_BT.to(device) == kind)).sum()
        sums[1] += sum(document.size for document in documents)
        ranks.heartbeat()
    nats, size = ranks.sum(sums).tolist()
    return {"text": {"bits_per_byte": nats / max(size, 1) / math.log(2), "bytes": int(size)}}


def _parts(segments: Sequence[Segment]) -> tuple[TextSegment | None, MediaSegment]:
    texts = [one for one in segments if isinstance(one, TextSegment)]
    return (texts[0] if texts else None), next(one for one in segments if isinstance(one, MediaSegment))


def _pair(segments: Sequence[Segment]) -> tuple[TextSegment, MediaSegment] | None:
    """A sample's text and its codes; None for one without a text."""
    text, media = _parts(segments)
    return None if text is None else (text, media)


def _codes(media: MediaSegment) -> Tensor:
    """The codes, flattened from their form, code_N int64."""
    return torch.from_numpy(media.codes).long().flatten()


def _padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Texts as token_BL."""
    longest = max(map(len, texts))
    return torch.tensor([[*one, *[NOTHING] * (longest - len(one))] for one in texts])
