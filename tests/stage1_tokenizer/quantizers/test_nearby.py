"""The codes nearest to a code, against brute force, and latents of perturbed codes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage1_tokenizer.config.perturb import PerturbConfig
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import Quantizer, build_quantizer
from stage1_tokenizer.quantizers.nearby import drawn_ranks, nearby_levels

CODES, NEAREST = 32, 7
KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "vq l2": {"l2_normalise": True},
    "vq simvq": {"reparametrise": "linear"},
    "fsq": {"levels": [4, 3, 5]},
    "lfq": {},
    "bsq": {},
    "gumbel": {},
    "ibq": {},
    "residual": {},
    "residual dac": {"l2_normalise": True, "projections": "each"},
    "product": {},
    "multiscale": {"scales": [1, 2, 4]},
}


def built(name: str, **changes: Any) -> Quantizer:
    torch.manual_seed(0)
    settings = {"kind": name.split()[0], "codebook_size": CODES, "code_dim": 4} | KINDS[name] | changes
    return build_quantizer(QuantizerConfig(**settings))


def far(quantizer: Quantizer) -> list[Tensor]:
    """Of each codebook the distance of every code from every code, (K, K) float64."""
    config = quantizer.config
    if config.kind in ("fsq", "lfq", "bsq"):
        levels = config.levels if config.kind == "fsq" else [2] * 5
        grid = torch.tensor(list(itertools.product(*(range(size) for size in levels)))).double()
        if config.kind == "fsq":  # whose first channel is the least significant digit
            grid = torch.tensor([row[::-1] for row in itertools.product(*(range(size) for size in levels[::-1]))])
        return [torch.cdist(grid.double(), grid.double(), p=1)]
    books = list(getattr(quantizer, "parts", [])) or [getattr(quantizer, "codebook", quantizer)]
    vectors = [book.rows(torch.arange(CODES)).detach().double() for book in books]
    if config.projections == "each":
        vectors = [torch.nn.functional.normalize(vector, dim=1) for vector in vectors]
    return [torch.cdist(vector, vector, compute_mode="donot_use_mm_for_euclid_dist") for vector in vectors]


@pytest.mark.parametrize("name", KINDS)
def test_they_are_the_nearest_by_brute_force(name: str):
    quantizer = built(name).eval()
    idx_Bhw = torch.randint(quantizer.codebook_size, (3, *quantizer.codes_shape((4, 4))))
    moved = torch.stack([quantizer.nearby(idx_Bhw, torch.full_like(idx_Bhw, rank), NEAREST) for rank in range(NEAREST)])
    assert torch.equal(moved[0], idx_Bhw), "a code is its own nearest"
    assert torch.equal(quantizer.nearby(idx_Bhw, torch.full_like(idx_Bhw, 99), NEAREST), moved[-1])
    for number, far_KK in enumerate(far(quantizer)):
        own, near = (idx_Bhw, moved) if quantizer.codebooks == 1 else (idx_Bhw[:, number], moved[:, :, number])
        expected = far_KK.sort(dim=1).values[own.flatten()][:, :NEAREST].T
        found = far_KK[own.flatten(), near.flatten(1)]
        assert torch.allclose(found, expected, atol=1e-5)
        assert all(len(set(column)) == NEAREST for column in near.flatten(1).T.tolist()), "each rank another code"


def test_levels_need_no_codebook_and_have_room_at_corners():
    digit_ND = torch.zeros(100, 36, dtype=torch.int64)  # as for 2^36 codes
    moved_ND = nearby_levels([2] * 36, digit_ND, torch.arange(100), 100)
    assert (moved_ND >= 0).all() and len({tuple(row) for row in moved_ND.tolist()}) == 100
    assert moved_ND.sum(1).tolist() == [0, *[1] * 36, *[2] * 63]
    everything = nearby_levels([2, 3], torch.zeros(9, 2, dtype=torch.int64), torch.arange(9), 99)
    assert len({tuple(row) for row in everything.tolist()}) == 6


@pytest.mark.parametrize("name", KINDS)
def test_only_the_chosen_samples_are_decoded_from_other_codes(name: str):
    quantizer = built(name, perturb=PerturbConfig(samples=0.5, nearest=NEAREST))
    z_BDhw = torch.randn(3, quantizer.input_channels, 4, 4, requires_grad=True)
    made = quantizer(z_BDhw)
    assert made.codes is not None
    rows_X, ranks = torch.tensor([2]), torch.randint(1, NEAREST, made.codes[:1].shape)
    unmoved = quantizer.perturbed(made, (rows_X, ranks * 0))
    assert torch.equal(unmoved, made.latents), "rank 0 changes no bit"
    moved = quantizer.perturbed(made, (rows_X, ranks))
    assert torch.equal(moved[:2], made.latents[:2]) and not torch.equal(moved[2], made.latents[2])
    expected = quantizer.embed(quantizer.nearby(made.codes[2:], ranks, NEAREST))
    assert torch.allclose(moved[2:], expected, atol=1e-6)
    weight = torch.randn_like(moved)
    grads = [
        torch.autograd.grad((latents * weight).sum(), z_BDhw, retain_graph=True)[0] for latents in (moved, made.latents)
    ]
    assert torch.equal(*grads), "the gradient is that of the latents as they were"


def test_ranks_are_binomial_and_uniform():
    uniform_X2N = np.random.default_rng(0).random((50, 2, 1000))
    assert not drawn_ranks(uniform_X2N, 0.0, 10).any() and not drawn_ranks(uniform_X2N, 1.0, 1).any()
    rank_XN, count = drawn_ranks(uniform_X2N, 0.4, 10), 50_000
    for rank in range(1, 10):
        spread = math.sqrt(count * 0.04 * 0.96)
        assert abs((rank_XN == rank).sum() - count * 0.04) < 4.5 * spread
    assert rank_XN.max() == 9 and (rank_XN == 0).mean() == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "gaussian", "perturb": PerturbConfig(samples=0.1)}, "is not for gaussian: set it to 0"),
        (
            {"kind": "residual", "codebook_dropout": 0.5, "perturb": PerturbConfig(samples=0.1)},
            "is not supported with codebook_dropout",
        ),
    ],
)
def test_what_is_not_supported_is_one_line(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=rf"^model\.quantizer\.perturb\.samples=0\.1 {message}") as told:
        QuantizerConfig(**settings)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"perturb\.share=2 is out of range"):
        PerturbConfig(share=2)
