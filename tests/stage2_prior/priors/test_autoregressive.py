from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from launch.command.cli import UserError
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.build import load_prior
from tests.stage2_prior.tiny import CODES, SOURCE, random_codes, tiny_prior


def test_a_logit_depends_on_the_tokens_before_it_and_on_no_later_one():
    prior = tiny_prior(spread=3.0)
    code_BN, token_B = random_codes(1), prior.vocabulary.class_tokens(torch.tensor([1]))
    token_BT = torch.cat([token_B[:, None], code_BN[:, :-1]], dim=1)
    embedded_BTD = prior.lm.model.embed_tokens(token_BT).detach().requires_grad_()
    logits_BTV = prior.lm(inputs_embeds=embedded_BTD).logits
    for position in range(SOURCE.positions):
        (gradient_BTD,) = torch.autograd.grad(logits_BTV[0, position].square().sum(), embedded_BTD, retain_graph=True)
        reach_T = gradient_BTD[0].abs().sum(-1)
        assert (reach_T[: position + 1] > 0).all(), "every earlier token, the class among them, has an influence"
        assert (reach_T[position + 1 :] == 0).all(), "no later one is"


def test_a_uniform_prior_pays_log2_k_bits_per_code():
    prior = tiny_prior()
    torch.nn.init.zeros_(prior.lm.lm_head.weight)
    nats_BN = prior.score(random_codes(3), prior.vocabulary.class_tokens(torch.tensor([0, 1, -1])))[0]
    assert nats_BN.shape == (3, SOURCE.positions)
    assert nats_BN.mean().item() / math.log(2) == pytest.approx(math.log2(CODES), rel=1e-6)


def test_the_loss_is_the_mean_over_codes_and_has_no_gradient_for_class_outputs():
    prior = tiny_prior(class_dropout=0.0)
    code_BN, label_B = random_codes(4), torch.tensor([0, 1, 2, -1])
    loss, nats = prior(code_BN, prior.condition.of_labels(label_B))
    assert nats == loss and not nats.requires_grad
    assert loss.item() == pytest.approx(prior.score(code_BN, prior.vocabulary.class_tokens(label_B))[0].mean().item())
    loss.backward()
    gradient_VD = prior.lm.lm_head.weight.grad
    assert gradient_VD is not None
    assert gradient_VD[:CODES].abs().sum() > 0
    assert gradient_VD[CODES:].abs().sum() == 0


def test_dropout_of_classes_and_code_noise_follow_torchs_generator():
    prior = tiny_prior(class_dropout=0.5, code_noise=0.3)
    code_BN, label_B = random_codes(16), torch.arange(16) % 3
    torch.manual_seed(5)
    first = prior(code_BN, prior.condition.of_labels(label_B))[0]
    assert prior(code_BN, prior.condition.of_labels(label_B))[0] != first
    torch.manual_seed(5)
    assert prior(code_BN, prior.condition.of_labels(label_B))[0] == first


def test_class_dropout_gives_the_null_token_at_the_configured_rate():
    prior = tiny_prior(class_dropout=0.25)
    token_B = prior.condition.of_labels(torch.arange(3).repeat(4000))
    torch.manual_seed(0)
    dropped_B = prior.dropped(token_B)
    changed_B = dropped_B != token_B
    assert (dropped_B[changed_B] == prior.vocabulary.null).all()
    assert 0.23 < changed_B.float().mean() < 0.27
    prior.class_dropout = 0.0
    assert torch.equal(prior.dropped(token_B), token_B)


def test_plain_transformers_loads_the_export_and_generates_the_same_greedy_codes(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    prior = tiny_prior()
    prior.save_pretrained(tmp_path, steps=7)
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1]))
    ours_BN = prior.sample(token_B, torch.zeros(4, prior.draws(Drawing())), Drawing(temperature=0))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs_BT = stock.generate(token_B[:, None], do_sample=False)
    assert torch.equal(theirs_BT[:, 1:], ours_BN)
    assert len(ours_BN.unique()) > 3, "a prior that repeats itself would prove little"


def test_an_export_comes_back_whole(tmp_path: Path):
    prior = tiny_prior()
    prior.save_pretrained(tmp_path / "prior", steps=7)
    again = load_prior(tmp_path)
    assert again.vocabulary == prior.vocabulary
    assert again.source == prior.source
    assert json.loads((tmp_path / "prior" / "prior.json").read_text())["steps"] == 7
    token_B = prior.vocabulary.class_tokens(torch.tensor([2]))
    assert torch.equal(again.score(random_codes(1), token_B)[0], prior.score(random_codes(1), token_B)[0])


def test_a_folder_without_a_prior_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no prior\.json") as caught:
        load_prior(tmp_path)
    assert "\n" not in str(caught.value)
