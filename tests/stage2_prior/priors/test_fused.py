"""What is installed in stock Llamas for GPUs computes what they do: in float64 closely, gradients and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from stage2_prior.priors.build import load_prior
from stage2_prior.priors.fused import Attention, Mlp, Norm, NormedAttention, install
from stage2_prior.priors.llama import through_layers
from tests.stage2_prior.priors.test_llama import prior_and_batch
from tests.stage2_prior.tiny import NORMED, tiny_prior

CUDA = torch.device("cuda")
STRETCHES = {"stretch_T": torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2]), "ends": (1, 4, 9)}


def outputs(llama: Any, x_BTD: torch.Tensor, at_BT: torch.Tensor, **how: Any) -> list[torch.Tensor]:
    """The outputs, and the gradients of their squares."""
    y_BTD = through_layers(llama, x_BTD, at_BT, **how)
    return [y_BTD, *torch.autograd.grad(y_BTD.square().sum(), [x_BTD, *llama.layers.parameters()])]


@pytest.mark.parametrize("how", [{}, STRETCHES], ids=["causal", "stretches"])
@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}, *NORMED[2:]])
def test_in_float64_it_is_the_stock_llama(settings: dict[str, Any], how: dict[str, Any]):
    llama = tiny_prior(spread=3.0, **settings).lm.model.double()
    x_BTD = torch.randn(3, 9, 32, dtype=torch.float64, requires_grad=True)
    at_BT = torch.rand(3, 9).argsort(1)
    expected = outputs(llama, x_BTD, at_BT, **how)
    install(llama, CUDA)
    names = [type(part) for part in llama.modules()]
    normed = llama.config.model_type != "llama"
    attention = NormedAttention if normed else Attention
    assert [names.count(kind) for kind in (Norm, attention, Mlp)] == [9 if normed else 5, 2, 2]
    # The stock norm computes in float32 also where its input is float64, so both agree to that only.
    for ours, theirs in zip(outputs(llama, x_BTD, at_BT, **how), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=1e-5)


def test_each_part_is_the_stock_one_in_float64():
    config = tiny_prior(key_value_heads=2).lm.config
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    x_BTD = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)
    turn = torch.rand(2, 1, 5, 4, dtype=torch.float64).repeat(1, 1, 1, 2) * 6
    positions = {"position_embeddings": (turn[0].cos(), turn[0].sin())}
    for stock, kind, given in ((LlamaAttention(config, 0), Attention, positions), (LlamaMLP(config), Mlp, {})):
        found = []
        stock.double()
        for part_kind in (type(stock), kind):
            stock.__class__ = part_kind  # type: ignore[assignment]
            y_BTD = stock(x_BTD, **given)
            y_BTD = y_BTD[0] if isinstance(y_BTD, tuple) else y_BTD
            found.append([y_BTD, *torch.autograd.grad(y_BTD.square().sum(), [x_BTD, *stock.parameters()])])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    norm = LlamaRMSNorm(32, eps=1e-6).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    expected = x_BTD * (x_BTD.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight
    norm.__class__ = Norm
    torch.testing.assert_close(norm(x_BTD), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, *NORMED[:2]])
def test_under_autocast_it_rounds_as_the_stock_llama_does(settings: dict[str, Any]):
    for how in ({}, STRETCHES):
        llama, x_BTD = tiny_prior(spread=2.0, **settings).lm.model, torch.randn(3, 9, 32, requires_grad=True)
        at_BT, found = torch.arange(9)[None], []
        exact = outputs(llama, x_BTD, at_BT, **how)
        for device in (torch.device("cpu"), CUDA):
            install(llama, device)
            with torch.autocast("cpu", torch.bfloat16):
                found.append(outputs(llama, x_BTD, at_BT, **how))
        for stock, ours, true in zip(*found, exact, strict=True):
            assert ours.dtype == stock.dtype
            assert (ours - true).norm() < 2 * (stock - true).norm() + 1e-6
            assert not torch.equal(ours, true)


@pytest.mark.parametrize("name", ["raster", "random", "depth", "multiscale"])
def test_priors_learn_the_same_and_export_the_same(name: str, tmp_path: Path):
    prior, code_BN, token_B = prior_and_batch(name)
    found = []
    for device in (torch.device("cpu"), CUDA):
        install(prior, device)
        torch.manual_seed(1)
        loss, nats = prior(code_BN, token_B)
        found.append([loss, nats, *torch.autograd.grad(loss, list(prior.parameters())), *prior.score(code_BN, token_B)])
        prior.save_pretrained(tmp_path / device.type)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    for file in sorted(path for path in (tmp_path / "cpu").rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "cuda" / file.relative_to(tmp_path / "cpu")).read_bytes()
    assert not any(isinstance(part, (Norm, Attention, Mlp)) for part in load_prior(tmp_path / "cuda").modules())


def test_on_a_cpu_nothing_is_installed():
    prior = tiny_prior()
    install(prior, torch.device("cpu"))
    assert not any(isinstance(part, (Norm, Attention, Mlp)) for part in prior.modules())
