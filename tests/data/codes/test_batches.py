"""Codes are read as the index describes them, and nothing else is."""

from __future__ import annotations

import io

import numpy as np
import pytest

from data.codes.batches import decode_codes
from data.shards.sample import DamagedSampleError
from tests.data.making import sample


def test_codes_are_read_and_pickles_are_not() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.uint16).reshape(2, 3))
    assert decode_codes(sample(codes_npy=buffer.getvalue())).tolist() == [[0, 1, 2], [3, 4, 5]]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for bad in (pickled.getvalue(), b"", buffer.getvalue()[:-3]):
        with pytest.raises(DamagedSampleError):
            decode_codes(sample(codes_npy=bad))
