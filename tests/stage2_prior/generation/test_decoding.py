from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.kernels.cpu.linear import Product, can_pack
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.autoregressive import CachedLlama, decode
from stage2_prior.generation.logits import draw_codes
from tests.stage2_prior.tiny import CODES, NORMED, SOURCE, random_codes, tiny_prior


@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}, {"tied": True, "spread": 2.0}, *NORMED])
@pytest.mark.parametrize("most", [0, 1 << 28])
def test_cached_logits_equal_uncached_ones_at_every_step(
    settings: dict[str, object], most: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stage2_prior.generation.autoregressive.MOST_PROJECTED", most)
    prior = tiny_prior(**settings)  # type: ignore[arg-type]
    code_BN, token_B = random_codes(5), prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1, 0]))
    with torch.inference_mode():
        token_BT = torch.cat([token_B[:, None], code_BN[:, :-1]], dim=1)
        whole_BTK = prior.logits(code_BN, token_B)
        llama = CachedLlama(prior.lm, CODES, SOURCE.positions)
        for _ in range(2):  # a second use of the same cache must not see the first
            llama.start(5)
            for position in range(SOURCE.positions):
                step_BK = llama.head_of_books[0](llama.output(token_BT[:, position], position))
                torch.testing.assert_close(step_BK, whole_BTK[:, position], atol=1e-4, rtol=1e-4)


def test_guidance_one_is_no_guidance_and_more_of_it_is_the_formula():
    prior = tiny_prior()
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2]))
    uniform_BN = torch.rand(3, SOURCE.positions)
    llama = CachedLlama(prior.lm, CODES, SOURCE.positions)

    def drawn(drawing: Drawing) -> torch.Tensor:
        return decode(llama, token_B, uniform_BN, drawing, null=prior.vocabulary.null)

    plain_BN = drawn(Drawing())
    assert torch.equal(drawn(Drawing(guidance=1.0)), plain_BN)
    # a scale that falls from almost 1 takes the path of both halves
    assert torch.equal(drawn(Drawing(guidance=1.0 + 1e-6)), plain_BN)
    null_BN = decode(
        llama, torch.full_like(token_B, prior.vocabulary.null), uniform_BN, Drawing(), null=prior.vocabulary.null
    )
    assert torch.equal(drawn(Drawing(guidance=0.0)), null_BN)

    greedy_BN = drawn(Drawing(guidance=3.0, temperature=0.0))
    assert not torch.equal(greedy_BN, drawn(Drawing(temperature=0.0)))
    with torch.inference_mode():
        class_BTK = prior.logits(greedy_BN, token_B)
        null_BTK = prior.logits(greedy_BN, torch.full_like(token_B, prior.vocabulary.null))
    assert torch.equal((null_BTK + 3.0 * (class_BTK - null_BTK)).argmax(-1), greedy_BN)


@pytest.mark.parametrize(("schedule", "first", "last"), [("constant", 5, 5), ("linear", 1.4, 5), ("cosine", 1.098, 5)])
def test_guidance_schedules(schedule: str, first: float, last: float):
    drawing = Drawing(guidance=5.0, guidance_schedule=schedule)  # type: ignore[arg-type]
    assert drawing.guidance_at(0, 10) == pytest.approx(first, abs=1e-3)
    assert drawing.guidance_at(9, 10) == pytest.approx(last)


@pytest.mark.parametrize(
    ("guidance", "power", "middle"), [(16.0, 2.75, 1.8031), (15.5, 2.5, 2.0896), (6.9, 1.5, 2.6402), (8.0, 1.2, 3.7932)]
)
def test_power_cosine_guidance_is_rars(guidance: float, power: float, middle: float):
    """Its formula for its four published pairs, at all 256 codes, the first of which has none."""
    drawing = Drawing(guidance=guidance, guidance_schedule="power-cosine", guidance_power=power)
    found = [drawing.guidance_at(i, 256) for i in range(256)]
    step_N = torch.arange(256, dtype=torch.float64)
    expected_N = (guidance - 1) * ((1 - torch.cos((step_N / 256) ** power * torch.pi)) / 2) + 1
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected_N, atol=1e-12, rtol=1e-12)
    assert (found[0], found[128]) == (1, pytest.approx(middle, abs=1e-4))
    with pytest.raises(ValueError, match="guidance_power=2 needs guidance_schedule=power-cosine, not cosine"):
        Drawing(guidance_power=2, guidance_schedule="cosine")


def test_draws_follow_the_distribution():
    logits_K = torch.tensor([0.0, 1.0, 2.0, -1.0])
    uniform_B = (torch.arange(20000) + 0.5) / 20000
    drawn_B = draw_codes(logits_K.expand(20000, -1), uniform_B, Drawing(temperature=2.0))
    share_K = torch.bincount(drawn_B, minlength=4) / 20000
    torch.testing.assert_close(share_K, (logits_K / 2).softmax(0), atol=2e-4, rtol=0)


def test_a_code_that_was_cut_off_is_never_drawn_not_even_by_zero():
    logits_BK = torch.tensor([[-9.0, 0.0, 0.0, -9.0]])
    for uniform, code in ((0.0, 1), (0.4999, 1), (0.5, 2), (1 - 2**-24, 2)):
        assert draw_codes(logits_BK, torch.tensor([uniform]), Drawing(min_p=0.1)).tolist() == [code]


def test_top_k_goes_by_the_number_of_codes_not_of_rows():
    logits_BK = torch.tensor([[0.0, 2.0, 1.0]])
    for uniform in (0.0, 0.99):
        assert draw_codes(logits_BK, torch.tensor([uniform]), Drawing(top_k=1)).tolist() == [1]
    assert {draw_codes(logits_BK, torch.tensor([u / 100]), Drawing(top_k=2)).item() for u in range(100)} == {1, 2}


def test_top_p_is_a_share_of_what_min_p_left() -> None:
    """Of 0.5, 0.3, 0.15 and 0.05, min_p 0.2 leaves 0.95: the first two are 0.84 of it, and enough for 0.82."""
    logits_K, uniform_B = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), (torch.arange(1000) + 0.5) / 1000
    drawn_B = draw_codes(logits_K.expand(1000, -1), uniform_B, Drawing(top_p=0.82, min_p=0.2))
    share_K = torch.bincount(drawn_B, minlength=4) / 1000
    torch.testing.assert_close(share_K, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=2e-3, rtol=0)
    drawn_B = draw_codes(logits_K.expand(1000, -1), uniform_B, Drawing(min_p=0.09))
    assert set(drawn_B.tolist()) == {0, 1, 2, 3}, "0.05 is a tenth of the likeliest"


@pytest.mark.parametrize(
    ("drawing", "kept"),
    [
        (Drawing(top_k=2), {1, 2}),
        (Drawing(top_p=0.5), {2}),
        (Drawing(top_p=0.7), {1, 2}),
        (Drawing(top_k=3, top_p=0.999), {0, 1, 2}),
        (Drawing(top_k=1), {2}),
        (Drawing(temperature=0.0), {2}),
    ],
)
def test_only_likely_codes_are_drawn_and_in_proportion(drawing: Drawing, kept: set[int]):
    logits_K = torch.tensor([0.0, 1.0, 2.0, -1.0])  # shares 0.087, 0.237, 0.644, 0.032
    uniform_B = (torch.arange(20000) + 0.5) / 20000
    drawn_B = draw_codes(logits_K.expand(20000, -1), uniform_B, drawing)
    share_K = torch.bincount(drawn_B, minlength=4) / 20000
    expected_K = torch.where(torch.tensor([code in kept for code in range(4)]), logits_K.softmax(0), 0)
    torch.testing.assert_close(share_K, expected_K / expected_K.sum(), atol=2e-4, rtol=0)


def test_the_largest_uniform_number_never_leaves_the_codebook():
    logits_BK = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * 4
    top_B = torch.full((64,), 1 - 2**-24)
    for drawing in (Drawing(), Drawing(top_p=0.9), Drawing(top_k=7)):
        assert draw_codes(logits_BK, top_B, drawing).max() < 5000


def test_given_codes_stay_and_the_rest_continues_after_them():
    prior = tiny_prior()
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 2]))
    uniform_BN = torch.rand(2, SOURCE.positions)
    free_BN = prior.sample(token_B, uniform_BN, Drawing())
    given_BN = torch.full_like(free_BN, -1)
    given_BN[:, :5] = free_BN[:, :5]
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing(), given_BN), free_BN)
    given_BN[:, 4] = (free_BN[:, 4] + 1) % CODES
    changed_BN = prior.sample(token_B, uniform_BN, Drawing(), given_BN)
    assert torch.equal(changed_BN[:, :5], given_BN[:, :5])
    assert not torch.equal(changed_BN[:, 5:], free_BN[:, 5:])


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"guidance": -2.0}])
def test_wrong_settings_name_the_rule(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* is out of range: set it to "):
        Drawing(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"min_p": 1.5}, {"final_temperature": -1.0}, {"guidance_from": 0.8}])
def test_wrong_schedules_name_the_rule(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* is out of range: set it to "):
        Drawing(guidance_until=0.5, **wrong)  # type: ignore[arg-type]


def test_min_p_keeps_what_is_likely_beside_the_most_likely():
    logits_K = torch.tensor([0.0, 1.0, 2.0, -1.0])  # shares 0.087, 0.237, 0.644, 0.032
    uniform_B = (torch.arange(4000) + 0.5) / 4000
    for min_p, kept in ((0.0, {0, 1, 2, 3}), (0.1, {0, 1, 2}), (0.3, {1, 2}), (1.0, {2})):
        drawn_B = draw_codes(logits_K.expand(4000, -1), uniform_B, Drawing(min_p=min_p))
        assert set(drawn_B.tolist()) == kept


def test_the_temperature_goes_in_a_straight_line_and_reaches_the_draws():
    drawing = Drawing(temperature=1.0, final_temperature=0.0)
    assert [drawing.temperature_at(i, 5) for i in range(5)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert Drawing(temperature=0.7).temperature_at(3, 5) == 0.7
    prior = tiny_prior()
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2] * 8))
    uniform_BN = torch.rand(24, SOURCE.positions)
    code_BN = prior.sample(token_B, uniform_BN, drawing)
    with torch.inference_mode():
        best_B = prior.logits(code_BN, token_B)[:, -1].argmax(-1)
    assert torch.equal(code_BN[:, -1], best_B), "the last code is drawn at temperature 0"
    assert not torch.equal(code_BN, prior.sample(token_B, uniform_BN, Drawing(temperature=0.0)))


def test_guidance_in_an_interval_is_guidance_there_and_none_elsewhere():
    drawing = Drawing(guidance=4.0, guidance_from=0.25, guidance_until=0.5, temperature=0.0)
    scales = [drawing.guidance_at(i, SOURCE.positions) for i in range(SOURCE.positions)]
    assert scales == [1.0] * 3 + [4.0] * 3 + [1.0] * 6
    assert drawing.guided_steps(SOURCE.positions) == 6
    prior = tiny_prior()
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2]))
    code_BN = prior.sample(token_B, torch.rand(3, SOURCE.positions), drawing)
    with torch.inference_mode():
        class_BTK = prior.logits(code_BN, token_B)
        null_BTK = prior.logits(code_BN, torch.full_like(token_B, prior.vocabulary.null))
    scale_T1 = torch.tensor(scales)[:, None]
    assert torch.equal((null_BTK + scale_T1 * (class_BTK - null_BTK)).argmax(-1), code_BN)


def test_changed_weights_are_decoded_with():
    prior = tiny_prior()
    token_B, uniform_BN = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2])), torch.rand(3, SOURCE.positions)
    before_BN = prior.sample(token_B, uniform_BN, Drawing())
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing()), before_BN)
    with torch.no_grad():
        prior.lm.lm_head.weight.copy_(prior.lm.lm_head.weight.roll(1, 0))
    assert not torch.equal(prior.sample(token_B, uniform_BN, Drawing()), before_BN)


@pytest.mark.parametrize("rows", [1, 5, 48, 100])
@pytest.mark.parametrize("packs", [True, False])
def test_a_product_laid_out_once_is_the_product(rows: int, packs: bool, monkeypatch: pytest.MonkeyPatch):
    assert can_pack(), "the pinned torch packs weights"
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.linear.can_pack", lambda: packs)
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(33, 20, generator=generator)
    x_BI = torch.randn(rows, 20, generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(Product(weight_OI)(x_BI), x_BI @ weight_OI.T, atol=1e-5, rtol=1e-5)
