"""Priors over codes of several codebooks: patterns, what a code depends on, caches, given codes, exports."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig, TextConfig
from stage2_prior.generation import graphs
from stage2_prior.generation.delays import Delays
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.depth import DepthPrior
from stage2_prior.priors.fused import install
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.training.cost import cost
from tests.stage2_prior.generation.tape import Tapes
from tests.stage2_prior.tiny import CODES, TEXTS, tiny_prior

PLACES, BOOKS = 5, 3
SOUNDS = CodeSource("f" * 64, CODES, (PLACES,), {"kind": "sounds"}, codebooks=BOOKS)
TEXT: dict[str, Any] = {"condition": "text", "text": TextConfig(tokens=4, layers=1)}
PRIORS: dict[str, dict[str, Any]] = {
    "flat": {"kind": "autoregressive"},
    "flat-text": {"kind": "autoregressive"} | TEXT,
    "delay": {"kind": "delay"},
    "delay-text": {"kind": "delay"} | TEXT,
    "parallel": {"kind": "delay", "delays": [0, 0, 0]},
    "depth": {"kind": "depth"},
    "depth-text": {"kind": "depth"} | TEXT,
    "depth-delays": {"kind": "depth", "delays": [0, 1, 1]},
    "levels": {"kind": "depth", "per_level_weights": True},
    "levels-delays": {"kind": "depth", "per_level_weights": True, "delays": [0, 2, 1]},
    "masked": {"kind": "masked"},
    "masked-text": {"kind": "masked"} | TEXT,
}
CAUSAL = [name for name in PRIORS if "masked" not in name]
names = pytest.mark.parametrize("name", PRIORS)
causal = pytest.mark.parametrize("name", CAUSAL)


def prior_of(name: str, spread: float = 4.0, **settings: Any) -> Prior:
    return tiny_prior(source=SOUNDS, spread=spread, depth_layers=2, **PRIORS[name] | settings)


def tokens_of(prior: Prior) -> Tensor:
    if prior.condition.prefix:
        return prior.condition.of_texts([TEXTS[0], "", TEXTS[2]])
    return prior.vocabulary.class_tokens(torch.tensor([0, 2, -1]))


def codes_of(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(CODES, (batch, SOUNDS.positions), generator=torch.Generator().manual_seed(seed))


def uniform_of(prior: Prior, drawing: Drawing, seed: int = 0) -> Tensor:
    return torch.rand(3, prior.draws(drawing), generator=torch.Generator().manual_seed(seed))


def before(name: str, g: int, p: int) -> set[tuple[int, int]]:
    """The codes (codebook, place) that the code (g, p) may depend on, by each pattern's definition."""
    delays = list(PRIORS[name].get("delays", range(BOOKS) if "delay" in name.split("-")[0] else [0] * BOOKS))
    every = itertools.product(range(BOOKS), range(PLACES))
    if PRIORS[name]["kind"] == "autoregressive":
        return {(h, q) for h, q in every if (q, h) < (p, g)}
    own = p + delays[g]
    step = {(h, q): q + delays[h] for h, q in every}
    beside = g if PRIORS[name]["kind"] == "depth" else 0
    return {(h, q) for (h, q), at in step.items() if at < own or (at == own and h < beside)}


@causal
def test_each_code_depends_on_all_codes_before_it_and_no_other(name: str) -> None:
    prior, code_BN = prior_of(name, spread=2.0), codes_of(1)
    token_B = tokens_of(prior)[:1]
    with torch.no_grad():
        whole_PGK = prior.logits(code_BN, token_B)[0]
        reached: dict[tuple[int, int], set[tuple[int, int]]] = {(g, p): set() for g in range(3) for p in range(PLACES)}
        for h, q in itertools.product(range(BOOKS), range(PLACES)):
            changed_BN = code_BN.clone()
            changed_BN[0, h * PLACES + q] = (code_BN[0, h * PLACES + q] + 1) % CODES
            moved_PG = (prior.logits(changed_BN, token_B)[0] - whole_PGK).abs().amax(-1)
            for p, g in (moved_PG > 0).nonzero().tolist():
                reached[g, p].add((h, q))
    for (g, p), found in reached.items():
        assert found == before(name, g, p), (g, p)


def test_the_delayed_steps_are_musicgens() -> None:
    """The pattern of transformers' Musicgen: its row has a token for padding before each step's codes."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(
        vocab_size=CODES, num_hidden_layers=1, ffn_dim=8, hidden_size=8, num_attention_heads=1, num_codebooks=BOOKS
    )
    peer, delays = MusicgenForCausalLM(config), Delays(range(BOOKS), PLACES)
    code_BGP = codes_of(2).view(2, BOOKS, PLACES)
    own_BGS = delays.spread(code_BGP.transpose(1, 2), CODES).transpose(1, 2)
    # Theirs fills in what comes after the first code of all rows: given whole, the pattern is in what it returns.
    pad_BG1 = torch.full((2, BOOKS, 1), CODES)
    given = torch.cat([pad_BG1, code_BGP], dim=2).flatten(0, 1)
    _, pattern = peer.build_delay_pattern_mask(given, CODES, max_length=PLACES + BOOKS)
    theirs_BGS = pattern.view(2, BOOKS, -1)[:, :, 1:]
    assert torch.equal(own_BGS[:, :, : theirs_BGS.shape[2]], theirs_BGS)
    assert torch.equal(delays.gathered(own_BGS.transpose(1, 2)).transpose(1, 2), code_BGP)


@causal
def test_greedy_codes_are_the_likeliest_ones_given_those_before(name: str) -> None:
    """So the caches give the logits of the whole, also for what guidance computes, and after another batch."""
    prior = prior_of(name)
    token_B = tokens_of(prior)
    null_B = torch.full_like(token_B, prior.condition.null)
    for drawing in (Drawing(temperature=0.0), Drawing(temperature=0.0, guidance=2.5), Drawing(temperature=0.0)):
        greedy_BN = prior.sample(token_B, uniform_of(prior, drawing), drawing)
        with torch.no_grad():
            own, null = prior.logits(greedy_BN, token_B), prior.logits(greedy_BN, null_B)
        wanted_BPG = (null + drawing.guidance * (own - null)).argmax(-1)
        assert torch.equal(prior.arranged(greedy_BN), wanted_BPG)


@causal
def test_captured_steps_draw_the_codes_of_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, tapes = prior_of(name), Tapes()
    token_B = tokens_of(prior)
    given_BN = codes_of(seed=5)
    given_BN[:, torch.arange(SOUNDS.positions) % PLACES >= 2] = -1
    cases = [(Drawing(guidance=2.0, guidance_until=0.5, top_p=0.9), None), (Drawing(), given_BN), (Drawing(), None)]
    plain = [prior.sample(token_B, uniform_of(prior, drawing), drawing, given) for drawing, given in cases]
    monkeypatch.setattr(graphs, "ALIGNED", 1)
    for module in ("autoregressive", "places"):
        monkeypatch.setattr(f"stage2_prior.generation.{module}.capture_for", lambda _: tapes)
    for (drawing, given), wanted_BN in zip(cases, plain, strict=True):
        for _ in range(2):
            assert torch.equal(prior.sample(token_B, uniform_of(prior, drawing), drawing, given), wanted_BN)
    assert tapes.played


@names
def test_a_given_beginning_stays_and_is_continued(name: str) -> None:
    prior, drawing = prior_of(name, spread=15.0 if "masked" in name else 4.0), Drawing(steps=4)
    token_B, uniform_BU, given_BN = tokens_of(prior), uniform_of(prior, Drawing(steps=4)), codes_of(seed=7)
    given_BN[:, torch.arange(SOUNDS.positions) % PLACES >= 2] = -1
    drawn_BN = prior.sample(token_B, uniform_BU, drawing, given_BN)
    assert torch.equal(drawn_BN[given_BN >= 0], given_BN[given_BN >= 0])
    assert int(drawn_BN.min()) >= 0 and int(drawn_BN.max()) < CODES
    other_BN = given_BN.where(given_BN < 0, (given_BN + 1) % CODES)
    assert not torch.equal(prior.sample(token_B, uniform_BU, drawing, other_BN)[given_BN < 0], drawn_BN[given_BN < 0])
    apart = [prior.sample(token_B[i : i + 1], uniform_BU[i : i + 1], drawing, given_BN[i : i + 1]) for i in range(3)]
    assert torch.equal(torch.cat(apart), drawn_BN), "each sample is drawn as it would be alone"


@causal
def test_nats_are_the_loss_and_every_weight_learns(name: str) -> None:
    prior, code_BN = prior_of(name, class_dropout=0.0), codes_of()
    token_B = tokens_of(prior)
    loss, nats = prior.train()(code_BN, token_B)
    nats_BN, right_BN = prior.eval().score(code_BN, token_B)
    assert nats_BN.shape == right_BN.shape == code_BN.shape
    assert nats == loss and loss.item() == pytest.approx(nats_BN.mean().item(), rel=1e-5)
    loss.backward()
    for key, weight in prior.named_parameters():
        if key.startswith("depth_0.") and "q_proj" in key:
            continue  # a level that attends to itself alone has nothing to choose from
        assert weight.grad is not None and weight.grad.abs().sum() > 0, key


@names
def test_an_export_comes_back_whole(name: str, tmp_path: Path) -> None:
    prior = prior_of(name)
    prior.save_pretrained(tmp_path)
    again = load_prior(tmp_path)
    assert again.described == prior.described and type(again) is type(prior)
    assert again.state_dict().keys() == prior.state_dict().keys()
    token_B = tokens_of(prior)
    assert torch.equal(again.score(codes_of(), token_B)[0], prior.score(codes_of(), token_B)[0])
    drawing = Drawing(steps=3, guidance=2.0)
    drawn = [one.sample(token_B, uniform_of(one, drawing), drawing) for one in (prior, again)]
    assert torch.equal(*drawn)


def test_levels_with_equal_weights_are_the_shared_ones() -> None:
    shared, levels = prior_of("depth"), prior_of("levels")
    assert isinstance(shared, DepthPrior) and isinstance(levels, DepthPrior)
    with torch.no_grad():
        levels.lm.load_state_dict(shared.lm.state_dict())
        for number, level in enumerate(levels.levels):
            level.model.layers.load_state_dict(shared.depth.model.layers.state_dict())
            level.model.norm.load_state_dict(shared.depth.model.norm.state_dict())
            own = slice(number * CODES, (number + 1) * CODES)
            if number + 1 < BOOKS:
                level.model.embed_tokens.weight.copy_(shared.depth.model.embed_tokens.weight[own])
            level.lm_head.weight.copy_(shared.depth.lm_head.weight[own])
        token_B = tokens_of(shared)
        ours, theirs = levels.logits(codes_of(), token_B), shared.logits(codes_of(), token_B)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_our_layers_for_gpus_compute_the_same_where_each_level_has_weights() -> None:
    prior, code_BN = prior_of("levels-delays"), codes_of()
    with torch.no_grad():
        stock = prior.logits(code_BN, tokens_of(prior))
        install(prior, torch.device("cuda"))
        ours = prior.logits(code_BN, tokens_of(prior))
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)


def test_masked_levels_are_trained_and_rated_as_they_are_filled_in() -> None:
    """A codebook is read where it isn't masked, with those before it and none after it."""
    prior = prior_of("masked", spread=2.0)
    assert isinstance(prior, MaskedPrior)
    masked_BP = torch.tensor([[True, False, True, False, False]]).expand(3, -1)
    masked_BN, own_BN = prior.from_level(masked_BP, torch.tensor([0, 1, 2]))
    masked_BGP, own_BGP = (x_BN.view(3, BOOKS, PLACES) for x_BN in (masked_BN, own_BN))
    for row in range(3):
        for level in range(BOOKS):
            expected = torch.zeros(PLACES) if level < row else torch.ones(PLACES) if level > row else masked_BP[0]
            assert torch.equal(masked_BGP[row, level], expected.bool())
            assert torch.equal(own_BGP[row, level], masked_BP[0] & (level == row))
    assert prior.level_steps(Drawing(steps=8)) == [8, 4, 2] and prior.level_steps(Drawing(steps=1)) == [1, 1, 1]
    token_B, code_BN = tokens_of(prior), codes_of()
    loss, nats = prior.train()(code_BN, token_B)
    loss.backward()
    assert 0 < nats.item() < 20 and all(weight.grad is not None for weight in prior.parameters())
    nats_BN, _ = prior.eval().score(code_BN, token_B)
    assert nats_BN.shape == code_BN.shape and (nats_BN.view(3, BOOKS, PLACES).std(2) < 1e-6).all()
    changed_BN = code_BN.clone()
    changed_BN[:, -1] = (code_BN[:, -1] + 1) % CODES
    moved_BG = (prior.score(changed_BN, token_B)[0] - nats_BN).view(3, BOOKS, PLACES)[..., 0].abs()
    assert (moved_BG[:, :-1] == 0).all() and (moved_BG[:, -1] > 0).all(), "no codebook reads a later one"


@pytest.mark.parametrize("name", ["flat", "delay", "depth-delays", "levels", "depth-text"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    prior, code_BN = prior_of(name, class_dropout=0.0, width=64), codes_of(4)
    for transformer in prior.transformers:
        transformer.set_attn_implementation("eager")  # type: ignore[operator]
    token_B = prior.condition.of_labels(torch.full((4,), -1))
    if prior.condition.prefix:
        token_B = prior.condition.of_texts([TEXTS[0]] * 4)
    with FlopCounterMode(display=False) as counter:
        prior.train()(code_BN, token_B)[0].backward()
    found = counter.get_total_flops() / (4 * prior.source.positions)
    assert found == pytest.approx(cost(prior).flops_per_code, rel=0.12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "masked", "delays": [0, 1]}, "model.delays is not supported with model.kind=masked"),
        ({"kind": "delay", "delays": [1, 2]}, r"model.delays=\[1, 2\] must be"),
        ({"kind": "delay", "per_level_weights": True}, "per_level_weights=true is not supported with model.kind=delay"),
        ({"kind": "multiscale", "condition": "text"}, "condition=text is not supported with model.kind=multiscale"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorModelConfig(**settings)


def test_delays_must_be_as_many_as_codebooks_and_books_have_no_random_order() -> None:
    with pytest.raises(UserError, match=r"model.delays=\[0, 1\] has 2 numbers, but the codes are of 3 codebooks"):
        tiny_prior(source=SOUNDS, kind="delay", delays=[0, 1])
    with pytest.raises(UserError, match="order=random is not supported with 3 codebooks"):
        tiny_prior(source=SOUNDS, order="random")
