"""Our loop over a Llama's layers is the stock model bit by bit, and no prior reads a value on the host.

A value that is read (`.item()`, `bool(tensor)`) makes a GPU wait. On CPU tensors transformers looks at its masks as it
would on a GPU's; on fake ones it doesn't.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stage2_prior.config.model import TextConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.stock import checkpoint_layers
from tests.stage2_prior.priors.test_depth_and_multiscale import codes_of, prior_of
from tests.stage2_prior.priors.test_levels import codes_of as levels_codes
from tests.stage2_prior.priors.test_levels import prior_of as levels_prior
from tests.stage2_prior.tiny import NORMED, random_codes, tiny_prior

WAITING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.bincount, torch.ops.aten.equal)
TEXT: dict[str, Any] = {"condition": "text", "text": TextConfig(tokens=8)}
KINDS: dict[str, dict[str, Any]] = {
    "raster": {"code_noise": 0.1, "class_dropout": 0.3, "label_smoothing": 0.1, "z_loss": 1e-3, "dropout": 0.1},
    "random": {"order": "random"},
    "qwen3": {"architecture": "qwen3", "class_tokens": 3, "dropout": 0.2, "token_dropout": 0.2},
    "masked": {"kind": "masked"},
    "text": TEXT,
    "text-random": TEXT | {"order": "random"},
    "text-masked": TEXT | {"kind": "masked"},
    "depth": {},
    "multiscale": {},
    "levels-delay": {},
    "levels-flat": {},
    "levels-masked": {},
    "levels-levels-delays": {},
}


def prior_and_batch(name: str, batch: int = 3) -> tuple[Prior, torch.Tensor, torch.Tensor]:
    """A prior in training, and codes and conditioning tokens for it."""
    if name.startswith("levels-"):
        prior = levels_prior(name.removeprefix("levels-"), spread=1.0).train()
        return prior, levels_codes(batch), prior.condition.of_labels(torch.arange(batch) % 3)
    prior = tiny_prior(**KINDS[name]) if KINDS[name] else prior_of(name, spread=1.0)
    code_BN = random_codes(batch) if KINDS[name] else codes_of(prior, batch)
    if "text" in name:
        return prior.train(), code_BN, prior.condition.of_texts(["a box", "", "a circle"][:batch])
    return prior.train(), code_BN, prior.condition.of_labels(torch.arange(batch) % 3)


class Waits(TorchDispatchMode):
    """Collects operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in WAITING:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", KINDS)
def test_no_prior_reads_a_value_on_the_host(name: str):
    prior, code_BN, token_B = prior_and_batch(name)
    with Waits() as waits:
        loss, _ = prior(code_BN, token_B)
        loss.backward()
        prior.score(code_BN, token_B)
    assert not waits.found


def test_the_watch_sees_what_transformers_reads():
    prior = tiny_prior()
    with Waits() as waits, torch.no_grad():
        prior.lm(inputs_embeds=torch.zeros(1, 4, 32), use_cache=False)
    assert waits.found


@pytest.mark.parametrize("settings", [{}, {"key_value_heads": 2}, *NORMED[:2]])
def test_the_loop_is_the_stock_model_bit_by_bit(settings: dict[str, Any]):
    llama = tiny_prior(**settings).lm.model
    x_BTD = torch.randn(3, 9, 32)
    with torch.no_grad():
        assert torch.equal(through_layers(llama, x_BTD), llama(inputs_embeds=x_BTD, use_cache=False).last_hidden_state)
        at_BT = torch.rand(3, 9).argsort(1)
        stretch_T = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
        mask_11TT = (stretch_T[:, None] >= stretch_T)[None, None]
        for mask, ours in ((torch.ones(3, 9), None), (mask_11TT, stretch_T)):
            stock = llama(inputs_embeds=x_BTD, position_ids=at_BT, attention_mask=mask, use_cache=False)
            assert torch.equal(through_layers(llama, x_BTD, at_BT, ours), stock.last_hidden_state)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_recomputes_each_layer_and_gives_the_same_gradients(reentrant: bool):
    prior, code_BN, token_B = prior_and_batch("random")
    calls: list[int] = []
    for number, layer in enumerate(prior.lm.model.layers):
        layer.input_layernorm.register_forward_hook(lambda *_, number=number: calls.append(number))
    gradients = []
    for again in (False, True):
        if again:
            checkpoint_layers(prior.lm, reentrant=reentrant)
        torch.manual_seed(0)
        prior(code_BN, token_B)[0].backward()
        gradients.append([weight.grad for weight in prior.parameters()])
        prior.zero_grad(set_to_none=True)
    assert calls == [0, 1, 0, 1, 1, 0]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
