"""The learned codebook: nearest code, gradients, both ways of learning, revival, one rank and two."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer
from stage1_tokenizer.quantizers import nearest as search
from stage1_tokenizer.quantizers.gaussian import Gaussian
from stage1_tokenizer.quantizers.nearest import draw_rows, nearest_code
from stage1_tokenizer.quantizers.vq import VectorQuantizer
from tests.distributed import run_distributed_test

GRADIENT = QuantizerConfig(codebook_size=32, code_dim=6, start="batch", revive_after=2)
AVERAGE = replace(GRADIENT, learning="moving_average", decay=0.8)
SPHERE = replace(GRADIENT, l2_normalise=True)
KINDS = [GRADIENT, AVERAGE, SPHERE, replace(AVERAGE, l2_normalise=True)]


def latents(seed: int = 0, batch: int = 4) -> Tensor:
    return torch.randn(batch, 6, 4, 5, generator=torch.Generator().manual_seed(seed))


def trained(config: QuantizerConfig, steps: int = 3) -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(config).train()
    for step in range(steps):
        quantizer(latents(step))
    return quantizer


@pytest.mark.parametrize(("rows", "codes"), [(1, 1), (7, 5), (64, 16), (33, 49)])
def test_search_by_tiles_equals_the_full_matrix(monkeypatch: pytest.MonkeyPatch, rows: int, codes: int) -> None:
    monkeypatch.setattr(search, "CPU_TILE", (16, 16))
    z_ND, code_KD = torch.randn(rows, 3, dtype=torch.float64), torch.randn(codes, 3, dtype=torch.float64)
    assert torch.equal(nearest_code(z_ND, code_KD), torch.cdist(z_ND, code_KD).argmin(1))


def test_search_takes_the_lowest_of_equal_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CPU_TILE", (4, 4))
    code_KD = torch.tensor([[5.0], [1.0], [1.0], [7.0], [1.0], [1.0]])
    assert nearest_code(torch.tensor([[1.0]]), code_KD).tolist() == [1]


def test_search_refuses_half_precision() -> None:
    with pytest.raises(ValueError, match="float32"):
        nearest_code(torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"latents are torch\.float64 and codes torch\.float32"):
        nearest_code(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="latents have 3 channels and codes 4: they must agree"):
        nearest_code(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("config", KINDS)
def test_codes_embed_to_what_the_decoder_saw_and_back(config: QuantizerConfig) -> None:
    quantizer = trained(replace(config, revive_after=0)).eval()
    made = quantizer(latents())
    assert made.codes.shape == (4, 4, 5)
    assert made.codes.dtype == torch.int64
    assert torch.equal(quantizer.embed(made.codes), made.latents)
    assert torch.equal(quantizer(made.latents).codes, made.codes)


def test_gradient_passes_straight_through() -> None:
    quantizer = trained(GRADIENT)
    z = latents().requires_grad_()
    weights = torch.randn(z.shape)
    (quantizer(z).latents * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_losses_are_the_papers_and_legacy_swaps_beta() -> None:
    z = latents().requires_grad_()
    for placement, on_latents, on_codes in (("paper", 0.25, 1.0), ("legacy", 1.0, 0.25)):
        quantizer = trained(replace(GRADIENT, revive_after=0, beta_placement=placement))
        made = quantizer(z)
        difference = (made.latents - z).detach()
        (towards_z,) = torch.autograd.grad(sum(made.losses.values()), z, retain_graph=True)
        torch.testing.assert_close(towards_z, -2 * on_latents * difference / z.numel())
        (towards_codes,) = torch.autograd.grad(made.losses["codebook"], quantizer.embedding.weight)
        rows = difference.movedim(1, -1).flatten(0, -2)
        expected = torch.zeros(32, 6).index_add_(0, made.codes.flatten(), 2 * on_codes * rows / z.numel())
        torch.testing.assert_close(towards_codes, expected)


def test_moving_average_follows_its_equation() -> None:
    quantizer = trained(replace(AVERAGE, revive_after=0), steps=1)
    share, total = quantizer.statistics.share_K.clone(), quantizer.statistics.sum_KD.clone()
    z = latents(9)
    codes = quantizer(z).codes.flatten()
    one_hot = F.one_hot(codes, 32).float()
    share = 0.8 * share + 0.2 * one_hot.sum(0)
    total = 0.8 * total + 0.2 * one_hot.T @ z.movedim(1, -1).flatten(0, -2)
    used = one_hot.sum(0) > 0
    torch.testing.assert_close(quantizer.embedding.weight[used], (total / share[:, None])[used])
    assert not quantizer.embedding.weight.requires_grad


def test_dead_codes_come_back_from_the_batch() -> None:
    quantizer = trained(replace(GRADIENT, start="uniform"), steps=2)
    dead = quantizer.statistics.used_K == 0
    assert 0 < int(dead.sum()) < 32
    before = quantizer.embedding.weight.detach().clone()
    z = latents(5)
    quantizer(z)
    rows = z.movedim(1, -1).flatten(0, -2)
    after = quantizer.embedding.weight.detach()
    assert torch.equal(after[~dead], before[~dead])
    assert (torch.cdist(after[dead], rows).min(1).values < 1e-6).all()


def in_rows(codes: Tensor, rows: Tensor) -> bool:
    return {tuple(code) for code in codes.tolist()} <= {tuple(row) for row in rows.tolist()}


def test_a_revived_code_of_a_moving_average_begins_with_one_use() -> None:
    quantizer = trained(replace(AVERAGE, start="uniform"), steps=2)
    state = quantizer.statistics
    assert state.share_K is not None and state.sum_KD is not None
    dead = state.used_K == 0
    assert 0 < int(dead.sum()) < 32
    share, total = state.share_K.clone(), state.sum_KD.clone()
    rows = latents(5).movedim(1, -1).flatten(0, -2)
    quantizer.begin(len(rows))
    quantizer.revive(rows)
    assert in_rows(quantizer.embedding.weight[dead], rows)
    assert torch.equal(state.share_K, torch.where(dead, 1.0, share))
    assert torch.equal(state.sum_KD, torch.where(dead[:, None], quantizer.embedding.weight, total))
    assert not state.used_K.any(), "uses are counted anew"


@pytest.mark.parametrize("start", ["batch", "kmeans"])
def test_the_first_codes_are_rows_of_the_batch_or_its_centres(start: str) -> None:
    quantizer = VectorQuantizer(replace(AVERAGE, start=start)).train()
    rows = latents(5).movedim(1, -1).flatten(0, -2)
    quantizer.begin(len(rows))
    quantizer.revive(rows)
    codes = quantizer.embedding.weight
    assert in_rows(codes, rows) == (start == "batch")
    if start == "kmeans":
        torch.testing.assert_close(codes, search.kmeans(rows, 32, seed=0))
    state = quantizer.statistics
    assert state.share_K is not None and state.sum_KD is not None
    assert (state.share_K == 1).all() and not state.sum_KD.any()


def test_codes_start_small_or_normal_where_a_matrix_moves_them() -> None:
    torch.manual_seed(0)
    small = VectorQuantizer(QuantizerConfig(codebook_size=64, code_dim=16)).embedding.weight
    assert 0.9 / 64 < small.max().item() <= 1 / 64 and -1 / 64 <= small.min().item() < -0.9 / 64
    config = QuantizerConfig(codebook_size=64, code_dim=16, reparametrise="linear")
    assert VectorQuantizer(config).embedding.weight.std().item() == pytest.approx(16**-0.5, rel=0.1)


def test_a_step_with_latents_that_are_not_finite_moves_no_code_and_counts_no_use() -> None:
    quantizer = trained(replace(AVERAGE, revive_after=0))
    state = quantizer.statistics
    assert state.share_K is not None and state.sum_KD is not None
    before = quantizer.embedding.weight.clone(), state.used_K.clone(), state.sum_KD / state.share_K[:, None]
    z = latents(9)
    z[0, 0, 0, 0] = torch.nan
    quantizer(z)
    assert torch.equal(quantizer.embedding.weight, before[0]) and torch.equal(state.used_K, before[1])
    torch.testing.assert_close(state.sum_KD / state.share_K[:, None], before[2])
    assert state.steps == 4


def test_evaluation_changes_nothing() -> None:
    for config in KINDS:
        quantizer = trained(config).eval()
        before = {name: value.clone() for name, value in quantizer.state_dict().items()}
        quantizer(latents(7))
        assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("config", KINDS)
def test_saved_and_resumed_is_bit_exact(config: QuantizerConfig) -> None:
    quantizer, other = trained(config), VectorQuantizer(config).train()
    other.load_state_dict(quantizer.state_dict())
    for step in range(3, 6):
        first, second = quantizer(latents(step)), other(latents(step))
        assert torch.equal(first.latents, second.latents)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("config", KINDS)
def test_a_codebook_without_statistics_is_not_drawn_anew(config: QuantizerConfig) -> None:
    weights = trained(config).state_dict()
    other = VectorQuantizer(config).train()
    other.load_state_dict({"embedding.weight": weights["embedding.weight"]})
    other(latents(8))
    used = other.statistics.used_K > 0
    assert torch.equal(other.embedding.weight[~used], weights["embedding.weight"][~used])
    if config.learning == "gradient":
        assert torch.equal(other.embedding.weight, weights["embedding.weight"])


def statistics(config: QuantizerConfig, rank: int, ranks: int) -> dict[str, np.ndarray]:
    """State and codes after some steps on this rank's part of the batches."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(config).train()
    codes = [quantizer(latents(step).chunk(ranks)[rank]).codes for step in range(5)]
    state = {name: value.detach().numpy() for name, value in quantizer.state_dict().items()}
    return state | {"codes": torch.stack(codes).numpy()}


def on_rank() -> list[dict[str, np.ndarray]]:
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return [statistics(config, rank, ranks) for config in KINDS]


def test_two_ranks_hold_the_statistics_of_one_process() -> None:
    first, second = run_distributed_test(on_rank)
    for number, config in enumerate(KINDS):
        alone = statistics(config, 0, 1)
        codes = np.concatenate([first[number].pop("codes"), second[number].pop("codes")], axis=1)
        assert np.array_equal(codes, alone.pop("codes"))
        for name, value in alone.items():
            np.testing.assert_allclose(first[number][name], value, rtol=1e-6, atol=1e-7, err_msg=name)
            assert np.array_equal(first[number][name], second[number][name]), name


def test_rows_are_drawn_without_repetition_while_there_are_enough() -> None:
    z_ND = torch.arange(12.0)[:, None]
    assert sorted(draw_rows(z_ND, 12, seed=3).flatten().tolist()) == list(range(12))
    assert sorted(draw_rows(z_ND, 24, seed=3).flatten().tolist()) == sorted([*range(12)] * 2)


def test_bf16_latents_are_searched_in_float32() -> None:
    quantizer = trained(GRADIENT).eval()
    z = latents().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        made = quantizer(z)
    assert torch.equal(made.codes, quantizer(z.float()).codes)
    assert made.latents.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 6, 3, 4), (2, 6, 2, 3, 4)])
def test_any_number_of_spatial_axes(shape: tuple[int, ...]) -> None:
    made = trained(GRADIENT)(torch.randn(shape))
    assert made.latents.shape == shape
    assert made.codes.shape == (shape[0], *shape[2:])


def test_gaussian_draws_with_its_deviation_within_bounds() -> None:
    """A log-variance is held in [-30, 20], so that no network can make its exponential overflow."""
    quantizer = build_quantizer(QuantizerConfig(kind="gaussian", code_dim=3, kl_weight=1.0)).train()
    torch.manual_seed(0)
    logvar = torch.tensor([2 * math.log(0.5), 2 * math.log(3.0), 0.0])
    z = torch.cat([torch.tensor([1.0, -2.0, 0.0]), logvar]).view(1, 6, 1, 1).expand(20_000, -1, -1, -1)
    drawn = quantizer(z).latents.flatten(1)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0, 0.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.5, 3.0, 1.0]), rtol=0.03, atol=0)
    for given, held in ((25.0, 20.0), (15.0, 15.0), (-40.0, -30.0), (-20.0, -20.0)):
        loss = quantizer(torch.cat([torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), given)], dim=1)).losses["kl"]
        assert loss.item() == pytest.approx((math.exp(held) - 1 - held) / 2, rel=1e-5)


def test_gaussian_is_a_vaes() -> None:
    quantizer = build_quantizer(QuantizerConfig(kind="gaussian", code_dim=3, kl_weight=2.0))
    assert isinstance(quantizer, Gaussian)
    z = latents()
    made = quantizer.eval()(z)
    mean, logvar = z.chunk(2, dim=1)
    assert torch.equal(made.latents, mean)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(made.losses["kl"], 2 * divergence)
    many = quantizer.train()(z[:1].expand(4000, -1, -1, -1)).latents
    torch.testing.assert_close(many.mean(0), mean[0], rtol=0, atol=0.3)
    with pytest.raises(TypeError, match="no codes"):
        quantizer.embed(torch.zeros(1, 2, 2, dtype=torch.int64))


def _counted(most: int) -> tuple[Tensor, Tensor]:
    search.MOST_EXACT = most
    rank = torch.distributed.get_rank()
    z_ND = torch.randn(30, 5, generator=torch.Generator().manual_seed(rank))
    return search.sums_by_code(z_ND, torch.arange(30) * (rank + 1) % 7, 9)


def test_counts_and_sums_of_two_ranks_are_the_same_in_one_reduction_as_in_two() -> None:
    apart, joined = run_distributed_test(_counted, args=(0,)), run_distributed_test(_counted, args=(1000,))
    for (count_K, sum_KD), (other_K, other_KD) in zip(apart, joined, strict=True):
        assert count_K.dtype == other_K.dtype == torch.int64
        assert torch.equal(count_K, other_K) and torch.equal(sum_KD, other_KD)
    assert int(apart[0][0].sum()) == 60 and apart[0][0][7:].tolist() == [0, 0]
