"""The short MNIST pipeline still computes what it computed when mnist_short.json was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import record
from tests.golden.compare import BITS, OTHER_PROCESSOR, SAME_PROCESSOR, differences

RECORDED = json.loads(record.GOLDEN.read_text())


def test_order():
    assert record.order() == RECORDED["order"]


@pytest.mark.slow
def test_the_short_pipeline(tmp_path: Path):
    record.make(tmp_path, masked=False)
    assert not differences(RECORDED, record.record(tmp_path), record.limits_for(RECORDED))


@pytest.mark.parametrize("limits", [BITS, SAME_PROCESSOR, OTHER_PROCESSOR])
def test_a_change_is_noticed(limits):
    """Each kind of limits lets the record itself pass, and none of the changes that it is there for."""
    assert not differences(RECORDED, RECORDED, limits)
    for change in changes():
        assert differences(RECORDED, change, limits), change


def changes() -> list[record.Record]:
    """Records in which something is another that no rounding explains."""
    first, rate, bits, batch, lost = (json.loads(json.dumps(RECORDED)) for _ in range(5))
    first["tokenizer"]["start"][0]["loss/rec"] *= 1.0001
    rate["tokenizer"]["metrics"][1]["optimizer/rate_share"] += 0.02
    bits["prior"]["bits_per_code"] *= 1.2
    batch["order"][1]["batches"]["31"][0][1] += 1
    del lost["masked"]["metrics"][0]["loss/nll_bits"]
    return [first, rate, bits, batch, lost]
