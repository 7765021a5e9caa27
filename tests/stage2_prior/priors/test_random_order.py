from __future__ import annotations

import pytest
import torch

from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.autoregressive import AutoregressivePrior
from stage2_prior.priors.random_order import Aim
from tests.stage2_prior.tiny import CODES, SOURCE, random_codes, tiny_prior


def random_prior(**settings: object) -> AutoregressivePrior:
    prior = tiny_prior(order="random", spread=3.0, **settings)
    assert isinstance(prior, AutoregressivePrior)
    return prior


def test_in_raster_order_it_is_the_stock_model():
    prior = random_prior()
    token_B, code_BN = prior.vocabulary.class_tokens(torch.tensor([0, 1, -1])), random_codes(3)
    raster_BN = torch.arange(SOURCE.positions).expand(3, -1)
    ordered_BNK = prior.predicted(code_BN, token_B, raster_BN).logits()
    torch.testing.assert_close(ordered_BNK, prior.logits(code_BN, token_B), atol=1e-5, rtol=1e-5)


def test_every_step_reads_only_the_codes_before_it_in_its_order_and_knows_what_is_asked_for():
    prior = random_prior()
    place_1N = torch.randperm(SOURCE.positions, generator=torch.Generator().manual_seed(3))[None]
    code_1N, token_1 = random_codes(1).gather(1, place_1N), prior.vocabulary.class_tokens(torch.tensor([1]))
    with torch.no_grad():
        before_TK = prior.predicted(code_1N, token_1, place_1N).logits()[0]
        for changed in range(1, SOURCE.positions):
            other_1N = code_1N.clone()
            other_1N[0, changed - 1] = (other_1N[0, changed - 1] + 1) % CODES
            after_TK = prior.predicted(other_1N, token_1, place_1N).logits()[0]
            differs_T = (after_TK - before_TK).abs().amax(-1) > 1e-6
            assert not differs_T[:changed].any() and differs_T[changed:].all()
        # The same codes read, another place asked for: the last step alone can tell.
        swapped_1N = place_1N.clone()
        swapped_1N[0, -1] = place_1N[0, 0]
        after_TK = prior.predicted(code_1N, token_1, swapped_1N).logits()[0]
    differs_T = (after_TK - before_TK).abs().amax(-1) > 1e-6
    assert differs_T.tolist() == [False] * (SOURCE.positions - 1) + [True]


def test_orders_are_permutations_and_give_way_to_rows():
    aim = Aim(12, 8, 0.5, 0.75)
    torch.manual_seed(0)
    shares = {}
    for done in (0.0, 0.49, 0.625, 0.75, 1.0):
        aim.set_progress(done)
        place_BN = aim.orders(torch.rand(2000, aim.positions + 1))
        assert torch.equal(place_BN.sort(1).values, torch.arange(12).expand(2000, -1))
        shares[done] = (place_BN != torch.arange(12)).any(1).float().mean().item()
    assert shares == pytest.approx({0.0: 1.0, 0.49: 1.0, 0.625: 0.5, 0.75: 0.0, 1.0: 0.0}, abs=0.05)


def test_an_aim_starts_small_in_random_orders_with_a_row_for_each_place_and_for_the_class():
    torch.manual_seed(0)
    aim = Aim(300, 64, 0.5, 0.75)
    assert aim.embedding.weight.shape == (301, 64)
    assert aim.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    place_BN = aim.orders(torch.rand(5, 301))
    assert (place_BN != torch.arange(300)).any(1).all()
    at_BN = torch.tensor([[0, 4]])
    wanted = aim.embedding.weight[[3, 7]] - aim.embedding.weight[[0, 4]]
    torch.testing.assert_close(aim(at_BN, torch.tensor([[3, 7]]))[0], wanted)


def test_the_loss_is_of_each_code_once_in_its_order():
    prior = random_prior(class_dropout=0.0)
    code_BN, label_B = random_codes(4), torch.tensor([0, 1, 2, 0])
    prior.set_progress(1.0)
    expected = prior.score(code_BN, prior.vocabulary.class_tokens(label_B))[0].mean()
    torch.testing.assert_close(prior(code_BN, prior.condition.of_labels(label_B))[0], expected)
    prior.set_progress(0.0)
    loss, _ = prior(code_BN, prior.condition.of_labels(label_B))
    assert loss != expected
    loss.backward()
    assert prior.aim is not None and prior.aim.embedding.weight.grad is not None
    assert prior.aim.embedding.weight.grad.abs().sum() > 0


def test_the_masked_prior_has_no_order():
    with pytest.raises(ValueError, match=r"model\.order=random is not supported with model\.kind=masked"):
        PriorModelConfig(kind="masked", order="random")
