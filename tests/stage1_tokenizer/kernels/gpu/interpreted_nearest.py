"""The search for nearest codes in Triton's interpreter on the CPU, against the plain form and float64.

test_interpreted.py runs this file in a process of its own, as TRITON_INTERPRET must be set before triton is imported.
"""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.kernels.gpu import nearest as fused
from stage1_tokenizer.quantizers.nearest import plain_search


@pytest.mark.parametrize("dim", [1, 8, 18, 32, 50])
@pytest.mark.parametrize(("count", "size"), [(70, 150), (5, 1), (64, 64)])
def test_codes_are_those_of_float64(count: int, size: int, dim: int) -> None:
    """Also those of a float32 search, whose rounding is far below these gaps."""
    torch.manual_seed(dim)
    z_ND, code_KD = torch.randn(count, dim) + 1, torch.randn(size, dim)
    distance_NK = torch.cdist(z_ND.double(), code_KD.double()).square()
    first_N2 = distance_NK.topk(min(2, size), largest=False).values
    clear_N = (first_N2[:, -1] - first_N2[:, 0] > 1e-5) | (size == 1)
    assert clear_N.sum() > 0.9 * count
    mine_N = fused.by_triton(z_ND, code_KD)
    assert mine_N.dtype == torch.int64 and mine_N.shape == (count,)
    assert torch.equal(mine_N[clear_N], distance_NK.argmin(1)[clear_N])
    assert torch.equal(mine_N[clear_N], plain_search(z_ND, code_KD)[clear_N])


def test_the_lowest_of_equal_codes_wins_in_a_tile_and_between_tiles_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LEAST_TILES", 1)
    digits = torch.cartesian_prod(*[torch.arange(3.0) - 1] * 4)[:30]  # without rounding
    code_KD = digits.repeat(9, 1)  # 270 codes: 5 tiles, each code nine times
    z_ND = torch.cat([code_KD[:30] + 0.125, code_KD[200:250]])
    assert torch.equal(fused.by_triton(z_ND, code_KD), torch.cat([torch.arange(30), torch.arange(200, 250) % 30]))
    twins_KD = torch.zeros(70, 4)
    assert not fused.by_triton(z_ND, twins_KD).any()


def test_shares_are_many_and_the_last_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LEAST_TILES", 1)
    monkeypatch.setattr(fused, "PROGRAMS", 4)
    torch.manual_seed(0)
    z_ND, code_KD = torch.randn(66, 8), torch.randn(290, 8)
    assert torch.equal(fused.by_triton(z_ND, code_KD), plain_search(z_ND, code_KD))


def test_inputs_of_other_layouts() -> None:
    torch.manual_seed(0)
    z_DN, code_KD = torch.randn(8, 20), torch.randn(40, 16)[:, ::2]
    assert torch.equal(fused.by_triton(z_DN.T, code_KD), plain_search(z_DN.T, code_KD))
    assert fused.by_triton(z_DN.T[:0], code_KD).shape == (0,)


def test_what_is_no_number_is_never_nearest() -> None:
    z_ND, code_KD = torch.full((3, 4), torch.nan), torch.randn(20, 4)
    idx_N = fused.by_triton(z_ND, code_KD)
    assert not idx_N.any()
    code_KD[4] = torch.nan
    z_ND = torch.randn(50, 4)
    rest_K = torch.tensor([number for number in range(20) if number != 4])
    assert torch.equal(fused.by_triton(z_ND, code_KD), rest_K[plain_search(z_ND, code_KD[rest_K])])
