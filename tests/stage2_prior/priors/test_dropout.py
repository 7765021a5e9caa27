"""Dropout of residual branches and embedded tokens: where it falls, how often, and that it is no part of anything else.

That a resumed run drops the same is tested with the training (tests/stage2_prior/commands/test_train.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.stock import checkpoint_layers
from tests.stage2_prior.tiny import random_codes, tiny_prior

BRANCHES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "llama": ({}, ("self_attn", "mlp")),
    "qwen3": ({"architecture": "qwen3"}, ("self_attn", "mlp")),
    "olmo2": ({"architecture": "olmo2"}, ("post_attention_layernorm", "post_feedforward_layernorm")),
    "modernbert": ({"kind": "masked"}, ("attn", "mlp")),
}
"""Settings, and the modules of a layer whose outputs are added to its residual stream."""


def loss_of(prior: Prior, seed: int) -> tuple[Tensor, ...]:
    """The loss with what torch's generator draws after a seed, and the gradients."""
    torch.manual_seed(seed)
    loss = prior(random_codes(4), prior.condition.of_labels(torch.tensor([0, 1, 2, 1])))[0]
    return loss, *torch.autograd.grad(loss, list(prior.parameters()))


@pytest.mark.parametrize("name", BRANCHES)
def test_what_layers_add_is_dropped_at_the_rate_and_scaled_up(name: str) -> None:
    settings, branches = BRANCHES[name]
    plain, prior = tiny_prior(spread=1.0, **settings), tiny_prior(spread=1.0, **settings, dropout=0.25).train()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {branch: [] for branch in branches}
    for (path, there), other in zip(prior.lm.named_modules(), plain.lm.modules(), strict=True):
        if (branch := path.rpartition(".")[2]) in branches:

            def record(module: Any, args: Any, named: Any, y: Any, other: Any = other, branch: str = branch) -> None:
                expected = other(*args, **named)
                seen[branch].append(tuple(x[0] if isinstance(x, tuple) else x for x in (y, expected)))  # type: ignore[arg-type]

            there.register_forward_hook(record, with_kwargs=True)
    loss_of(prior, 0)
    for pairs in seen.values():
        assert len(pairs) == 2, "one in each layer"
        for y, expected in pairs:
            kept = y != 0
            torch.testing.assert_close(y[kept], expected[kept] / 0.75)
            assert abs(kept.float().mean() - 0.75) < 0.05


def test_features_of_tokens_are_dropped_each_by_itself() -> None:
    prior = tiny_prior(token_dropout=0.5, class_tokens=3, class_dropout=0).train()
    found: list[Tensor] = []
    prior.lm.model.layers[0].register_forward_hook(lambda module, args, y: found.append(args[0]))
    loss_of(prior, 0)
    kept_BTD = found[0] != 0
    assert abs(kept_BTD.float().mean() - 0.5) < 0.03
    assert not torch.equal(kept_BTD[:, 0], kept_BTD[:, 1]), "nor are all tokens of a class dropped alike"
    id_BT = torch.full((4, 1), 24) + torch.tensor([[0], [1], [2], [1]])
    expected_BTD = prior.lm.model.embed_tokens.weight[id_BT].repeat(1, 3, 1) * 2
    torch.testing.assert_close(found[0][:, :3], torch.where(kept_BTD[:, :3], expected_BTD, 0))


@pytest.mark.parametrize("settings", [{}, {"architecture": "olmo2"}, {"kind": "masked"}])
def test_it_follows_torchs_generator_and_is_the_same_where_layers_are_recomputed(settings: dict[str, Any]) -> None:
    prior = tiny_prior(spread=1.0, **settings, dropout=0.3, token_dropout=0.2, class_dropout=0).train()
    first, other = loss_of(prior, 1), loss_of(prior, 2)
    assert first[0] != other[0]
    checkpoint_layers(prior.lm, reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(loss_of(prior, 1), first, strict=True))


def test_it_is_no_part_of_evaluations_samples_and_exports(tmp_path: Path) -> None:
    plain, prior = tiny_prior(), tiny_prior(dropout=0.5, token_dropout=0.5)
    code_BN, token_B = random_codes(2), prior.vocabulary.class_tokens(torch.tensor([0, 1]))
    prior.save_pretrained(tmp_path / "prior")
    plain.save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors", "prior.json"):
        assert (tmp_path / "prior" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    with torch.no_grad():
        for other in (plain, load_prior(tmp_path / "prior")):
            assert torch.equal(prior.score(code_BN, token_B)[0], other.score(code_BN, token_B)[0])
    uniform_BN = torch.rand(2, 12)
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing()), plain.sample(token_B, uniform_BN, Drawing()))
