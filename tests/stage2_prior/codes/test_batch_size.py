from __future__ import annotations

import pytest

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage2_prior.codes.batch_size import batch_size, largest


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


def test_on_cpus_fewer_large_pictures_are_encoded_at_once():
    tokenizer = Tokenizer(ModelConfig(channels=8, channel_multipliers=[1]))
    assert [batch_size(tokenizer, (side, side)) for side in (28, 64, 128, 256, 384, 1024)] == [64, 64, 16, 4, 1, 1]
