"""Types follow the weights: priors of every kind rate and draw codes whole in bf16, fp16 and float64.

Rotary tables stay float32: in bf16, angles of 256 rad would have a step of 1 rad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import TextConfig
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import KINDS
from tests.stage2_prior.priors.test_depth_and_multiscale import prior_of
from tests.stage2_prior.priors.test_levels import prior_of as levels_prior
from tests.stage2_prior.tiny import CODES, TEXTS, tiny_prior

TEXT = TextConfig(tokens=5, layers=1)
PRIORS: dict[str, Callable[[], Prior]] = {
    "autoregressive": lambda: tiny_prior(spread=3.0),
    "autoregressive-shared-keys": lambda: tiny_prior(spread=3.0, key_value_heads=2),
    "autoregressive-random-order": lambda: tiny_prior(spread=3.0, order="random"),
    "autoregressive-text": lambda: tiny_prior(spread=3.0, condition="text", text=TEXT),
    "masked": lambda: tiny_prior(spread=3.0, kind="masked"),
    "masked-text": lambda: tiny_prior(spread=3.0, kind="masked", condition="text", text=TEXT),
    "depth": lambda: prior_of("depth", spread=3.0),
    "depth-levels": lambda: levels_prior("levels-delays", spread=3.0),
    "delay": lambda: levels_prior("delay", spread=3.0),
    "delay-text": lambda: levels_prior("delay-text", spread=3.0),
    "flat": lambda: levels_prior("flat", spread=3.0),
    "masked-levels": lambda: levels_prior("masked", spread=3.0),
    "multiscale": lambda: prior_of("multiscale", spread=3.0),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float64)
names = pytest.mark.parametrize("name", PRIORS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def conditions(prior: Prior) -> Tensor:
    if prior.condition.prefix:
        return prior.condition.of_texts(TEXTS)
    return prior.vocabulary.class_tokens(torch.tensor([0, 1, -1]))


def codes_of(prior: Prior) -> Tensor:
    return torch.randint(CODES, (3, prior.source.positions), generator=torch.Generator().manual_seed(2))


def frequencies(prior: Prior) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in prior.named_buffers() if name.endswith("inv_freq")}


def test_every_kind_is_tried() -> None:
    assert {make().kind for make in PRIORS.values()} == set(KINDS)


@dtypes
@names
def test_every_kind_draws_codes(name: str, dtype: torch.dtype) -> None:
    """Without and with guidance and cut-offs, and with codes given, which stay."""
    prior = PRIORS[name]().to(dtype)
    token_B, code_BN = conditions(prior), codes_of(prior)
    given_BN = code_BN.masked_fill(torch.arange(code_BN.shape[1]) >= 2, -1)
    drawings: list[dict[str, Any]] = [
        {},
        {"guidance": 3.0, "top_k": 5},
        {"guidance": 2.0, "top_p": 0.9, "temperature": 0.7},
    ]
    for settings in drawings:
        drawing = Drawing(**settings)
        uniform_BU = torch.rand(3, prior.draws(drawing), generator=torch.Generator().manual_seed(0))
        drawn_BN = prior.sample(token_B, uniform_BU, drawing)
        assert drawn_BN.shape == code_BN.shape and int(drawn_BN.min()) >= 0 and int(drawn_BN.max()) < CODES
        filled_BN = prior.sample(token_B, uniform_BU, drawing, given_BN)
        assert torch.equal(filled_BN[given_BN >= 0], given_BN[given_BN >= 0])


@dtypes
@names
def test_logits_and_losses_are_float32s_up_to_rounding(name: str, dtype: torch.dtype) -> None:
    whole, prior = PRIORS[name](), PRIORS[name]().to(dtype)
    token_B, code_BN = conditions(prior), codes_of(prior)
    with torch.no_grad():
        nats_BN, expected_BN = prior.score(code_BN, token_B)[0], whole.score(code_BN, token_B)[0]
    assert nats_BN.dtype == torch.float32
    bound = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-4}[dtype]
    assert float((nats_BN - expected_BN).abs().mean()) < bound * float(expected_BN.mean())
    prior.train()
    loss, _ = prior(code_BN, token_B)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in prior.parameters() if weight.grad is not None)


@dtypes
@names
def test_the_likeliest_codes_that_are_drawn_are_those_of_the_logits(name: str, dtype: torch.dtype) -> None:
    """The key-value cache in this type computes what the module does: greedy codes are the module's."""
    prior = PRIORS[name]().to(dtype)
    if prior.kind == "masked":
        return  # has no cache
    token_B, drawing = conditions(prior), Drawing(temperature=0.0)
    code_BN = prior.sample(token_B, torch.rand(3, prior.draws(drawing)), drawing)
    with torch.no_grad():
        right_BN = prior.score(code_BN, token_B)[1]
    assert float(right_BN.mean()) >= {torch.bfloat16: 0.8, torch.float16: 0.95, torch.float64: 1.0}[dtype]


@names
def test_rotary_frequencies_stay_float32(name: str) -> None:
    """However the weights are cast, and when they are cast back."""
    prior = PRIORS[name]()
    expected = frequencies(prior)
    assert expected
    for cast in (prior.half, prior.bfloat16, prior.double, lambda: prior.to(torch.bfloat16), prior.float):
        cast()
        for buffer, value in frequencies(prior).items():
            assert value.dtype == torch.float32 and torch.equal(value, expected[buffer]), (cast, buffer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_caches_angles_are_exact_where_the_stock_model_was_cast_alone(dtype: torch.dtype) -> None:
    """Which rounds the frequencies of the module itself: the table is made of fresh ones."""
    expected = CachedBody(PRIORS["autoregressive"]().lm.model, 300).turn_T1d2
    lm = PRIORS["autoregressive"]().lm.to(dtype)
    assert lm.model.rotary_emb.inv_freq.dtype == dtype
    assert torch.equal(CachedBody(lm.model, 300).turn_T1d2, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@names
def test_autocast_changes_no_drawn_code(name: str, dtype: torch.dtype) -> None:
    """Codes are drawn in the weights' type; the cache's float32 kernels have no other."""
    prior, drawing = PRIORS[name]().to(dtype), Drawing(guidance=2.0)
    uniform_BU = torch.rand(3, prior.draws(drawing))
    plain_BN = prior.sample(conditions(prior), uniform_BU, drawing)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.sample(conditions(prior), uniform_BU, drawing), plain_BN)
        assert prior.score(codes_of(prior), conditions(prior))[0].isfinite().all()
