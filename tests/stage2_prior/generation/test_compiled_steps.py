"""Compiled steps of one token, and on a GPU their graphs: the same codes as without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import UserError
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.generation import graphs, one_token
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.one_token import OneToken
from stage2_prior.sample import sample
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.generation.test_graphs import SOURCES, drawn, prior_of
from tests.stage2_prior.tiny import NORMED

HALF_GUIDED = Drawing(guidance=2.0, guidance_until=0.5, top_p=0.9)
"""So that the second half has half of the rows."""


@pytest.mark.parametrize(("kind", "made"), [("autoregressive", 4), ("depth", 6)])
def test_compiled_steps_draw_the_same_codes(kind: str, made: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dynamo, but not inductor; pieces are compiled once for all layers and lengths of the cache."""
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.linear.can_pack", lambda: False)
    monkeypatch.setattr(graphs, "ALIGNED", 1)
    torch.compiler.reset()
    pieces: list[Any] = []

    def backend(graph: Any, inputs: Any, **_: Any) -> Any:
        pieces.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    prior = prior_of(kind, layers=4, depth_layers=3, key_value_heads=2)
    plain_BN = drawn(prior, HALF_GUIDED)
    assert not pieces
    for module in ("autoregressive", "places"):
        monkeypatch.setattr(f"stage2_prior.generation.{module}.capture_for", lambda _: lambda step: step)
    prior.compiled_steps = True
    assert torch.equal(drawn(prior, HALF_GUIDED), plain_BN)
    assert len(pieces) == 2 * made, "each with two numbers of rows"


@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}, *NORMED])
@pytest.mark.parametrize("compiled", [False, True])
def test_one_token_is_what_the_cached_body_computes(
    settings: dict[str, Any], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and cache after a start of several tokens, in the form that is compiled too."""
    monkeypatch.setattr(one_token, "fused", lambda function: function)
    prior = prior_of("autoregressive", **settings)
    plain, stepping = (CachedBody(prior.lm.model, 9) for _ in range(2))
    step = OneToken(stepping, compiled)
    x_BnD = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for body in (plain, stepping):
            body.start(2)
            body.extend(x_BnD[:, :3], 0, causal=True)
        for place in range(3, 8):
            x_BD, visible = x_BnD[:, place], 5 if place < 5 else 9
            expected_BD = plain.extend(x_BD[:, None], place)[:, 0]
            y_BD = step(x_BD, torch.tensor([place]), visible, last=place + 1 == visible)
            torch.testing.assert_close(y_BD, expected_BD, rtol=1e-4, atol=1e-5)
    assert plain.cache_L2CTd is not None and stepping.cache_L2CTd is not None
    torch.testing.assert_close(stepping.cache_L2CTd[..., :8, :], plain.cache_L2CTd[..., :8, :], rtol=1e-4, atol=1e-5)
    assert (stepping.cache_L2CTd[..., 8, :] == 0).all(), "a place that isn't reached yet is 0, not memory as it was"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_steps_are_graphs_that_draw_the_same_codes(
    kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is one replay, of graphs that are captured once; nothing waits for the device once they are there."""
    replays = 0

    def counted(self: Any, step: Callable[[], None], real: Any = graphs.CudaGraphs.__call__) -> Callable[[], None]:
        replay = real(self, step)

        def count() -> None:
            nonlocal replays
            replays += 1
            replay()

        return count

    monkeypatch.setattr(graphs.CudaGraphs, "__call__", counted)
    prior = prior_of(kind).to("cuda")
    monkeypatch.setenv("VQLOOM_CUDA_GRAPHS", "0")
    plain_BN = drawn(prior, HALF_GUIDED)
    assert not replays
    monkeypatch.delenv("VQLOOM_CUDA_GRAPHS")
    prior.compiled_steps = compiled
    assert torch.equal(drawn(prior, HALF_GUIDED), plain_BN)
    positions = SOURCES[kind].positions // SOURCES[kind].codebooks
    assert replays == positions - (kind == "autoregressive")
    token_B = prior.vocabulary.class_tokens(torch.arange(3, device="cuda"))
    uniform_BN = torch.rand(3, prior.draws(HALF_GUIDED), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        prior.sample(token_B, uniform_BN, HALF_GUIDED)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


def test_compiling_is_refused_on_a_cpu(coded: Coded, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = SampleConfig(prior=trained.prior, tokenizer=coded.tokenizer, out=str(tmp_path / "out"), compile=True)
    with pytest.raises(UserError, match="compile=true is for autoregressive, depth and delay priors on CUDA GPUs"):
        sample(config)
    assert not (tmp_path / "out").exists()
    assert sample(replace(config, compile=False, dry_run=True)) == 0
