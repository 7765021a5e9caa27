"""The kernel for group normalization with swish against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.kernels.cpu import group_norm
from stage1_tokenizer.kernels.cpu.group_norm import FastNorm


@pytest.mark.parametrize(("channels", "groups", "height"), [(32, 32, 4), (64, 8, 6), (96, 32, 5)])
def test_values_and_gradients_are_torchs(
    channels: int, groups: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_norm, "LEAST_VALUES", 1)
    monkeypatch.setattr(group_norm, "PIECE", 7 * channels)  # several pieces, the last one smaller
    torch.manual_seed(0)
    norm = FastNorm(channels).double()
    norm.num_groups = groups
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = (torch.randn(2, channels, height, 8, dtype=torch.float64) + 3).to(memory_format=torch.channels_last)
    sources = [x.requires_grad_(), norm.weight, norm.bias]
    towards = torch.randn(x.shape, dtype=torch.float64)

    def found(result: Tensor) -> list[Tensor]:
        return [result.detach(), *torch.autograd.grad((result * towards).sum(), sources)]

    ours = norm(sources[0])
    assert "GroupNormSwish" in ours.grad_fn.name()
    theirs = F.silu(F.group_norm(sources[0], groups, sources[1], sources[2], 1e-6))
    for mine, other in zip(found(ours), found(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_elsewhere_torch_does_it() -> None:
    x = torch.randn(1, 32, 128, 128, requires_grad=True)  # the other layout
    last = x.to(memory_format=torch.channels_last)
    norm = FastNorm(32)
    assert "Silu" in norm(x).grad_fn.name()
    assert "GroupNormSwish" in norm(last).grad_fn.name()
    assert "GroupNorm" in FastNorm(32, swish=False)(last).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert "Silu" in norm(last).grad_fn.name()
