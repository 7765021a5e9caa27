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


@pytest.mark.parametrize("shape", [(4, 4), (680,), (2, 3, 3), (0, 4), ()])
@pytest.mark.parametrize("kind", [np.uint16, np.int64, ">i4"])
def test_codes_are_what_numpy_wrote(shape: tuple[int, ...], kind: type) -> None:
    written = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape)
    buffer = io.BytesIO()
    np.save(buffer, written)
    read = decode_codes(sample(codes_npy=buffer.getvalue()))
    assert (read.dtype, read.shape) == (written.dtype, shape)
    assert read.tolist() == written.tolist()
    assert read.flags.writeable


def test_threads_do_not_parse_headers_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.11 that ended in a SystemError at times (python/cpython#106905)."""
    monkeypatch.setattr("ast.parse", None)
    test_codes_are_what_numpy_wrote((16, 16), np.uint16)
