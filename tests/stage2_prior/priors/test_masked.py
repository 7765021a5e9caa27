from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.filling import halton_order, log_of, rank, still_masked, with_noise
from stage2_prior.priors.losses import code_losses
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.priors.predicted import PredictedLogits
from stage2_prior.sampling.pictures import Picture, sample_codes, uniforms
from tests.stage2_prior.tiny import CODES, GRID, SOURCE, random_codes, tiny_prior

ORDERS = ["confidence", "halton"]


def masked_prior(**settings: object) -> MaskedPrior:
    prior = tiny_prior(kind="masked", **{"spread": 3.0, **settings})  # type: ignore[arg-type]
    assert isinstance(prior, MaskedPrior)
    return prior


def test_every_prediction_attends_to_every_token():
    prior = masked_prior()
    code_BN, token_B = random_codes(1), prior.vocabulary.class_tokens(torch.tensor([1]))
    embedded = prior.lm.get_input_embeddings()(torch.cat([token_B[:, None], code_BN], dim=1)).detach().requires_grad_()
    logits_BTV = prior.lm(inputs_embeds=embedded).logits
    for position in (1, 6, SOURCE.positions):
        (gradient_BTD,) = torch.autograd.grad(logits_BTV[0, position].square().sum(), embedded, retain_graph=True)
        assert (gradient_BTD[0].abs().sum(-1) > 0).all()


def test_a_masked_code_is_not_seen():
    prior = masked_prior()
    token_B, masked_BN = torch.tensor([prior.vocabulary.null]), torch.zeros(1, SOURCE.positions, dtype=torch.bool)
    masked_BN[0, [2, 7]] = True
    one_BN = random_codes(1)
    other_BN = one_BN.clone()
    other_BN[0, 7] = (one_BN[0, 7] + 1) % CODES
    one, other = (
        code_losses(prior.logits(prior.masked(code_BN, masked_BN), token_B), code_BN, 0, 0)[1]
        for code_BN in (one_BN, other_BN)
    )
    assert torch.equal(one[0, :7], other[0, :7])
    assert one[0, 7] != other[0, 7]


def test_a_uniform_prior_pays_log2_k_bits_per_code():
    prior = masked_prior()
    with torch.no_grad():
        for weight in prior.lm.get_output_embeddings().parameters():
            weight.zero_()
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, -1]))
    assert prior.score(random_codes(2), token_B)[0].mean().item() / math.log(2) == pytest.approx(math.log2(CODES))
    assert prior(random_codes(8), torch.full((8,), prior.vocabulary.null))[0].item() / math.log(2) == pytest.approx(
        math.log2(CODES)
    )


def test_the_share_of_masked_codes_follows_the_cosine(monkeypatch: pytest.MonkeyPatch):
    """P(share of masked codes <= x) = 2/π · asin(x) for x = cos(π/2 · u), u uniform. (Chang et al. 2022, section 3)"""
    prior, batch, seen = masked_prior(), 20_000, []

    def predicted(code_BN: torch.Tensor, token_B: torch.Tensor) -> PredictedLogits:
        seen.append(code_BN == prior.vocabulary.mask)
        return PredictedLogits(torch.zeros(*code_BN.shape, CODES))

    monkeypatch.setattr(prior, "predicted", predicted)
    torch.manual_seed(3)
    loss, nats = prior(random_codes(batch), torch.full((batch,), prior.vocabulary.null))
    (masked_BN,) = seen
    count_B, positions = masked_BN.sum(1), SOURCE.positions
    assert loss.item() == nats.item() == pytest.approx(math.log(CODES))
    for most in range(1, positions + 1):
        wanted = 2 / math.pi * math.asin(most / positions)
        # 0.015 is more than four standard deviations; evenly drawn shares are up to 0.21 away
        assert (count_B <= most).double().mean().item() == pytest.approx(wanted, abs=0.015), most
    assert count_B.min() == 1, "one code at least"
    # and each place is masked as often as any other
    assert (masked_BN.double().mean(0) - masked_BN.double().mean()).abs().max() < 0.015


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_each_position_is_filled_exactly_once(order: str, steps: int, monkeypatch: pytest.MonkeyPatch):
    prior, seen = masked_prior(), []
    real = MaskedPrior.logits

    def logits(self: MaskedPrior, code_BN: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
        seen.append(code_BN.clone())
        return real(self, code_BN, token_B)

    monkeypatch.setattr(MaskedPrior, "logits", logits)
    drawing = Drawing(order=order, steps=steps)  # type: ignore[arg-type]
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 2]))
    final_BN = prior.sample(token_B, uniforms(0, [Picture(0, 0), Picture(2, 0)], prior.draws(drawing)), drawing)
    states = [*seen, final_BN]
    mask = prior.vocabulary.mask
    assert (states[0] == mask).all() and not (final_BN == mask).any()
    assert final_BN.max() < CODES
    for before, after in itertools.pairwise(states):
        filled = before != mask
        assert torch.equal(after[filled], before[filled]), "what is filled in stays"
    left = [(state == mask).sum(1).tolist() for state in states]
    assert left == [[round(SOURCE.positions * still_masked(step, steps))] * 2 for step in range(steps + 1)]


@pytest.mark.parametrize("order", ORDERS)
def test_samples_are_reproducible_and_do_not_depend_on_the_batch(order: str):
    prior, drawing = masked_prior(), Drawing(order=order, guidance=2.0, steps=5)  # type: ignore[arg-type]
    wanted = [Picture(label, number) for number in range(3) for label in range(3)]
    together_Bhw = sample_codes(prior, wanted, 7, drawing)
    assert together_Bhw.shape == (9, *GRID)
    assert torch.equal(torch.cat([sample_codes(prior, wanted[i : i + 4], 7, drawing) for i in (0, 4, 8)]), together_Bhw)
    assert not torch.equal(sample_codes(prior, wanted, 8, drawing), together_Bhw)


def test_guidance_one_is_no_guidance():
    prior, token_B = masked_prior(), torch.tensor([CODES, CODES + 1])
    uniform_BU = torch.rand(2, prior.draws(Drawing()))
    plain_BN = prior.sample(token_B, uniform_BU, Drawing())
    assert torch.equal(prior.sample(token_B, uniform_BU, Drawing(guidance=1.0)), plain_BN)
    assert torch.equal(prior.sample(token_B, uniform_BU, Drawing(guidance=1.0 + 1e-6)), plain_BN)
    assert not torch.equal(prior.sample(token_B, uniform_BU, Drawing(guidance=60.0)), plain_BN)


@pytest.mark.parametrize("order", ORDERS)
def test_given_codes_stay_and_the_rest_is_filled_in(order: str):
    prior, drawing = masked_prior(), Drawing(order=order)  # type: ignore[arg-type]
    given_BN = torch.full((2, SOURCE.positions), -1)
    given_BN[:, 3:9] = random_codes(2)[:, 3:9]
    uniform_BU = torch.rand(2, prior.draws(drawing))
    code_BN = prior.sample(torch.tensor([CODES, CODES]), uniform_BU, drawing, given_BN)
    assert torch.equal(code_BN[:, 3:9], given_BN[:, 3:9])
    assert int(code_BN.min()) >= 0 and int(code_BN.max()) < CODES


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (8, 8), (16, 5)])
def test_the_halton_order_visits_every_position_once(grid: tuple[int, int]):
    assert sorted(halton_order(*grid).tolist()) == list(range(grid[0] * grid[1]))


def test_the_halton_order_begins_with_its_sequence():
    # (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) on a 6×6 grid
    assert halton_order(6, 6)[:4].tolist() == [3 * 6 + 2, 1 * 6 + 4, 4 * 6 + 0, 0 * 6 + 2]


def test_latent_tokens_without_a_place_are_one_row():
    # thirds, two thirds, ninths of 12: 1/3, 2/3, 1/9, 4/9
    assert halton_order(12)[:4].tolist() == [4, 8, 1, 5]
    assert sorted(halton_order(12).tolist()) == list(range(12))


def test_confidence_is_the_log_probability_with_gumbel_noise_that_ends_at_the_last_step():
    logits_BNK = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    drawn_BN = torch.tensor([[0, 4, 2], [1, 1, 3]])
    uniform_BN = torch.tensor([[0.5, 0.1, 0.9], [0.3, 0.0, 0.7]])
    log_BN = torch.stack([
        torch.stack([logits_BNK[b, n].log_softmax(0)[drawn_BN[b, n]] for n in range(3)]) for b in range(2)
    ])  # fmt: skip
    gumbel_BN = -torch.log(-torch.log(uniform_BN.clamp(min=1e-7)))
    drawing = Drawing(choice_temperature=2.0, steps=4)
    for step, share in enumerate((0.75, 0.5, 0.25, 0.0)):
        found_BN = with_noise(log_of(logits_BNK, drawn_BN), uniform_BN, drawing, step)
        torch.testing.assert_close(found_BN, log_BN + 2.0 * share * gumbel_BN)
    largest = torch.full_like(uniform_BN, 1 - 2**-24)
    assert with_noise(log_BN, largest, drawing, 0).isfinite().all()


def test_the_score_is_a_mean_over_eight_numbers_of_masked_codes(monkeypatch: pytest.MonkeyPatch):
    """Of 12 codes the middles of eight stretches are masked, 1 + 12 (n + 1/2) / 8 rounded down."""
    prior, seen, generator = masked_prior(), [], torch.Generator().manual_seed(1)

    def predicted(code_BN: torch.Tensor, token_B: torch.Tensor) -> PredictedLogits:
        seen.append((code_BN == prior.vocabulary.mask, torch.randn(*code_BN.shape, CODES, generator=generator)))
        return PredictedLogits(seen[-1][1])

    monkeypatch.setattr(prior, "predicted", predicted)
    code_BN = random_codes(3)
    nats_BN, right_BN = prior.score(code_BN, prior.vocabulary.class_tokens(torch.tensor([0, 1, 2])))
    assert [masked_BN.sum(1).tolist() for masked_BN, _ in seen] == [[count] * 3 for count in (1, 3, 4, 6, 7, 9, 10, 12)]
    assert len({tuple(masked_BN[0].tolist()) for masked_BN, _ in seen}) == 8
    nats_B, right_B = torch.zeros(3), torch.zeros(3)
    for masked_BN, logits_BNK in seen:
        for row in range(3):
            where = masked_BN[row]
            picked = logits_BNK[row].log_softmax(-1)[torch.arange(12), code_BN[row]]
            nats_B[row] -= picked[where].mean() / 8
            right_B[row] += (logits_BNK[row].argmax(-1) == code_BN[row])[where].float().mean() / 8
    torch.testing.assert_close(nats_BN, nats_B[:, None].expand(-1, 12))
    torch.testing.assert_close(right_BN, right_B[:, None].expand(-1, 12))


def test_ranks_count_from_the_highest():
    assert rank(torch.tensor([[0.1, 3.0, -1.0, 3.0]])).tolist() == [[2, 0, 3, 1]]


def test_plain_transformers_loads_the_export(tmp_path: Path):
    from transformers import AutoModelForMaskedLM

    prior = masked_prior()
    prior.save_pretrained(tmp_path)
    again = load_prior(tmp_path)
    assert isinstance(again, MaskedPrior) and again.vocabulary.mask == prior.vocabulary.mask
    token_BT = torch.cat([torch.tensor([[CODES]]), random_codes(1)], dim=1)
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(stock(token_BT).logits[:, 1:, :CODES], again.logits(token_BT[:, 1:], token_BT[:, 0]))
