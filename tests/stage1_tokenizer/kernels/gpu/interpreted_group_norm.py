"""Group normalization's programs in Triton's interpreter on the CPU, against the plain form in float64.

test_interpreted.py runs this file in a process of its own, as TRITON_INTERPRET must be set before triton is imported.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from stage1_tokenizer.kernels.gpu import group_norm as fused
from stage1_tokenizer.kernels.gpu import splitting
from stage1_tokenizer.kernels.gpu.adaptive_norm import FusedAdaptiveNorm
from stage1_tokenizer.kernels.gpu.group_norm import FusedNorm
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.networks.maskgit import AdaptiveNorm

WITHIN = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
SHAPES = {"1-D": (2, 6, 37), "2-D": (3, 8, 5, 7), "3-D": (1, 4, 3, 4, 5)}


def last(x_BCN: Tensor) -> Tensor:
    return x_BCN.movedim(1, -1).contiguous().movedim(-1, 1)


def close(mine: Tensor, exact: Tensor, within: float) -> None:
    """Relative to the largest value, as sums have the rounding of their largest terms."""
    assert mine.shape == exact.shape
    assert float((mine - exact).detach().abs().max()) <= within * float(exact.detach().abs().max())


def check(x_BCN: Tensor, groups: int, *, weights: str = "shared", swish: bool = True) -> None:
    """Output and all gradients are the plain form's, and the layout is the input's."""
    batch, channels = x_BCN.shape[:2]
    shape = {"shared": (channels,), "per picture": (batch, channels)}.get(weights)
    given = [x_BCN.detach().requires_grad_()]
    given += [] if shape is None else [(torch.randn(shape) + 1).requires_grad_() for _ in range(2)]
    dy_BCN = torch.randn(x_BCN.shape, dtype=torch.float32).to(x_BCN.dtype)
    y_BCN = fused.group_norm(given[0], groups, *given[1:], swish=swish)
    assert y_BCN.dtype is x_BCN.dtype
    assert y_BCN.stride() == fused.dense(x_BCN).stride()
    gradients = torch.autograd.grad(y_BCN, given, dy_BCN)
    exact = [h.detach().double().requires_grad_() for h in given]
    absent = [None, None] if shape is None else []
    plain_BCN = fused.plain(exact[0], *exact[1:], *absent, groups, 1e-6, swish)
    close(y_BCN, plain_BCN, WITHIN[x_BCN.dtype])
    for mine, other in zip(gradients, torch.autograd.grad(plain_BCN, exact, dy_BCN.double()), strict=True):
        assert mine.dtype in (x_BCN.dtype, torch.float32)
        close(mine, other, WITHIN[x_BCN.dtype])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that tiny pictures have many, and chunks of more than one, the last of them smaller."""
    monkeypatch.setattr(splitting, "TILE", 64)
    monkeypatch.setattr(splitting, "WHOLE", 4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_one_tile(shape: tuple[int, ...], channels_last: bool) -> None:
    x_BCN = torch.randn(shape) * 2 + 3
    x_BCN = last(x_BCN) if channels_last else x_BCN
    assert fused._plan(x_BCN, 2).whole
    check(x_BCN, 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_chunks(shape: tuple[int, ...], channels_last: bool) -> None:
    x_BCN = torch.randn(shape) * 2 + 3
    x_BCN = last(x_BCN) if channels_last else x_BCN
    assert not fused._plan(x_BCN, 2).whole
    check(x_BCN, 2)


def test_chunks_and_blocks_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "TILE", 16)
    monkeypatch.setattr(splitting, "WHOLE", 4)
    monkeypatch.setattr(splitting, "COLUMNS", 8)
    x_BCN = last(torch.randn(2, 18, 53) * 2 + 3)
    plan = fused._plan(x_BCN, 6)  # 3 channels of a group are padded to 4; blocks of 2 groups
    assert plan.blocks == 3 and 1 < plan.chunks < plan.parts
    assert (plan.chunks - 1) * plan.chunk_rows < 53 < plan.chunks * plan.chunk_rows
    check(x_BCN, 6)
    x_BCN = last(torch.randn(1, 10, 53) * 2 + 3)
    assert fused._plan(x_BCN, 5).blocks == 2  # the last block has one group
    check(x_BCN, 5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("weights", "swish"), [("none", True), ("none", False), ("shared", False), ("per picture", True)]
)
def test_kinds_of_weights_in_chunks(weights: str, swish: bool) -> None:
    check(last(torch.randn(3, 8, 45) + 3), 4, weights=weights, swish=swish)


@pytest.mark.parametrize(
    ("weights", "swish"), [("none", True), ("none", False), ("shared", False), ("per picture", True)]
)
def test_kinds_of_weights_in_one_tile(weights: str, swish: bool) -> None:
    check(torch.randn(3, 8, 9) + 3, 4, weights=weights, swish=swish)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_types(kind: torch.dtype) -> None:
    check(last(torch.randn(2, 8, 5, 7) * 2 + 3).to(kind), 4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_groups_of_one_channel(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x_BCN = torch.randn(1, 4, 61) + 3
    x_BCN = last(x_BCN) if channels_last else x_BCN
    check(x_BCN, 4)
    monkeypatch.setattr(splitting, "TILE", 32)
    monkeypatch.setattr(splitting, "WHOLE", 4)
    check(x_BCN, 4)


def test_a_group_of_one_value_becomes_its_bias() -> None:
    norm = FusedNorm(32)
    torch.nn.init.normal_(norm.bias)
    x_BCN = torch.randn(1, 32, 1, 1, requires_grad=True)
    y_BCN = fused.group_norm(x_BCN, 32, norm.weight, norm.bias, swish=False)
    torch.testing.assert_close(y_BCN.flatten(), norm.bias)
    dx_BCN, dweight_C, dbias_C = torch.autograd.grad(y_BCN, [x_BCN, norm.weight, norm.bias], torch.randn(1, 32, 1, 1))
    assert not dx_BCN.any() and not dweight_C.any() and dbias_C.all()


def test_inputs_of_other_layouts() -> None:
    whole = torch.randn(3, 6, 8, 10) + 3
    check(whole[:, :, ::2, 1:], 3)
    check(last(whole)[:, :, ::2, 1:], 3)
    check(whole.transpose(0, 1)[:4], 1)
    check(whole[:1].expand(2, -1, -1, -1), 2)
    check(whole.transpose(2, 3), 2)
    check(torch.randn(4, 6) + 3, 2)  # without positions
    sliced = last(whole)[:, :, ::2]
    y_BCN = fused.group_norm(sliced, 3)
    assert y_BCN.is_contiguous(memory_format=torch.channels_last)


def test_weights_of_other_layouts() -> None:
    x_BCN, both_C2 = torch.randn(2, 4, 3), torch.randn(4, 2)
    y_BCN = fused.group_norm(x_BCN, 2, both_C2[:, 0], both_C2[:, 1])
    close(y_BCN, fused.plain(x_BCN.double(), *both_C2.double().T, 2, 1e-6, False), 1e-5)


def test_gradients_of_other_layouts() -> None:
    x_BCN = last(torch.randn(2, 4, 3, 5)).requires_grad_()
    results = []
    for dy_BCN in (torch.ones(1).expand(2, 4, 3, 5), torch.ones(2, 4, 3, 5), last(torch.ones(2, 4, 3, 5))):
        results.append(torch.autograd.grad(fused.group_norm(x_BCN, 2, swish=True), x_BCN, dy_BCN)[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert all(dx_BCN.stride() == x_BCN.stride() for dx_BCN in results)


@pytest.mark.usefixtures("small")
def test_means_far_from_zero_cost_no_digits() -> None:
    """Sums of squares would lose them all: deviations of 1 about 3,000."""
    x_BCN = last(torch.randn(1, 4, 61) + 3e3)
    y_BCN = fused.group_norm(x_BCN, 2)
    close(y_BCN, fused.plain(x_BCN.double(), None, None, 2, 1e-6, False), 1e-4)


def test_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = splitting.plan
    monkeypatch.setattr(fused, "plan", lambda *sizes, **named: wide(plan(*sizes, **named)))
    check(last(torch.randn(2, 6, 11)), 2)
    check(torch.randn(2, 6, 11), 2)


def wide(plan: splitting.Plan) -> splitting.Plan:
    assert plan.shape["wide"] is False
    return plan._replace(shape=plan.shape | {"wide": True})


def test_second_derivatives_are_the_plain_forms() -> None:
    def penalty(norm: Any, sources: list[Tensor]) -> list[Tensor]:
        first = torch.autograd.grad(norm(*sources).pow(3).sum(), sources, create_graph=True)
        return list(torch.autograd.grad(sum(h.square().sum() for h in first), sources))

    sources = [torch.randn(2, 4, 3, 3), torch.randn(4), torch.randn(4)]
    mine = penalty(
        lambda x, w, b: fused.group_norm(x, 2, w, b, swish=True), [h.clone().requires_grad_() for h in sources]
    )
    exact = penalty(lambda x, w, b: fused.plain(x, w, b, 2, 1e-6, True), [h.double().requires_grad_() for h in sources])
    for ours, other in zip(mine, exact, strict=True):
        close(ours, other, 1e-5)
    x_BCN = sources[0].requires_grad_()
    first = torch.autograd.grad(fused.group_norm(x_BCN, 2, swish=True).sum(), x_BCN, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(first.square().sum(), x_BCN, create_graph=True)


def test_results_are_the_same_each_time() -> None:
    x_BCN, weight_C = last(torch.randn(2, 8, 5, 7)).requires_grad_(), torch.randn(8, requires_grad=True)
    runs = []
    for _ in range(2):
        y_BCN = fused.group_norm(x_BCN, 4, weight_C, weight_C, swish=True)
        runs.append([y_BCN, *torch.autograd.grad(y_BCN.sum(), [x_BCN, weight_C])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_layers_compute_what_they_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "takes", lambda x_BCN: True)
    monkeypatch.setattr("stage1_tokenizer.kernels.gpu.adaptive_norm.takes", lambda x_BCN: True)
    x_BCN, z_BDN = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 2, 2)
    for swish in (False, True):
        plain, ours = Norm(8, swish=swish), FusedNorm(8, swish=swish)
        for weight in plain.parameters():
            torch.nn.init.normal_(weight)
        ours.load_state_dict(plain.state_dict())
        close(ours(x_BCN), plain(x_BCN).double(), 1e-5)
    adaptive, ours_too = AdaptiveNorm(3, 8), FusedAdaptiveNorm(3, 8)
    ours_too.load_state_dict(adaptive.state_dict())
    close(ours_too(x_BCN, z_BDN), adaptive(x_BCN, z_BDN).double(), 1e-5)


def test_operators_keep_their_promises_to_torch() -> None:
    x_BCN, weight_C = last(torch.randn(2, 4, 3, 3)).requires_grad_(), torch.randn(4, requires_grad=True)
    promises = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(fused._forward, (x_BCN, weight_C, weight_C, 2, 1e-6, True), test_utils=promises)
    y_BCN, mean_BG, scale_BG = fused._forward(x_BCN.detach(), None, None, 2, 1e-6, True)
    inputs = (y_BCN, x_BCN.detach(), None, None, mean_BG, scale_BG, 2, 1e-6, True)
    torch.library.opcheck(fused._backward, inputs, test_utils=promises)


@pytest.mark.usefixtures("small")
def test_costs_are_what_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    programs = fused.programs

    class Counting:
        def __init__(self, name: str):
            self.module = programs(name)

        def __getattr__(self, name: str) -> Any:
            launched.append(name)
            return getattr(self.module, name)

    monkeypatch.setattr(fused, "programs", Counting)
    weight_C = torch.ones(4)
    for positions, backward in itertools.product((1, 40), (False, True)):
        x_BCN = torch.randn(1, 4, positions)
        y_BCN, *statistics = fused._forward(x_BCN, weight_C, weight_C, 2, 1e-6, True)
        if backward:
            launched.clear()
            fused._backward(y_BCN, x_BCN, weight_C, weight_C, *statistics, 2, 1e-6, True)
        assert len(launched) == fused.cost(x_BCN, 2, backward=backward).launches
        launched.clear()
