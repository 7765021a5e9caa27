"""Key, label and files of one sample, or a reason why there is none."""

from __future__ import annotations

import pytest

from data.shards.sample import DamagedSampleError, label, read_sample
from tests.data.making import sample


def test_labels() -> None:
    assert label(sample(cls=b" 3\n"), 5) == 3
    assert label(sample(jpg=b""), 5) == -1
    assert label(sample(cls=b"1234"), 0) == 1234
    for bad in (b"5", b"-1", b"cat", b"", b"\xff\xfe"):
        with pytest.raises(DamagedSampleError):
            label(sample(cls=bad), 5)


def test_a_stretch_of_noise_is_no_sample() -> None:
    for bad in (b"", b"\0" * 1024, bytes(range(256)) * 4):
        with pytest.raises(DamagedSampleError):
            read_sample(bad)
