"""Steps of one token as one compiled graph: the same codes as without."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.priors.base import Prior
from stage2_prior.sample import sample
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.tiny import CODES, SOURCE, tiny_prior

SOURCES = {"autoregressive": SOURCE, "depth": CodeSource("f" * 64, CODES, (3, 4), {}, codebooks=2)}


def prior_of(kind: str, **settings: Any) -> Prior:
    return tiny_prior(kind=kind, source=SOURCES[kind], **settings)


def drawn(prior: Prior, compiled: bool, device: str = "cpu") -> torch.Tensor:
    """Codes of three classes, guided up to the middle, so that the second half has half of the rows."""
    prior.compiled_steps = compiled
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2], device=device))
    uniform_BN = torch.rand(3, prior.draws(Drawing()), generator=torch.Generator().manual_seed(1)).to(device)
    return prior.to(device).sample(token_B, uniform_BN, Drawing(guidance=2.0, guidance_until=0.5))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}])
def test_compiled_steps_draw_the_same_codes(kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.linear.can_pack", lambda: False)
    torch.compiler.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any, **_: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    prior = prior_of(kind, **settings)
    plain_BN = drawn(prior, False)
    assert not graphs
    assert torch.equal(drawn(prior, True), plain_BN)
    bodies, numbers_of_rows = {"autoregressive": 1, "depth": 2}[kind], 2
    assert len(graphs) == bodies * numbers_of_rows, "one graph serves all positions"


@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}])
def test_what_is_compiled_computes_what_plain_steps_do(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """The step that a graph is made of, run as it is: outputs and cache, after a start of several tokens."""
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.linear.can_pack", lambda: False)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    prior = prior_of("autoregressive", **settings)
    plain, stepping = (CachedBody(prior.lm.model, 9, compiled) for compiled in (False, True))
    x_BnD = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for body in (plain, stepping):
            body.start(2)
            body.extend(x_BnD[:, :3], 0, causal=True)
        for place in range(3, 8):
            x_B1D = x_BnD[:, place : place + 1]
            torch.testing.assert_close(stepping.extend(x_B1D, place), plain.extend(x_B1D, place), rtol=1e-4, atol=1e-5)
    assert plain.cache_L2CTd is not None and stepping.cache_L2CTd is not None
    torch.testing.assert_close(stepping.cache_L2CTd[..., :8, :], plain.cache_L2CTd[..., :8, :], rtol=1e-4, atol=1e-5)
    assert (stepping.cache_L2CTd[..., 8, :] == 0).all(), "a place that isn't reached yet is 0, not memory as it was"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", SOURCES)
def test_compiled_steps_draw_the_same_codes_on_a_gpu(kind: str):
    prior = prior_of(kind)
    assert torch.equal(drawn(prior, True, "cuda"), drawn(prior, False, "cuda"))


def test_compiling_is_refused_on_a_cpu(coded: Coded, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = SampleConfig(prior=trained.prior, tokenizer=coded.tokenizer, out=str(tmp_path / "out"), compile=True)
    with pytest.raises(UserError, match="compile=true is for autoregressive and depth priors on CUDA GPUs"):
        sample(config)
    assert not (tmp_path / "out").exists()
    assert sample(replace(config, compile=False, dry_run=True)) == 0
