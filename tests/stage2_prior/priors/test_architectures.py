"""Stock models with norms of queries and keys: their formula, all kinds built on them, and their exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.build import load_prior
from tests.stage2_prior.tiny import CODES, NORMED, SOURCE, random_codes, tiny_prior

LEVELS = CodeSource("f" * 64, CODES, (3, 4), {}, codebooks=2)
CLASS_32 = {"class_tokens": 32}


def rms(x: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()


def by_formula(model: Any, x_TD: Tensor) -> Tensor:
    """The outputs of one sequence through a model whose norms have unit weights, in plain torch."""
    config, tokens = model.config, len(x_TD)
    heads, width, epsilon = config.num_attention_heads, 8, config.rms_norm_eps
    of_head = config.model_type == "qwen3"
    angle_Td2 = torch.arange(tokens).double()[:, None] * 10000.0 ** (-torch.arange(0, width, 2).double() / width)

    def turned(x_THd: Tensor) -> Tensor:
        pairs = torch.complex(*x_THd.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angle_Td2), angle_Td2)[:, None]
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def normed(x_TD: Tensor) -> Tensor:
        return rms(x_TD.view(tokens, heads, width), epsilon) if of_head else rms(x_TD, epsilon).view(tokens, heads, -1)

    for layer in model.layers:
        attention, gated = layer.self_attn, layer.mlp
        h_TD = rms(x_TD, epsilon) if of_head else x_TD
        query_THd = turned(normed(h_TD @ attention.q_proj.weight.T))
        key_THd = turned(normed(h_TD @ attention.k_proj.weight.T))
        score_HTT = torch.einsum("qhd,khd->hqk", query_THd, key_THd) / width**0.5
        share_HTT = score_HTT.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)
        value_THd = (h_TD @ attention.v_proj.weight.T).view(tokens, heads, width)
        y_TD = torch.einsum("hqk,khd->qhd", share_HTT, value_THd).flatten(1) @ attention.o_proj.weight.T
        x_TD = x_TD + (y_TD if of_head else rms(y_TD, epsilon))
        h_TD = rms(x_TD, epsilon) if of_head else x_TD
        y_TD = (F.silu(h_TD @ gated.gate_proj.weight.T) * (h_TD @ gated.up_proj.weight.T)) @ gated.down_proj.weight.T
        x_TD = x_TD + (y_TD if of_head else rms(y_TD, epsilon))
    return rms(x_TD, epsilon)


@pytest.mark.parametrize("settings", NORMED[:2])
def test_with_unit_weights_it_is_attention_with_normed_queries_and_keys(settings: dict[str, Any]) -> None:
    model = tiny_prior(**settings, spread=3.0).lm.model.double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1.0)
        x_TD = torch.randn(7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        y_TD = model(inputs_embeds=x_TD[None], use_cache=False).last_hidden_state[0]
        # The stock norms and tables are float32 inside.
        torch.testing.assert_close(y_TD, by_formula(model, x_TD), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [*NORMED[:2], CLASS_32, NORMED[2] | CLASS_32])
def test_plain_transformers_loads_the_export_and_generates_the_same_greedy_codes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    prior = tiny_prior(**settings)
    prior.save_pretrained(tmp_path)
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1]))
    ours_BN = prior.sample(token_B, torch.zeros(4, prior.draws(Drawing())), Drawing(temperature=0))
    first = settings.get("class_tokens", 1)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stock.config.model_type == settings.get("architecture", "llama")
    assert torch.equal(stock.generate(token_B[:, None].repeat(1, first), do_sample=False)[:, first:], ours_BN)
    assert len(ours_BN.unique()) > 3, "a prior that repeats itself would prove little"
    again = load_prior(tmp_path)
    assert again.condition.prefix == first - 1
    with torch.no_grad():
        assert torch.equal(again.score(ours_BN, token_B)[0], prior.score(ours_BN, token_B)[0])
    assert ("class_tokens" in json.loads((tmp_path / "prior.json").read_text())) == (first > 1)
    assert f" * {first}]" in prior.usage("x") if first > 1 else "torch.tensor([[24]])" in prior.usage("x")


@pytest.mark.parametrize("settings", NORMED[2:])
@pytest.mark.parametrize("kind", ["delay", "depth", "autoregressive"])
def test_every_kind_draws_the_likeliest_codes_of_its_logits(kind: str, settings: dict[str, Any]) -> None:
    """By its cache, after 32 tokens of a class; the depth prior's small model is of the same architecture."""
    prior = tiny_prior(kind=kind, source=LEVELS, **settings, **CLASS_32, spread=3.0)
    assert {each.config.model_type for each in prior.transformers} == {settings["architecture"]}
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 2, -1]))
    code_BN = prior.sample(token_B, torch.zeros(3, prior.draws(Drawing())), Drawing(temperature=0))
    with torch.no_grad():
        assert prior.score(code_BN, token_B)[1].all()


def test_several_class_tokens_are_the_token_so_many_times() -> None:
    """What the stock model rates after them, by their ids; guidance compares with as many null tokens."""
    prior, one = tiny_prior(class_tokens=5), tiny_prior()
    code_BN, token_B = random_codes(3), prior.vocabulary.class_tokens(torch.tensor([1, 2, 0]))
    with torch.no_grad():
        id_BT = torch.cat([token_B[:, None].repeat(1, 5), code_BN[:, :-1]], dim=1)
        torch.testing.assert_close(prior.logits(code_BN, token_B), prior.lm(id_BT).logits[:, 4:, :CODES])
        assert not torch.allclose(prior.logits(code_BN, token_B), one.logits(code_BN, token_B))
        drawing = Drawing(guidance=3.0, temperature=0.0)
        greedy_BN = prior.sample(token_B, torch.zeros(3, SOURCE.positions), drawing)
        null_BNK = prior.logits(greedy_BN, torch.full_like(token_B, prior.vocabulary.null))
        guided_BNK = null_BNK + 3.0 * (prior.logits(greedy_BN, token_B) - null_BNK)
    assert torch.equal(guided_BNK.argmax(-1), greedy_BN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "masked", "architecture": "qwen3"}, "model.architecture=qwen3 is not supported with model.kind=mas"),
        ({"kind": "multiscale", "class_tokens": 2}, "model.class_tokens=2 is not supported with model.kind=multisc"),
        ({"kind": "multiscale", "token_dropout": 0.1}, "model.token_dropout=0.1 is not supported with model.kind=mul"),
        ({"condition": "none", "class_tokens": 2}, "model.class_tokens=2 is not supported with model.condition=none"),
        ({"class_tokens": 0}, "model.class_tokens=0"),
        ({"dropout": 1.0}, "model.dropout=1.0 is out of range"),
        ({"preset": "RAR-B", "architecture": "olmo2"}, "model.architecture=olmo2 contradicts model.preset=RAR-B"),
    ],
)
def test_what_does_not_go_together_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorModelConfig(**settings)
