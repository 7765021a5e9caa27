"""torch.compile takes what every prior computes from its drawn inputs to its losses as one graph, which is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo

from stage2_prior.priors import losses
from stage2_prior.priors.base import Prior
from tests.stage2_prior.priors.test_llama import prior_and_batch


def inputs(name: str) -> tuple[Prior, tuple[Any, ...]]:
    """A prior, and what its forward draws and gives to its losses."""
    prior, code_BN, token_B = prior_and_batch(name)
    if name == "masked":
        return prior, (prior.masked(code_BN, code_BN % 2 == 0), token_B, code_BN)  # type: ignore[operator]
    if name == "multiscale":
        return prior, (prior.pyramid.seen(code_BN), token_B, code_BN)  # type: ignore[operator, union-attr]
    places = (torch.rand(code_BN.shape).argsort(1),) if "random" in name else ()
    return prior, (code_BN, token_B, code_BN, *places)


@pytest.mark.parametrize(
    ("name", "chunked"),
    [(name, False) for name in ("raster", "random", "masked", "text", "depth", "multiscale", "levels-levels-delays")]
    + [("raster", True)],
)
def test_the_losses_of_every_prior_are_one_graph(name: str, chunked: bool, monkeypatch: pytest.MonkeyPatch):
    if chunked:
        monkeypatch.setattr(losses, "MOST_LOGITS", 150)
    prior, given = inputs(name)
    seen: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        seen.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    torch._dynamo.reset()
    found = []
    for run in (prior.losses, torch.compile(prior.losses, backend=backend, fullgraph=True)):
        torch.manual_seed(0)
        loss_BN, nats_BN = run(*given)
        gradients = torch.autograd.grad(loss_BN.mean(), list(prior.parameters()), allow_unused=True)
        found.append([loss_BN, nats_BN, *gradients])
    assert len(seen) == 1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
