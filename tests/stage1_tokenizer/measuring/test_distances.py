"""Distances between sets: against second implementations on the same features, and one process against several."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from launch.ranks.reduce import all_sum
from stage1_tokenizer.measuring import distances
from stage1_tokenizer.measuring.distances import (
    Gaussian,
    SetStatistics,
    SetSums,
    figures,
    frechet,
    kid,
    precision_recall,
)
from stage1_tokenizer.measuring.features import FeatureNetwork
from tests.distributed import run_distributed_test

WIDTHS = {"pool": 24, "spatial": 40, "logits": 7}


class Named(FeatureNetwork):
    """What SetSums and figures need of a network: here the features are given."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = WIDTHS
        self.names = {name: name for name in ("frechet", "spatial", "score", "kid", "precision", "recall")}


def features(count: int, seed: int, shift: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = {kind: torch.randn(width, width, generator=generator) for kind, width in WIDTHS.items()}
    return {kind: torch.randn(count, len(m), generator=generator) @ m * (1 + shift) + shift for kind, m in mix.items()}


def keys(count: int) -> list[str]:
    return [f"picture-{number}" for number in range(count)]


def gaussian(h_ND: torch.Tensor) -> Gaussian:
    return Gaussian(h_ND.double().mean(0), h_ND.double().T.cov())


def statistics(h: dict[str, torch.Tensor], kept: int = 1000, batch: int = 7) -> SetStatistics:
    sums = SetSums(Named(), torch.device("cpu"), kept)
    names = keys(len(h["pool"]))
    for start in range(0, len(names), batch):
        sums.add({kind: rows[start : start + batch] for kind, rows in h.items()}, names[start : start + batch])
    return sums.result()


@pytest.mark.parametrize("count", [400, 60, 15])  # more pictures than features, and fewer
def test_frechet_is_scipys_and_torch_fidelitys(count: int):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x_ND, y_ND = features(count, 0)["spatial"], features(count, 1, 0.3)["spatial"]
    ours = frechet(gaussian(x_ND), gaussian(y_ND))
    x, y = (fid_features_to_statistics(h_ND.double()) for h_ND in (x_ND, y_ND))
    assert ours == pytest.approx(fid_statistics_to_metric(x, y, False)["frechet_inception_distance"], rel=1e-6)
    root_DD = scipy.linalg.sqrtm(x["sigma"] @ y["sigma"])
    apart = ((x["mu"] - y["mu"]) ** 2).sum()
    assert ours == pytest.approx(apart + np.trace(x["sigma"] + y["sigma"] - 2 * root_DD.real), rel=1e-6)


@pytest.mark.parametrize("count", [400, 15])
def test_the_distance_of_a_set_from_itself_is_zero(count: int):
    h = features(count, 2)
    one = statistics(h)
    found = figures(Named(), one, one)
    for name, kind in (("frechet", "pool"), ("spatial", "spatial")):
        assert 0 <= found[name] <= 1e-12 * float(one.gaussians[kind].covariance_DD.trace())
    assert found["precision"] == found["recall"] == 1
    assert found["kid"] < 0  # unbiased: a picture meets its twin in the other set, but not itself in its own


def test_streamed_statistics_are_those_of_all_features_at_once():
    h = features(53, 3)
    found = statistics(h)
    assert found.count == 53
    for kind, one in found.gaussians.items():
        wanted = gaussian(h[kind])
        assert torch.allclose(one.mean_D, wanted.mean_D, rtol=1e-12, atol=1e-12)
        assert torch.allclose(one.covariance_DD, wanted.covariance_DD, rtol=1e-9, atol=1e-10)
    order = np.argsort([distances._hash(key) for key in keys(53)])
    assert torch.equal(found.kept_ND, h["pool"][order])
    assert torch.equal(statistics(h, kept=20).kept_ND, h["pool"][order[:20]])
    assert torch.equal(statistics(h, kept=20, batch=1).kept_ND, h["pool"][order[:20]])


def test_the_inception_score_is_torch_fidelitys_over_splits_by_key():
    from torch_fidelity.metric_isc import isc_features_to_metric

    h = features(90, 5)
    split = np.array([distances._hash(key) % distances.SPLITS for key in keys(90)])
    parts = [h["logits"][torch.from_numpy(split == number)] for number in range(distances.SPLITS)]
    wanted = [isc_features_to_metric(part, splits=1)["inception_score_mean"] for part in parts if len(part)]
    assert statistics(h).score == pytest.approx(np.mean(wanted), rel=1e-9)


def test_kid_is_the_textbooks_on_all_pictures():
    x_ND, y_ND = (features(40, seed, seed / 9)["pool"].double() for seed in (1, 2))
    kernel = [(a @ b.T / 24 + 1) ** 3 for a, b in ((x_ND, x_ND), (y_ND, y_ND), (x_ND, y_ND))]
    own = sum((k.sum() - k.trace()) / (40 * 39) for k in kernel[:2])
    assert kid(x_ND.float(), y_ND.float()) == pytest.approx(float(own - 2 * kernel[2].mean()), rel=1e-4)


def test_precision_and_recall_are_the_textbooks():
    x_ND, y_ND = features(50, 6)["pool"], features(60, 9)["pool"]

    def share_among(a_ND: torch.Tensor, b_ND: torch.Tensor) -> float:
        radius = [sorted(float((b - c).norm()) for c in b_ND)[distances.NEIGHBOURS] for b in b_ND]
        inside = [any(float((a - b).norm()) <= r for b, r in zip(b_ND, radius, strict=True)) for a in a_ND]
        return sum(inside) / len(inside)

    assert precision_recall(x_ND, y_ND) == pytest.approx((share_among(x_ND, y_ND), share_among(y_ND, x_ND)))
    assert 0 < share_among(x_ND, y_ND) < share_among(y_ND, x_ND) <= 1


def _plain(found: SetStatistics) -> list[np.ndarray]:
    gaussians = [part.numpy() for one in found.gaussians.values() for part in (one.mean_D, one.covariance_DD)]
    return [*gaussians, found.kept_ND.numpy(), np.array([found.count, found.score])]


def _part(rank_sizes: list[int]) -> list[np.ndarray]:
    """The statistics of a set of which each rank has as many pictures as said."""
    import torch.distributed as dist

    def gather(value: object) -> list[object]:
        found: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value)
        return found

    rank = dist.get_rank()
    part = slice(sum(rank_sizes[:rank]), sum(rank_sizes[: rank + 1]))
    h = features(sum(rank_sizes), 7)
    sums = SetSums(Named(), torch.device("cpu"), kept=30)
    for number in range(sum(rank_sizes))[part]:
        sums.add({kind: rows[number : number + 1] for kind, rows in h.items()}, keys(45)[number : number + 1])
    return _plain(sums.result(all_sum, gather))


def test_the_settings_are_the_published_ones():
    """Salimans et al. 2016: 10 splits; Bińkowski et al. 2018: 100 subsets of 1000; Kynkäänniemi et al. 2019: k = 3."""
    assert (distances.SPLITS, distances.KID_SUBSETS, distances.KID_SUBSET, distances.NEIGHBOURS) == (10, 100, 1000, 3)
    assert (distances.KEPT, distances.SEED) == (10_000, 2020)
    assert distances.METHOD["score"].startswith("10 splits")


def test_uneven_ranks_agree_with_one_process():
    one = _plain(statistics(features(45, 7), kept=30))
    for found in run_distributed_test(_part, 2, [[38, 7]]):
        for mine, wanted in zip(found, one, strict=True):
            assert np.allclose(mine, wanted, rtol=1e-9, atol=1e-10)
