"""Heads that read and predict codes by their factors or bits: probabilities, sampling, caches, memory, exports."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import TextConfig
from stage2_prior.priors import losses
from stage2_prior.priors.base import Prior
from stage2_prior.priors.bits import BitsPrior, check_drawing
from stage2_prior.priors.build import load_prior
from stage2_prior.training.cost import cost
from tests.stage2_prior.tiny import tiny_prior

BITS, PLACES = 6, 6
SOURCE = CodeSource("f" * 64, 1 << BITS, (2, 3), {"size": 12, "channels": 1})
PRIORS: dict[str, dict[str, Any]] = {
    "factors": {"head": "factors", "factors": [2, 1, 3]},
    "bits": {"head": "bits"},
    "masked-factors": {"kind": "masked", "head": "factors"},
    "masked-bits": {"kind": "masked", "head": "bits", "factors": [2, 4]},
}
names = pytest.mark.parametrize("name", PRIORS)
causal = pytest.mark.parametrize("name", ["factors", "bits"])


def prior_of(name: str, source: CodeSource = SOURCE, **settings: Any) -> Prior:
    """A small prior, far from uniform also where weights start at 0."""
    prior = tiny_prior(source=source, **{"spread": 2.0, "head_layers": 2, **PRIORS[name], **settings})
    if isinstance(prior, BitsPrior):
        with torch.no_grad():
            for weight in (weight for weight in prior.bits.parameters() if not weight.any()):
                weight.normal_(std=0.2)
    return prior


def codes_of(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(1 << BITS, (batch, PLACES), generator=torch.Generator().manual_seed(seed))


def tokens_of(prior: Prior) -> Tensor:
    return prior.condition.of_labels(torch.tensor([0, 2, -1]))


def uniform_of(prior: Prior, drawing: Drawing, batch: int = 3) -> Tensor:
    return torch.rand(batch, prior.draws(drawing), generator=torch.Generator().manual_seed(0))


@names
def test_probabilities_of_all_codes_sum_to_one(name: str) -> None:
    """Of masked priors, those of one code given all others; of causal ones, of the second code given the first."""
    prior, every_K = prior_of(name), torch.arange(1 << BITS)
    code_KN = codes_of(1).repeat(1 << BITS, 1)
    code_KN[:, 1] = every_K
    token_K = prior.condition.of_labels(torch.ones(1 << BITS, dtype=torch.int64))
    with torch.no_grad():
        if name in ("factors", "bits"):
            nats_K = prior.score(code_KN, token_K)[0][:, 1]
        elif name == "masked-factors":
            masked_KN = torch.arange(PLACES).expand_as(code_KN) == 1
            nats_K = prior.predicted(prior.masked(code_KN, masked_KN), token_K).figures(code_KN)[0][:, 1]  # type: ignore[operator]
        else:
            digit_KU = prior.digits(code_KN)  # type: ignore[operator]
            masked_KU = torch.arange(digit_KU.shape[1]).expand_as(digit_KU) // 2 == 1
            both = prior.predicted(prior.masked(digit_KU, masked_KU), token_K).figures(digit_KU)[0]  # type: ignore[operator]
            nats_K = both[:, 2:4].sum(1)
    assert (-nats_K.double()).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert nats_K.std() > 0.1, "it is far from uniform"


def test_nats_of_factors_are_those_of_a_plain_chain_in_float64() -> None:
    prior = prior_of("factors").double()
    code_BN, token_B = codes_of(2), tokens_of(prior)[:2]
    embed, first = prior.lm.get_input_embeddings(), (0, 4, 6)
    with torch.no_grad():
        nats_BN = prior.score(code_BN, token_B)[0]
        for row in range(2):
            split = [((code >> 4), (code >> 3) & 1, code & 7) for code in code_BN[row].tolist()]
            read = [sum(embed.weight[at + digit] for at, digit in zip(first, code, strict=True)) for code in split]
            x_NTD = torch.stack([embed.weight[token_B[row]], *read[:-1]])[None]  # type: ignore[list-item]
            y_ND = prior.lm(inputs_embeds=x_NTD, use_cache=False).last_hidden_state[0]
            for place, code in enumerate(split):
                inner = prior.factors.get_input_embeddings().weight  # type: ignore[union-attr, operator]
                x_FD = torch.stack([y_ND[place], inner[code[0]], inner[4 + code[1]]])[None]
                logits_FV = prior.factors(inputs_embeds=x_FD, use_cache=False).logits[0]  # type: ignore[operator]
                parts = [logits_FV[0, :4], logits_FV[1, 4:6], logits_FV[2, 6:]]
                plain = -sum(part.log_softmax(0)[digit] for part, digit in zip(parts, code, strict=True))
                assert abs(plain - nats_BN[row, place]) < 1e-6


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@causal
def test_caches_give_the_logits_of_the_whole(name: str, guidance: float) -> None:
    """Greedy codes are the most likely ones of the uncached model, factor by factor or bit by bit; guided ones too."""
    prior = prior_of(name)
    token_B, drawing = tokens_of(prior), Drawing(temperature=0.0, guidance=guidance)
    greedy_BN = prior.sample(token_B, uniform_of(prior, drawing), drawing)
    half_BN = torch.where(torch.arange(PLACES) < 2, greedy_BN, -1)
    assert torch.equal(prior.sample(token_B, uniform_of(prior, drawing), drawing, half_BN), greedy_BN)
    halves = (token_B, torch.full_like(token_B, prior.vocabulary.null))
    with torch.no_grad():
        if isinstance(prior, BitsPrior):
            bit_BNL = prior.vocabulary.digits(greedy_BN)
            y = [prior.outputs(greedy_BN, token) for token in halves]
            open_BNL = torch.ones_like(bit_BNL, dtype=torch.bool)
            for _ in range(BITS):
                own, null = (prior.bits(y_BND, torch.where(open_BNL, 2, bit_BNL)) for y_BND in y)
                logits_BNL2 = null + guidance * (own - null)
                sure_BNL = logits_BNL2.diff(dim=-1)[..., 0].abs().masked_fill(~open_BNL, -1)
                place_BN1 = sure_BNL.argmax(-1, keepdim=True)
                best_BNL = logits_BNL2.argmax(-1)
                assert torch.equal(best_BNL.gather(2, place_BN1), bit_BNL.gather(2, place_BN1))
                open_BNL = open_BNL.scatter(2, place_BN1, False)
            return
        digit_BNF = prior.vocabulary.digits(greedy_BN)
        own, null = (prior.predicted(greedy_BN, token).given(digit_BNF).logits() for token in halves)  # type: ignore[union-attr]
        best = [(n + guidance * (o - n)).argmax(-1) for o, n in zip(own, null, strict=True)]
    assert torch.equal(torch.stack(best, dim=-1), digit_BNF)


def chi_square(counts_K: Tensor, share_K: Tensor) -> float:
    """Of numbers of draws against their probabilities, over its mean and in its standard deviations."""
    expected_K = share_K.double() * counts_K.sum()
    value, free = ((counts_K - expected_K).square() / expected_K).sum().item(), len(counts_K) - 1
    return (value - free) / math.sqrt(2 * free)


def test_one_bit_a_step_draws_codes_as_often_as_their_nats_say() -> None:
    """Of 4 bits, by chi-square; and steps of several bits as often as the product of their bits' probabilities."""
    source, count = CodeSource("f" * 64, 16, (1,), {"size": 12, "channels": 1}), 20_000
    prior = prior_of("bits", source=source, spread=3.0)
    assert isinstance(prior, BitsPrior)
    token_K, every_K1 = torch.full((16,), prior.vocabulary.null), torch.arange(16)[:, None]
    uniform_BU = torch.rand(count, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        share_K = (-prior.score(every_K1, token_K)[0][:, 0].double()).exp()
        y_ND = prior.outputs(every_K1[:1], token_K[:1])[0]
        several_K = torch.zeros(16, dtype=torch.float64)
        for code, bits in enumerate(itertools.product((0, 1), repeat=4)):
            logits_L2 = prior.bits(y_ND, torch.full((1, 4), 2))[0].double()
            first = logits_L2.diff(dim=-1)[:, 0].abs().argsort(descending=True, stable=True)[:1].tolist()
            state = torch.tensor([[bits[place] if place in first else 2 for place in range(4)]])
            then_L2 = prior.bits(y_ND, state)[0].double()
            logs = [(logits_L2 if place in first else then_L2)[place].log_softmax(0)[bits[place]] for place in range(4)]
            several_K[code] = sum(logs).exp()  # type: ignore[union-attr]
    for steps, wanted_K in ((None, share_K), ([1, 3], several_K)):
        assert wanted_K.sum().item() == pytest.approx(1, abs=1e-6) and wanted_K.max() > 2 / 16
        drawn_B1 = prior.sample(token_K[:1].expand(count), uniform_BU, Drawing(bit_steps=steps))
        assert abs(chi_square(torch.bincount(drawn_B1[:, 0], minlength=16), wanted_K)) < 4, steps
    assert not torch.allclose(share_K, several_K, atol=1e-3), "steps of several bits are another distribution"


@pytest.mark.parametrize("name", ["factors", "masked-factors", "masked-bits"])
def test_codes_are_drawn_as_often_as_their_probabilities_say(name: str) -> None:
    """One code, so that a masked prior needs one step, in which it draws all that is masked."""
    factors, count = {"factors": [2, 2]}, 20_000
    prior = prior_of(name, source=CodeSource("f" * 64, 16, (1,), {"size": 12, "channels": 1}), spread=5.0, **factors)
    token_K, every_K1 = torch.full((16,), prior.vocabulary.null), torch.arange(16)[:, None]
    drawing = Drawing(steps=1)
    uniform_BU = torch.rand(count, prior.draws(drawing), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        nats_K1 = prior.score(every_K1, token_K)[0]  # one code or both groups are masked: no bound
        if name == "masked-bits":
            pair_K2 = prior.predicted(torch.full((16, 2), -1), token_K).figures(prior.digits(every_K1))[0]  # type: ignore[operator]
            nats_K1 = pair_K2.sum(1, keepdim=True)
        drawn_B1 = prior.sample(token_K[:1].expand(count), uniform_BU, drawing)
    share_K = (-nats_K1[:, 0].double()).exp()
    assert share_K.sum().item() == pytest.approx(1, abs=1e-5) and share_K.max() > 1.5 / 16
    assert abs(chi_square(torch.bincount(drawn_B1[:, 0], minlength=16), share_K)) < 4


def test_masked_bits_pay_a_bit_each_at_first_and_all_numbers_are_masked() -> None:
    prior = tiny_prior(source=SOURCE, head="bits", class_dropout=0.0).train()
    loss, nats = prior(codes_of(), tokens_of(prior))
    assert loss.item() == nats.item() == pytest.approx(BITS * math.log(2), rel=1e-6)
    assert isinstance(prior, BitsPrior)
    masked_RNL = prior.masks(torch.rand(4000, 1, BITS + 1, generator=torch.Generator().manual_seed(0)))
    count_R = masked_RNL.sum(-1).flatten()
    assert count_R.min() == 1 and count_R.max() == BITS
    for most in range(1, BITS):  # a share up to x has probability Φ(logit(x) / 0.8), as 1 - σ(0.8 n) is σ(0.8 n)
        wanted = torch.special.ndtr(torch.logit(torch.tensor(most / BITS)) / 0.8).item()
        assert (count_R <= most).double().mean().item() == pytest.approx(wanted, abs=0.03)
    assert (masked_RNL.double().mean((0, 1)) - masked_RNL.double().mean()).abs().max() < 0.03


@names
def test_it_learns_two_codes_by_heart(name: str) -> None:
    """Every weight has a gradient; after few steps codes are rated and drawn as they were shown."""
    prior = tiny_prior(source=SOURCE, spread=1.0, head_layers=1, layers=1, **PRIORS[name], class_dropout=0.0).train()
    code_BN, label_B = codes_of(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    token_B, adam = prior.condition.of_labels(label_B), torch.optim.AdamW(prior.parameters(), lr=1e-2)
    generator = torch.manual_seed(0)
    for _ in range(160 if "masked" in name else 60):
        loss, _ = prior(code_BN, token_B)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert generator and all(weight.grad is not None for weight in prior.parameters())
    nats_BN, right_BN = prior.eval().score(code_BN[:2], token_B[:2])
    assert nats_BN.mean() < 0.2 * BITS * math.log(2) and right_BN.mean() > 0.9
    drawing = Drawing(temperature=0.0, steps=8)
    assert torch.equal(prior.sample(token_B[:2], uniform_of(prior, drawing, 2), drawing), code_BN[:2])


@names
def test_holes_are_filled_each_sample_by_itself_and_exports_come_back(name: str, tmp_path: Path) -> None:
    text = {"condition": "text", "text": TextConfig(tokens=4, layers=1)} if name == "bits" else {}
    prior, code_BN = prior_of(name, **text), codes_of(seed=7)
    token_B = prior.condition.of_texts(["a", "", "box"]) if text else tokens_of(prior)
    given_BN = torch.where(torch.arange(PLACES) < 2, code_BN, -1)
    prior.save_pretrained(tmp_path)
    again = load_prior(tmp_path)
    described = json.loads((tmp_path / "prior.json").read_text())
    assert type(again) is type(prior) and described["head"] == PRIORS[name]["head"]
    assert again.vocabulary == prior.vocabulary and again.state_dict().keys() == prior.state_dict().keys()
    assert torch.equal(again.score(code_BN, token_B)[0], prior.score(code_BN, token_B)[0])
    for drawing in (Drawing(steps=3, guidance=2.0, guidance_until=0.5), Drawing(steps=3, order="halton")):
        uniform_BU = uniform_of(prior, drawing)
        drawn_BN = prior.sample(token_B, uniform_BU, drawing, given_BN)
        assert torch.equal(drawn_BN[:, :2], code_BN[:, :2]) and 0 <= drawn_BN.min() <= drawn_BN.max() < 1 << BITS
        apart = [
            again.sample(token_B[i : i + 1], uniform_BU[i : i + 1], drawing, given_BN[i : i + 1]) for i in range(3)
        ]
        assert torch.equal(torch.cat(apart), drawn_BN), "each sample is drawn as it would be alone"


@names
def test_nothing_has_a_row_for_each_code(name: str) -> None:
    """2^40 codes train, are rated and drawn; neither weights nor numbers drawn are more than a few of each bit's."""
    source = CodeSource("f" * 64, 1 << 40, (2, 2), {"size": 12, "channels": 1})
    prior = tiny_prior(source=source, spread=1.0, **PRIORS[name] | {"factors": None}, layers=1, code_noise=0.1)
    assert prior.vocabulary.size < 40 * 40 and cost(prior).parameters < 300_000
    code_BN = torch.randint(1 << 40, (2, 4), generator=torch.Generator().manual_seed(0))
    loss, _ = prior.train()(code_BN, tokens_of(prior)[:2])
    assert loss.item() == pytest.approx(40 * math.log(2), rel=0.1)
    drawing = Drawing(steps=2)
    drawn_BN = prior.eval().sample(tokens_of(prior)[:2], uniform_of(prior, drawing, 2), drawing)
    assert (
        drawn_BN.max() > 1 << 36
        and drawn_BN.min() >= 0
        and prior.score(code_BN, tokens_of(prior)[:2])[0].isfinite().all()
    )


@names
def test_ranks_and_micro_batches_add_up_to_the_whole_batch(name: str) -> None:
    """What is random belongs to the sample: the mean loss of two halves is that of the batch, noise and all."""
    prior, code_BN = prior_of(name, class_dropout=0.3, code_noise=0.2).train(), codes_of(4)
    token_B, found = prior.condition.of_labels(torch.tensor([0, 1, 2, -1])), []
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
        with prior.sample_noise.of_batch(0, 7, 4, rows), torch.no_grad():
            found.append(torch.stack(prior(code_BN[rows], token_B[rows])))
    torch.testing.assert_close((found[1] + found[2]) / 2, found[0])
    with prior.sample_noise.of_batch(0, 8, 4, slice(0, 4)), torch.no_grad():
        assert (torch.stack(prior(code_BN, token_B)) - found[0]).abs().max() > 1e-3, "another step draws others"


def test_losses_in_chunks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, code_BN = prior_of("factors", label_smoothing=0.1, z_loss=0.01), codes_of()
    found = []
    for most in (losses.MOST_LOGITS, 20):
        monkeypatch.setattr(losses, "MOST_LOGITS", most)
        loss_BN, nats_BN = prior.losses(code_BN, tokens_of(prior), code_BN)
        gradients = torch.autograd.grad(loss_BN.mean(), list(prior.parameters()), allow_unused=True)
        found.append([loss_BN, nats_BN, *prior.score(code_BN, tokens_of(prior)), *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_drawing_that_does_not_fit_is_refused() -> None:
    for drawing, message in (
        (Drawing(top_k=5), "top_k=5 cuts off unlikely codes"),
        (Drawing(top_p=0.9), "top_p=0.9 cuts off"),
        (Drawing(bit_steps=[2, 2]), r"bit_steps=\[2, 2\] must add up to the 6 bits"),
    ):
        with pytest.raises(UserError, match=message):
            check_drawing(prior_of("bits"), drawing)
    with pytest.raises(UserError, match=r"bit_steps=\[6\] is for autoregressive priors with model.head=bits"):
        check_drawing(prior_of("factors"), Drawing(bit_steps=[6]))
