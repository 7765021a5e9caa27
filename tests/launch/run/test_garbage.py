"""Garbage collection in step: off between steps, in time at them, and as before at the end."""

from __future__ import annotations

import gc

import pytest

from launch.run import garbage
from launch.run.garbage import Garbage


def test_objects_are_collected_by_steps_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "YOUNG", 2)
    monkeypatch.setattr(garbage, "ALL", 6)
    seen: list[int | None] = []
    monkeypatch.setattr(gc, "collect", lambda generation=None: seen.append(generation))
    gc.enable()  # whatever an unfinished run of another test has left
    gc.unfreeze()
    collector = Garbage()
    try:
        assert gc.isenabled() and not gc.get_freeze_count(), "not before the first step"
        for _ in range(6):
            collector.step_done()
            assert not gc.isenabled()
        assert seen == [None, 1, 1, 2] and gc.get_freeze_count()
    finally:
        collector.close()
    assert gc.isenabled() and not gc.get_freeze_count()
    Garbage().close()
    assert gc.isenabled()
