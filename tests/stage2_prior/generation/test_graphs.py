"""Captured steps: with a graph's stand-in (tape.py) and on a GPU they draw the codes of the plain loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import TextConfig
from stage2_prior.generation import graphs
from stage2_prior.priors.base import Prior
from tests.stage2_prior.generation.tape import Tapes
from tests.stage2_prior.tiny import CODES, NORMED, SOURCE, TEXTS, tiny_prior

SOURCES = {"autoregressive": SOURCE, "depth": CodeSource("f" * 64, CODES, (3, 4), {}, codebooks=2)}

DRAWINGS = {
    "plain": Drawing(),
    "greedy": Drawing(temperature=0),
    "guided by a whole number": Drawing(guidance=2),
    "first half guided": Drawing(guidance=2.0, guidance_until=0.5),
    "guided later": Drawing(guidance=2.5, guidance_from=0.3, guidance_until=0.8, guidance_schedule="cosine"),
    "cooling": Drawing(temperature=1.3, final_temperature=0.4, guidance=3.0, guidance_schedule="linear"),
    "cooling to greedy": Drawing(temperature=0.9, final_temperature=0),
    "top-k": Drawing(top_k=5, guidance=2.0),
    "top-p": Drawing(top_p=0.8, temperature=1.5),
    "top-k and top-p": Drawing(top_k=9, top_p=0.9),
    "min-p": Drawing(min_p=0.1, guidance=1.5),
}


def prior_of(kind: str, **settings: Any) -> Prior:
    return tiny_prior(kind=kind, source=SOURCES[kind], **settings)


def drawn(prior: Prior, drawing: Drawing, seed: int = 1, given_BN: Tensor | None = None, batch: int = 3) -> Tensor:
    device = next(prior.parameters()).device
    token_B = prior.vocabulary.class_tokens(torch.arange(batch, device=device) % 3)
    uniform_BN = torch.rand(batch, prior.draws(drawing), generator=torch.Generator().manual_seed(seed)).to(device)
    return prior.sample(token_B, uniform_BN, drawing, given_BN)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    """What captures from now on, in buckets of the tiny priors' size."""
    tapes = Tapes()
    monkeypatch.setattr(graphs, "ALIGNED", 1)
    for module in ("autoregressive", "places"):
        monkeypatch.setattr(f"stage2_prior.generation.{module}.capture_for", lambda _: tapes)
    return tapes


def plain(prior: Prior, monkeypatch: pytest.MonkeyPatch, *args: Any, **named: Any) -> Tensor:
    """What is drawn without captured steps."""
    with monkeypatch.context() as patched:
        for module in ("autoregressive", "places"):
            patched.setattr(f"stage2_prior.generation.{module}.capture_for", lambda _: None)
        return drawn(prior, *args, **named)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", DRAWINGS)
def test_captured_steps_draw_the_codes_of_the_plain_loop(
    kind: str, name: str, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, drawing = prior_of(kind), DRAWINGS[name]
    for seed in (1, 2):  # the second batch is drawn by the graphs of the first
        expected_BN = plain(prior, monkeypatch, drawing, seed)
        assert torch.equal(drawn(prior, drawing, seed), expected_BN)


@pytest.mark.parametrize("kind", SOURCES)
def test_graphs_are_made_once_for_each_length_of_the_cache(kind: str, tapes: Tapes) -> None:
    prior = prior_of(kind)
    guided = Drawing(guidance=2.0, guidance_until=0.5)
    steps = SOURCES[kind].positions // SOURCES[kind].codebooks
    captured = steps - (kind == "autoregressive")  # whose first code comes with the condition
    drawn(prior, guided)
    assert (tapes.made, tapes.played) == (graphs.BUCKETS, captured), "two lengths guided, two not"
    drawn(prior, replace(guided, guidance=5.0, guidance_schedule="linear"), seed=2)
    assert (tapes.made, tapes.played) == (graphs.BUCKETS, 2 * captured), "strengths are no part of them"
    drawn(prior, replace(guided, guidance_until=1.0))
    assert tapes.made == graphs.BUCKETS + 2, "the longer half with guidance is new"
    drawn(prior, guided, batch=2)
    assert tapes.made == 2 * graphs.BUCKETS + 2


@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_drawn_is_not_overwritten_by_the_next_batch(kind: str, tapes: Tapes) -> None:
    prior = prior_of(kind)
    first_BN = drawn(prior, Drawing(), 1)
    kept_BN = first_BN.clone()
    assert not torch.equal(drawn(prior, Drawing(), 2), kept_BN)
    assert torch.equal(first_BN, kept_BN)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("guidance_until", [0.25, 1.0])
def test_given_codes_stay_in_captured_steps(
    kind: str, guidance_until: float, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, drawing = prior_of(kind), Drawing(guidance=2.0, guidance_until=guidance_until)
    given_BN = plain(prior, monkeypatch, Drawing(), 7).clone()
    places = SOURCES[kind].positions // SOURCES[kind].codebooks
    given_BN[:, torch.arange(given_BN.shape[1]) % places >= 5] = -1
    given_BN[0, 4], given_BN[1, 6] = -1, 3  # also where only some pictures' codes are given
    expected_BN = plain(prior, monkeypatch, drawing, 1, given_BN)
    for _ in range(2):
        captured_BN = drawn(prior, drawing, 1, given_BN)
        assert torch.equal(captured_BN, expected_BN)
    assert torch.equal(captured_BN[given_BN >= 0], given_BN[given_BN >= 0])
    assert torch.equal(drawn(prior, drawing, 1), plain(prior, monkeypatch, drawing, 1)), "and are forgotten"


def test_if_all_codes_are_given_nothing_is_drawn(tapes: Tapes) -> None:
    given_BN = torch.arange(36).view(3, 12) % CODES
    assert torch.equal(drawn(prior_of("autoregressive"), Drawing(guidance=2.0), given_BN=given_BN), given_BN)
    assert tapes.played == 0


def test_texts_are_in_the_cache_before_captured_steps(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = tiny_prior(condition="text", text=TextConfig(tokens=5, layers=1))
    token_BL = prior.condition.of_texts(TEXTS)
    uniform_BN = torch.rand(3, SOURCE.positions, generator=torch.Generator().manual_seed(1))
    for drawing in (Drawing(), Drawing(guidance=3.0, guidance_until=0.5)):
        captured_BN = prior.sample(token_BL, uniform_BN, drawing)
        with monkeypatch.context() as patched:
            patched.setattr("stage2_prior.generation.autoregressive.capture_for", lambda _: None)
            assert torch.equal(captured_BN, prior.sample(token_BL, uniform_BN, drawing))
    assert tapes.played == 2 * (SOURCE.positions - 1)


@pytest.mark.parametrize("kind", SOURCES)
def test_groups_of_heads_and_other_types(kind: str, tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, settings in ((torch.float32, {"key_value_heads": 2}), (torch.float64, {}), (torch.float32, NORMED[3])):
        prior = prior_of(kind, **settings).to(dtype)
        assert torch.equal(drawn(prior, DRAWINGS["cooling"]), plain(prior, monkeypatch, DRAWINGS["cooling"]))


def test_a_cache_that_the_plain_loop_took_is_not_read_by_graphs(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, drawing = prior_of("autoregressive"), Drawing()
    expected_BN = drawn(prior, drawing)
    plain(prior, monkeypatch, drawing, batch=2)  # the memory of another batch
    made = tapes.made
    assert torch.equal(drawn(prior, drawing), expected_BN)
    assert tapes.made > made


def test_steps_are_captured_on_gpus_and_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert graphs.capture_for(torch.device("cpu")) is None
    assert isinstance(graphs.capture_for(torch.device("cuda")), graphs.CudaGraphs)
    monkeypatch.setenv("VQLOOM_CUDA_GRAPHS", "0")
    assert graphs.capture_for(torch.device("cuda")) is None
