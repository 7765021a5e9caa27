"""Distances between two sets of pictures, from statistics of their features, streamed and summed over ranks.

frechet           Fréchet distance of two Gaussians (Heusel et al. 2017: FID; Nash et al. 2021: sFID), from sums and
                  sums of outer products in float64, over all pictures
score             Inception score (Salimans et al. 2016), over all pictures, in splits
kid               kernel distance (Bińkowski et al. 2018)
precision, recall (Kynkäänniemi et al. 2019)

kid, precision and recall use `kept` pictures of each set, those with the smallest hashes of their keys, which are the
same on any number of ranks. torch-fidelity computes them.

Legend: B batch, N pictures, D features, S splits, Y classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_tokenizer.measuring.features import FeatureNetwork

KEPT, SPLITS, NEIGHBOURS, KID_SUBSETS, KID_SUBSET = 10_000, 10, 3, 100, 1000
SEED = 2020

Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over the ranks."""
Gather = Callable[[Any], list[Any]]
"""Every rank's object, by rank."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set's features."""

    mean_D: Tensor
    """float64."""
    covariance_DD: Tensor
    """float64, divided by N - 1."""


@dataclass(frozen=True)
class SetStatistics:
    """What distances need of a set of pictures; on the CPU."""

    count: int | None
    """Pictures behind the Gaussians; None if a foreign file doesn't say."""
    gaussians: dict[str, Gaussian]
    """Of the `pool` features, and of Inception's `spatial` ones."""
    kept_ND: Tensor
    """`pool` features of the pictures for kid, precision and recall, float32."""
    score: float | None = None
    """The Inception score; None without Inception's logits."""


class SetSums:
    """Sums over this rank's part of a set; `result` gives the statistics of the whole set."""

    def __init__(self, network: FeatureNetwork, device: torch.device, kept: int = KEPT):
        self._kept = kept
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._sums = {
            kind: [torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((width,), (width, width))]
            for kind, width in network.widths.items()
            if kind != "logits"
        }
        # Of each split: pictures, sum over them of p log p, and sum of p.
        self._score_SY = torch.zeros(SPLITS, 2 + network.widths.get("logits", 0), dtype=torch.float64, device=device)
        self._hash_N = np.zeros(0, np.uint64)
        self._pool_ND = np.zeros((0, network.widths["pool"]), np.float32)

    @torch.no_grad()
    def add(self, features: dict[str, Tensor], keys: Sequence[str]) -> None:
        """Add the features (of FeatureNetwork) of some pictures, with the pictures' keys."""
        self._count += len(keys)
        for kind, (sum_D, outer_DD) in self._sums.items():
            h_BD = features[kind].double()
            sum_D += h_BD.sum(0)
            outer_DD.addmm_(h_BD.T, h_BD)
        hash_B = np.array([_hash(key) for key in keys], np.uint64)
        if "logits" in features:
            self._add_score(features["logits"].double(), hash_B)
        kept_B = hash_B < (self._hash_N[-1] if len(self._hash_N) == self._kept else np.iinfo(np.uint64).max)
        if kept_B.any():
            pool_BD = features["pool"].float().cpu().numpy()[kept_B]
            self._keep(np.concatenate([self._hash_N, hash_B[kept_B]]), np.concatenate([self._pool_ND, pool_BD]))

    def _add_score(self, logits_BY: Tensor, hash_B: np.ndarray) -> None:
        share_BY = logits_BY.softmax(1)
        entropy_B = (share_BY * logits_BY.log_softmax(1)).sum(1, keepdim=True)
        split_B = torch.from_numpy((hash_B % np.uint64(SPLITS)).astype(np.int64)).to(logits_BY.device)
        self._score_SY.index_add_(0, split_B, torch.cat([torch.ones_like(entropy_B), entropy_B, share_BY], 1))

    def _keep(self, hash_N: np.ndarray, pool_ND: np.ndarray) -> None:
        order = np.argsort(hash_N, kind="stable")[: self._kept]
        self._hash_N, self._pool_ND = hash_N[order], pool_ND[order]

    def result(self, total: Total = lambda tensor: tensor, gather: Gather = lambda value: [value]) -> SetStatistics:
        """The statistics over all ranks; every rank must call it."""
        count = int(total(self._count))
        gaussians = {}
        for kind, (sum_D, outer_DD) in self._sums.items():
            mean_D = total(sum_D) / max(count, 1)
            scatter_DD = total(outer_DD) - count * torch.outer(mean_D, mean_D)
            gaussians[kind] = Gaussian(mean_D.cpu(), (scatter_DD / max(count - 1, 1)).cpu())
        hash_N = np.sort(np.concatenate(gather(self._hash_N)))[: self._kept]
        mine_N = self._hash_N <= hash_N[-1] if len(hash_N) else np.zeros(0, bool)
        parts = gather((self._hash_N[mine_N], self._pool_ND[mine_N]))
        self._keep(np.concatenate([hash_N for hash_N, _ in parts]), np.concatenate([rows for _, rows in parts]))
        score_SY = total(self._score_SY).cpu() if "spatial" in gaussians else None
        score = None if score_SY is None else inception_score(score_SY)
        return SetStatistics(count, gaussians, torch.from_numpy(self._pool_ND), score)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def inception_score(score_SY: Tensor) -> float:
    """Mean over the splits of exp(E KL(p(y|x) ‖ p(y))), from each split's count, sum of p log p, and sums of p."""
    score_SY = score_SY[score_SY[:, 0] > 0]
    count_S1 = score_SY[:, :1]
    share_SY = score_SY[:, 2:] / count_S1
    divergence_S = (score_SY[:, 1:2] / count_S1)[:, 0] - torch.special.xlogy(share_SY, share_SY).sum(1)
    return float(divergence_S.exp().mean())


def frechet(x: Gaussian, y: Gaussian) -> float:
    """|μx - μy|² + tr(Σx + Σy - 2 (Σx Σy)^½), 0 for equal ones. (Dowson & Landau 1982, eq. 4)

    The last trace is computed as the nuclear norm of Fxᵀ Fy, where F Fᵀ = Σ. The eigenvalues of Σx Σy would contribute
    the square roots of rounding errors for sets with fewer pictures than features.
    """
    cross = torch.linalg.svdvals(_factor(x.covariance_DD).T @ _factor(y.covariance_DD)).sum()
    apart = (x.mean_D - y.mean_D).square().sum()
    return max(0.0, float(apart + x.covariance_DD.trace() + y.covariance_DD.trace() - 2 * cross))


def _factor(covariance_DD: Tensor) -> Tensor:
    """F_DR with F Fᵀ = Σ, of its numerical rank R."""
    value_D, vector_DD = torch.linalg.eigh(covariance_DD)
    real = value_D > value_D[-1].clamp_min(0) * len(value_D) * torch.finfo(value_D.dtype).eps
    return vector_DD[:, real] * value_D[real].sqrt()


def kid(x_ND: Tensor, y_ND: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, mean over subsets of both sets. (Bińkowski et al. 2018)

    It may be negative, and is for two equal sets, where every picture has an identical twin.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KID_SUBSET, len(x_ND), len(y_ND))
    subsets = KID_SUBSETS if size < max(len(x_ND), len(y_ND)) else 1  # there is only one subset with all pictures
    settings = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": SEED, "verbose": False}
    return kid_features_to_metric(x_ND.double(), y_ND.double(), **settings)[KEY_METRIC_KID_MEAN]


def precision_recall(x_ND: Tensor, y_ND: Tensor) -> tuple[float, float]:
    """Share of the measured pictures x in the manifold of the real ones y, and of y in that of x.

    A picture is in a set's manifold if it is as close to one of the set's pictures as that picture's third neighbour.
    (Kynkäänniemi et al. 2019, eq. 1 to 3)
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    settings = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": 2000, "save_cpu_ram": True, "verbose": False}
    result = prc_features_to_metric(x_ND.double(), y_ND.double(), **settings)
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL]


def figures(network: FeatureNetwork, measured: SetStatistics, reference: SetStatistics) -> dict[str, float]:
    """All distances of a measured set from a reference for which both have enough pictures, by name."""
    values: dict[str, float] = {}
    counts = [count for count in (measured.count, reference.count) if count is not None]
    for kind, name in (("pool", "frechet"), ("spatial", "spatial")):
        if min(counts) > 1 and kind in measured.gaussians and kind in reference.gaussians:
            values[name] = frechet(measured.gaussians[kind], reference.gaussians[kind])
    if measured.score is not None:
        values["score"] = measured.score
    x_ND, y_ND = measured.kept_ND, reference.kept_ND
    if min(len(x_ND), len(y_ND)) > 1:
        values["kid"] = kid(x_ND, y_ND)
    if min(len(x_ND), len(y_ND)) > NEIGHBOURS:
        values["precision"], values["recall"] = precision_recall(x_ND, y_ND)
    return {network.names[name]: value for name, value in values.items()}


NEEDED = f"frechet and kid need 2 pictures in each set, precision and recall {NEIGHBOURS + 1}"
"""How many pictures distances need, in words."""

METHOD = {
    "frechet": "Gaussians of all pictures, covariance over N - 1, float64",
    "kid": f"polynomial kernel, {KID_SUBSETS} subsets of at most {KID_SUBSET}, seed {SEED} (torch-fidelity)",
    "precision_recall": f"{NEIGHBOURS} neighbours (torch-fidelity)",
    "score": f"{SPLITS} splits by the hash of a picture's key",
}
"""How the distances are measured, for the result file."""
