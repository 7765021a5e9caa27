from __future__ import annotations

import pytest

from stage2_prior.codes.batch_size import largest


@pytest.mark.parametrize(
    ("room", "found"), [(100, 32), (64, 32), (63, 16), (16, 8), (10, 4), (1, 1), (0, 1), (10**9, 2048)]
)
def test_half_of_what_fits_is_taken(room: int, found: int):
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= room

    assert largest(fits) == found
    assert len(tried) == len(set(tried)), "nothing is tried twice"
