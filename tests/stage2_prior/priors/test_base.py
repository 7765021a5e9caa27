"""What all priors share: noise in training, dropped conditions, holes, work, and the hash of their weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers.multiscale import MultiscaleQuantizer
from stage2_prior.config.model import PriorModelConfig, TextConfig
from stage2_prior.priors.base import Prior, weights_hash
from stage2_prior.priors.build import KINDS
from stage2_prior.priors.pyramid import Pyramid
from stage2_prior.priors.sample_noise import SampleNoise
from stage2_prior.priors.stock import Work
from stage2_prior.priors.text_prefix import TextPrefix
from tests.stage2_prior.tiny import CODES, SOURCE, random_codes, tiny_prior


def in_training(**settings: float) -> Prior:
    prior = tiny_prior()
    prior.set_training(PriorModelConfig(**settings))  # type: ignore[arg-type]
    return prior


def test_a_share_of_the_codes_read_is_replaced_by_any_code_equally_often() -> None:
    prior = in_training(code_noise=0.3)
    torch.manual_seed(0)
    code_BN = torch.full((4000, SOURCE.positions), 5)
    noisy_BN = prior.noisy(code_BN)
    share_K = torch.bincount(noisy_BN.flatten(), minlength=CODES) / noisy_BN.numel()
    wanted_K = torch.full((CODES,), 0.3 / CODES)
    wanted_K[5] += 0.7
    assert len(share_K) == CODES, "no code beyond the codebook"
    torch.testing.assert_close(share_K, wanted_K, rtol=0, atol=0.006)
    assert torch.equal(in_training(code_noise=0.0).noisy(code_BN), code_BN)
    prior.code_noise = 1.0
    everything = prior.noisy(code_BN)
    assert (everything == 5).double().mean().item() == pytest.approx(1 / CODES, abs=0.01)


def test_a_share_of_the_conditions_is_dropped() -> None:
    prior = in_training(class_dropout=0.2)
    torch.manual_seed(0)
    token_B = prior.vocabulary.class_tokens(torch.ones(20_000, dtype=torch.int64))
    dropped_B = prior.dropped(token_B)
    assert set(dropped_B.tolist()) == {prior.vocabulary.null, int(token_B[0])}
    assert (dropped_B == prior.vocabulary.null).double().mean().item() == pytest.approx(0.2, abs=0.015)
    assert torch.equal(in_training(class_dropout=0.0).dropped(token_B), token_B)
    prior.class_dropout = 0.5
    text_BL = prior.dropped(token_B[:200, None].expand(-1, 3))
    assert ((text_BL == prior.condition.null).all(1) | (text_BL != prior.condition.null).all(1)).all(), "whole texts"


def test_without_noise_and_dropout_no_random_number_is_taken() -> None:
    """So a prior trained without them draws the same otherwise."""
    prior = in_training(class_dropout=0.0, code_noise=0.0)
    before = torch.get_rng_state()
    prior.noisy(random_codes(2))
    prior.dropped(torch.tensor([CODES]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_depth_priors_scores_are_in_the_order_of_the_codes() -> None:
    prior = tiny_prior(kind="depth", source=replace(SOURCE, codebooks=3))
    code_BN = torch.randint(CODES, (2, 36), generator=torch.Generator().manual_seed(2))
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1]))
    with torch.no_grad():
        nats_BN, right_BN = prior.score(code_BN, token_B)
        logits_BPGK = prior.logits(code_BN, token_B)
    for book in range(3):
        for place in range(12):
            at = 12 * book + place  # codes come codebook by codebook
            log_BK = logits_BPGK[:, place, book].log_softmax(-1)
            torch.testing.assert_close(nats_BN[:, at], -log_BK.gather(1, code_BN[:, at, None])[:, 0])
            assert torch.equal(right_BN[:, at].bool(), log_BK.argmax(1) == code_BN[:, at])


def test_every_kind_has_positions_for_its_tokens() -> None:
    for kind in ("autoregressive", "masked"):
        assert tiny_prior(kind=kind).lm.config.max_position_embeddings == SOURCE.positions + 1
        text = tiny_prior(kind=kind, condition="text", text=TextConfig(tokens=6, layers=1))
        assert text.lm.config.max_position_embeddings == 6 + SOURCE.positions + 1


def test_stock_shapes_are_those_of_the_settings() -> None:
    assert tiny_prior().lm.config.num_key_value_heads == 4
    assert tiny_prior(key_value_heads=2).lm.config.num_key_value_heads == 2
    text = tiny_prior(condition="text", text=TextConfig(tokens=6, layers=1)).condition.modules["text"]
    assert len(text.bytes.get_input_embeddings().weight) == 256  # type: ignore[union-attr, operator]


def test_embeddings_of_places_start_small() -> None:
    torch.manual_seed(0)
    quantizer = MultiscaleQuantizer(QuantizerConfig(kind="multiscale", codebook_size=8, code_dim=3, scales=[1, 2, 8]))
    text = TextPrefix(TextConfig(tokens=40, layers=1), 64, 2)
    for weight in (Pyramid(quantizer, 64).place.weight, text.place.weight, text.project.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_what_each_kind_can_do() -> None:
    """In order (no kept code behind a hole), one by one (steps can be compiled), and whether it needs a mask token."""
    found = {name: (kind.in_order, kind.one_by_one, kind.mask_token, kind.forms) for name, kind in KINDS.items()}
    assert found == {
        "autoregressive": (True, True, False, ("grid", "levels")),
        "delay": (True, True, False, ("levels",)),
        "depth": (True, True, False, ("levels",)),
        "masked": (False, False, True, ("grid", "levels")),
        "multiscale": (False, False, False, ("scales",)),
    }


def test_a_loaded_prior_has_no_noise_of_its_own() -> None:
    prior = Prior(torch.nn.Identity(), tiny_prior().vocabulary, SOURCE)
    assert (prior.class_dropout, prior.code_noise, prior.label_smoothing, prior.z_loss) == (0, 0, 0, 0)
    assert not prior.compiled_steps and prior.forward_methods == ("score",) and prior.loaders == {}


def test_training_settings_are_taken_over() -> None:
    prior = in_training(class_dropout=0.1, code_noise=0.2, label_smoothing=0.3, z_loss=0.4)
    assert (prior.class_dropout, prior.code_noise, prior.label_smoothing, prior.z_loss) == (0.1, 0.2, 0.3, 0.4)


def test_the_default_loss_is_of_noisy_codes_and_the_score_of_the_codes_themselves() -> None:
    prior = in_training(code_noise=0.5, class_dropout=0.0)
    code_BN, token_B = random_codes(3), prior.vocabulary.class_tokens(torch.tensor([0, 1, 2]))
    torch.manual_seed(1)
    read_BN = prior.noisy(code_BN)
    torch.manual_seed(1)
    with torch.no_grad():
        loss, nats = Prior.forward(prior, code_BN, token_B)
        log_BNK = prior.logits(read_BN, token_B).log_softmax(-1)
        wanted = -log_BNK.gather(2, code_BN[..., None]).mean()
        score_BN, right_BN = Prior.score(prior, code_BN, token_B)
        plain_BNK = prior.logits(code_BN, token_B).log_softmax(-1)
    assert loss.item() == nats.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(score_BN, -plain_BNK.gather(2, code_BN[..., None])[..., 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(right_BN, (plain_BNK.argmax(-1) == code_BN).float())


def test_a_prior_works_once_a_code_unless_it_says_otherwise() -> None:
    prior = tiny_prior()
    assert Prior.work(prior) == [Work(prior.lm, 1.0, SOURCE.positions)]
    assert Prior.draws(prior, None) == SOURCE.positions  # type: ignore[arg-type]
    assert Prior.layers_per_code(PriorModelConfig(layers=7), SOURCE) == 7
    assert "text/" in Prior.usage(prior, "ours") and 'from_pretrained("ours")' in Prior.usage(prior, "ours")


def amounts(prior: Prior) -> list[tuple[float, float, int]]:
    return [(work.tokens, work.attended, work.idle) for work in prior.work()]


def test_what_each_kind_does_for_a_code() -> None:
    """Tokens for each code, tokens that each attends to on average, and weights of the head that it leaves out."""
    assert amounts(tiny_prior()) == [(1, 6, 0)], "half of twelve"
    assert amounts(tiny_prior(kind="masked")) == [(1, 12, 0)], "all of them"
    text = TextConfig(tokens=6, layers=1)
    with_text = tiny_prior(condition="text", text=text)
    head = with_text.lm.get_output_embeddings().weight.numel()
    assert amounts(with_text) == [(1, 12, 0), (0.5, 3, head), (0.5, 6, 0)], "no output after a text, and its encoder"
    depth = tiny_prior(kind="depth", source=replace(SOURCE, codebooks=3))
    assert amounts(depth) == [(1 / 3, 6, 0), (1, 1.5, 2 * CODES * 32)], "each codebook has its own head"


def test_sampling_weights_are_laid_out_again_when_they_change() -> None:
    prior, made = tiny_prior(), []

    def make() -> int:
        made.append(None)
        return len(made)

    assert (prior.laid_out(make), prior.laid_out(make)) == (1, 1)
    with torch.no_grad():
        prior.lm.lm_head.weight.mul_(2)
    assert (prior.laid_out(make), prior.laid_out(make)) == (2, 2)
    prior.compiled_steps = True
    assert prior.laid_out(make) == 3


def test_the_hash_is_of_names_and_values() -> None:
    prior, same, other = tiny_prior(), tiny_prior(), tiny_prior()
    with torch.no_grad():
        other.lm.lm_head.weight[0, 0] += 1
    assert weights_hash(prior) == weights_hash(same) != weights_hash(other)
    assert weights_hash(prior.double()) == weights_hash(same), "values as float32"
    assert len(weights_hash(prior)) == 64


def test_holes_touch_codes_of_every_codebook() -> None:
    prior = tiny_prior()
    hole_HW = torch.zeros(12, 12, dtype=torch.bool)
    hole_HW[3, 5] = True  # in the first row of codes, and in the second of four columns
    assert prior.open_codes(hole_HW).nonzero().flatten().tolist() == [1]
    prior.source = replace(SOURCE, codebooks=2)
    assert prior.open_codes(hole_HW).nonzero().flatten().tolist() == [1, 13]


def test_noise_of_a_batch_belongs_to_its_samples_whatever_part_is_at_hand() -> None:
    noise, cpu = SampleNoise(), torch.device("cpu")
    with noise.of_batch(3, 7, 6, slice(0, 6)):
        whole, further = noise.uniform(6, 4, device=cpu), noise.uniform(6, device=cpu)
    assert whole.shape == (6, 4) and 0 <= float(whole.min()) <= float(whole.max()) < 1
    assert not torch.equal(whole[:, 0], further)
    for rows in (slice(0, 2), slice(2, 6)):
        with noise.of_batch(3, 7, 6, rows):
            count = rows.stop - rows.start
            assert torch.equal(noise.uniform(count, 4, device=cpu), whole[rows])
            assert torch.equal(noise.own(noise.for_all(count, device=cpu)), further[rows])
    for seed, step in ((4, 7), (3, 8)):
        with noise.of_batch(seed, step, 6, slice(0, 6)):
            assert not torch.equal(noise.uniform(6, 4, device=cpu), whole)
    torch.manual_seed(0)
    free = noise.uniform(6, 4, device=cpu)
    torch.manual_seed(0)
    assert torch.equal(free, torch.rand(6, 4)), "outside of a batch from torch's generator"
