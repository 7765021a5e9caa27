"""Figures of a unified prior by likelihood, against plain sums over a plain model's probabilities."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.shards.index import ShardIndex
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.measuring.both_ways import BothWays, text_figures
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.unified.stream import every_unified
from tests.stage2_prior.unified.tiny import PICTURES, SOUNDS, vocabulary, write_codes, write_texts

TEXTS = ["a one", "two and a bit", "", "three", "a one", "vier", "fünf"]


class ThreadRanks:
    """Ranks that are threads of this process."""

    def __init__(
        self, rank: int = 0, world_size: int = 1, barrier: threading.Barrier | None = None, shared: Any = None
    ):
        self.rank, self.world_size, self.barrier, self.shared = rank, world_size, barrier, shared

    def heartbeat(self) -> None: ...

    def sum(self, tensor: Tensor) -> Tensor:
        if self.barrier is None:
            return tensor
        self.shared[self.rank] = tensor
        self.barrier.wait()
        total = torch.stack([self.shared[rank] for rank in range(self.world_size)]).sum(0)
        self.barrier.wait()
        return total


@pytest.fixture(scope="module")
def prior() -> UnifiedPrior:
    torch.manual_seed(0)
    config = PriorModelConfig(kind="unified", layers=1, width=32, heads=2)
    prior = UnifiedPrior.fresh(config, vocabulary(PICTURES, SOUNDS), 96).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return prior


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_codes(tmp_path_factory.mktemp("codes"), PICTURES, TEXTS)


def measured(prior: UnifiedPrior, index: ShardIndex, ranks: Any) -> BothWays:
    return BothWays(prior, prior.over(prior.vocabulary.block_of(PICTURES)), index, ranks, 3)


def nats(prior: UnifiedPrior, ids: list[int], first: int, low: int = 0, high: int | None = None) -> float:
    """-ln p of the ids from `first` on, among those from `low` to `high`."""
    with torch.no_grad():
        logits_TV = prior.lm(torch.tensor([ids])).logits[0].double()
    share_TV = logits_TV[:, low:high].log_softmax(-1)
    return -sum(float(share_TV[at - 1, ids[at] - low]) for at in range(first, len(ids)))


def samples_of(prior: UnifiedPrior, index: ShardIndex) -> list[tuple[str, list[int]]]:
    """Text and the span's ids of each sample."""
    found = []
    for _, samples in every_unified(index, prior.vocabulary):
        for segments in samples:
            text = prior.vocabulary.decode_text(list(segments[0].ids)) if len(segments) == 2 else ""
            found.append((text, [int(one) for one in segments[-1].ids]))
    return found


def test_likelihoods_are_those_of_the_plain_model(prior: UnifiedPrior, index: ShardIndex) -> None:
    words, block = prior.vocabulary, prior.vocabulary.block_of(PICTURES)
    given = alone = codes = size = 0.0
    samples = samples_of(prior, index)
    assert [text for text, _ in samples] == TEXTS
    for text, span in samples:
        media = [block.opening, *span, block.closing]
        codes += nats(prior, [words.begin, words.none, block.opening, *span], 3, block.first, block.first + block.size)
        if text:
            ids = [*words.encode_text(text), words.end]
            given += nats(prior, [words.begin, *media, *ids], 1 + len(media))
            alone += nats(prior, [words.begin, *ids], 1)
            size += len(text.encode())
    found = measured(prior, index, ThreadRanks()).likelihoods()
    assert found["text"]["bytes"] == size
    assert found["text"]["bits_per_byte"] == pytest.approx(given / size / math.log(2), rel=1e-4)
    assert found["text"]["bits_per_byte_without_media"] == pytest.approx(alone / size / math.log(2), rel=1e-4)
    expected = codes / (len(TEXTS) * block.codes) / math.log(2)
    assert found["bits_per_code_without_text"] == pytest.approx(expected, rel=1e-4)


def test_a_text_is_looked_for_by_bayes_rule(prior: UnifiedPrior, index: ShardIndex) -> None:
    words, block = prior.vocabulary, prior.vocabulary.block_of(PICTURES)
    pairs = list({text: span for text, span in reversed(samples_of(prior, index)) if text}.items())[::-1]
    assert len(pairs) == 5  # "a one" once, as its first sample
    pictures, texts = (np.empty((5, 5)) for _ in range(2))
    for i, (text, _) in enumerate(pairs):
        for j, (_, span) in enumerate(pairs):
            ids = words.encode_text(text)
            media = [words.begin, block.opening, *span, block.closing]
            pictures[i, j] = -nats(prior, [*media, *ids, words.end], len(media))
            shown = [words.begin, *ids, block.opening, *span]
            texts[j, i] = -nats(prior, shown, len(ids) + 2, block.first, block.first + block.size)
    both = measured(prior, index, ThreadRanks())
    found = both.retrieval(100)
    assert found["candidates"] == 5
    assert found["text_to_picture"] == np.mean(pictures.argmax(1) == np.arange(5))
    assert found["picture_to_text"] == np.mean(texts.argmax(1) == np.arange(5))
    assert both.retrieval(2)["candidates"] == 2


def test_captions_are_compared_letter_by_letter_and_ranks_share_the_work(prior: UnifiedPrior, tmp_path: Path) -> None:
    codes = write_codes(tmp_path / "first", PICTURES, ["abc"] * 6)
    both = measured(prior, codes, ThreadRanks())
    media = [segments[1] for _, samples in every_unified(codes, prior.vocabulary) for segments in samples]
    own = both.captions(media, 12)  # type: ignore[arg-type]
    texts = [text if number % 2 else f"{text}." for number, text in enumerate(own)]
    index = write_codes(tmp_path / "own", PICTURES, [text or "." for text in texts])
    ended = sum(bool(text) and len(prior.vocabulary.encode_text(text)) < 12 for text in own[1::2])
    one = measured(prior, index, ThreadRanks()).figures(100, 100)
    assert one["captions"]["count"] == 6
    assert one["captions"]["exact_match"] == pytest.approx(ended / 6)
    barrier, shared, found = threading.Barrier(2), {}, {}

    def work(rank: int) -> None:
        found[rank] = measured(prior, index, ThreadRanks(rank, 2, barrier, shared)).figures(100, 100)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert found[0]["captions"] == one["captions"] and found[0]["retrieval"] == one["retrieval"]
    assert found[0]["text"] == pytest.approx(one["text"])


def test_texts_alone_count_each_byte_once(prior: UnifiedPrior, tmp_path: Path) -> None:
    texts = ["some text", "x" * 200]  # the second one goes on in further rows
    found = text_figures(prior, write_texts(tmp_path, texts), ThreadRanks(), 8)["text"]  # type: ignore[arg-type]
    assert found["bytes"] == 209 and found["bits_per_byte"] > 0
