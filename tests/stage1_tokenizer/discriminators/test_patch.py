"""The patch discriminator: shapes, receptive field, normalisation over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.config.training import AdversarialConfig
from stage1_tokenizer.discriminators import Discriminator
from stage1_tokenizer.discriminators.norms import BatchNorm
from tests.distributed import run_distributed_test


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_its_patch_and_no_more(layers: int, patch: int) -> None:
    discriminator = Discriminator(AdversarialConfig(channels=4, layers=layers, norm="none"), in_channels=1)
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    logits = discriminator(x)
    assert logits.shape[1] == 1
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = x.grad[0, 0].ne(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [patch, patch]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_norm_and_number_of_axes(norm: str, dims: int) -> None:
    discriminator = Discriminator(AdversarialConfig(channels=4, layers=2, norm=norm), 1, dims)
    logits = discriminator(torch.randn(2, 1, *[32] * dims))
    assert logits.shape == (2, 1, *([6] * dims if dims < 3 else [8, 6, 6]))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_names_are_taming_transformers() -> None:
    state = Discriminator(AdversarialConfig(), in_channels=3).state_dict()
    assert state["main.0.weight"].shape == (64, 3, 4, 4)
    assert state["main.2.weight"].shape == (128, 64, 4, 4)
    assert state["main.3.weight"].shape == (128,)
    assert state["main.8.weight"].shape == (512, 256, 4, 4)
    assert state["main.11.weight"].shape == (1, 512, 4, 4)
    assert "main.2.bias" not in state


def normalised(rank: int, ranks: int) -> list[np.ndarray]:
    """Output and gradients for this rank's part of a batch; the loss is the sum over the global batch."""
    torch.manual_seed(0)
    h, weights = torch.randn(4, 3, 5, 6, dtype=torch.float64) * 2 + 1, torch.randn(4, 3, 5, 6, dtype=torch.float64)
    norm = BatchNorm(3).double()
    mine = h.chunk(ranks)[rank].requires_grad_()
    out = norm(mine)
    (out * weights.chunk(ranks)[rank]).sum().backward()
    return [tensor.detach().numpy() for tensor in (out, mine.grad, norm.weight.grad, norm.bias.grad)]


def on_rank() -> list[np.ndarray]:
    return normalised(torch.distributed.get_rank(), torch.distributed.get_world_size())


def test_batch_norm_is_of_the_global_batch() -> None:
    out, towards_h, towards_weight, towards_bias = normalised(0, 1)
    ranks = run_distributed_test(on_rank)
    np.testing.assert_allclose(np.concatenate([rank[0] for rank in ranks]), out)
    np.testing.assert_allclose(np.concatenate([rank[1] for rank in ranks]), towards_h, atol=1e-12)
    np.testing.assert_allclose(sum(rank[2] for rank in ranks), towards_weight)
    np.testing.assert_allclose(sum(rank[3] for rank in ranks), towards_bias)


def test_batch_norm_alone_is_torchs() -> None:
    h = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(BatchNorm(4)(h), F.batch_norm(h, None, None, training=True))
