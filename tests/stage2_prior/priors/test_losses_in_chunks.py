"""The losses of codes without their logits: equal to the plain ones in float64, gradients too, and small in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stage2_prior.priors import losses
from stage2_prior.priors.predicted import Head, Predicted
from tests.stage2_prior.priors.test_llama import prior_and_batch

CODES, WIDTH, LARGEST = 50, 8, 150
BOOKS = {"plain": 1, "bias": 1, "books": 3}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most LARGEST logits at once: three rows."""
    monkeypatch.setattr(losses, "MOST_LOGITS", LARGEST)


def predicted(case: str, dtype: torch.dtype = torch.float64) -> tuple[Predicted, Tensor]:
    """Outputs with a head over more rows than there are codes, and codes."""
    torch.manual_seed(0)
    books = BOOKS[case]
    rows = (CODES + 5) if books == 1 else CODES * books
    head = Head(WIDTH, rows, bias=case == "bias", dtype=dtype)
    shape = (2, 7) if books == 1 else (2, 7, books)
    y = torch.randn(2, 9, WIDTH, dtype=dtype) if case == "bias" else torch.randn(*shape, WIDTH, dtype=dtype)
    made = Predicted(y.requires_grad_(), head, CODES, books, before=2 if case == "bias" else 0)
    return made, torch.randint(CODES, shape)


def results(made: Predicted, code_BN: Tensor, smoothing: float, z_weight: float) -> list[Tensor]:
    """Losses, nats, and the gradients of a weighted sum of the losses."""
    loss_BN, nats_BN = made.losses(code_BN, smoothing, z_weight)
    weights_BN = torch.linspace(0.5, 2.0, loss_BN.numel(), dtype=loss_BN.dtype).view(loss_BN.shape)
    down = torch.autograd.grad((loss_BN * weights_BN).sum(), [made.y_BND, *made.head.parameters()])
    assert not nats_BN.requires_grad
    return [loss_BN.detach(), nats_BN, *down]


class Plain(Predicted):
    """Logits in the type of the outputs, as `Predicted` rounds them to float32."""

    def logits(self) -> Tensor:
        weight, bias = self.head.weight[: self.books * self.codes], self.head.bias
        if self.books == 1:
            bias = None if bias is None else bias[: self.codes]
            return nn.functional.linear(self.y_BND, weight, bias)[:, self.before :]
        return torch.einsum("bpgd,gkd->bpgk", self.y_BND, weight.unflatten(0, (self.books, -1)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("smoothing", "z_weight"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.01)])
@pytest.mark.parametrize("case", BOOKS)
def test_in_float64_they_are_the_plain_ones(case: str, smoothing: float, z_weight: float):
    made, code_BN = predicted(case)
    plain = Plain(made.y_BND, made.head, CODES, made.books, made.before)
    loss_BN, nats_BN = losses.code_losses(plain.logits(), code_BN, smoothing, z_weight)
    weights_BN = torch.linspace(0.5, 2.0, loss_BN.numel(), dtype=loss_BN.dtype).view(loss_BN.shape)
    down = torch.autograd.grad((loss_BN * weights_BN).sum(), [made.y_BND, *made.head.parameters()])
    for ours, theirs in zip(
        results(made, code_BN, smoothing, z_weight), [loss_BN.detach(), nats_BN, *down], strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(made.figures(code_BN), losses.figures(plain.logits(), code_BN), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


class Largest(TorchDispatchMode):
    """The most numbers that a new tensor has had."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [one.numel() for one in tree_leaves(out) if isinstance(one, Tensor)]
        self.numel = max(self.numel, *made, 0)
        return out


@pytest.mark.parametrize("case", BOOKS)
def test_no_tensor_is_as_large_as_all_logits(case: str, monkeypatch: pytest.MonkeyPatch):
    made, code_BN = predicted(case, torch.float32)
    with Largest() as plain:
        results(made, code_BN, 0.1, 0.01)
    assert plain.numel >= code_BN.numel() * CODES
    monkeypatch.setattr(losses, "MOST_LOGITS", LARGEST)
    weights = made.head.weight.numel()  # with their gradients they are the largest here, but don't grow with the batch
    with Largest() as chunked:
        results(made, code_BN, 0.1, 0.01)
        made.figures(code_BN)
    assert chunked.numel <= max(LARGEST, weights)
    if case == "plain":
        code_BN = code_BN.repeat(1, 9)
        made = Predicted(made.y_BND.detach().repeat(1, 9, 1).requires_grad_(), made.head, CODES)
        with Largest() as longer:
            results(made, code_BN, 0.1, 0.01)
        assert longer.numel <= max(LARGEST, weights, made.y_BND.numel())


@pytest.mark.parametrize("name", ["random", "masked", "depth", "multiscale"])
def test_every_kind_of_prior_learns_the_same_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch):
    prior, code_BN, token_B = prior_and_batch(name)
    found = []
    for most in (1 << 27, LARGEST):
        monkeypatch.setattr(losses, "MOST_LOGITS", most)
        torch.manual_seed(1)
        loss, nats = prior(code_BN, token_B)
        gradients = torch.autograd.grad(loss, list(prior.parameters()), allow_unused=True)
        found.append([loss, nats, *gradients, *prior.score(code_BN, token_B)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("small")
def test_under_autocast_products_are_bf16_and_sums_are_not():
    made, code_BN = predicted("plain", torch.float32)
    exact = results(made, code_BN, 0.1, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = results(made, code_BN, 0.1, 0.01)
    assert [one.dtype for one in coarse] == [torch.float32] * 4
    for ours, theirs in zip(coarse, exact, strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
