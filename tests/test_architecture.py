"""The drawing of the rooms shows the code as it is, and notices when it doesn't."""

from __future__ import annotations

import copy

import pytest

from docs import draw_architecture as drawing
from tests.imports import MODULES, room


@pytest.fixture(scope="module")
def shown() -> drawing.Facts:
    """What the code says now."""
    return drawing.facts()


def test_the_drawing_is_fresh(shown: drawing.Facts) -> None:
    assert drawing.differences(drawing.drawn(), shown) == [], "redraw it: python -m docs.draw_architecture"


def test_a_stale_drawing_is_noticed(shown: drawing.Facts) -> None:
    old = copy.deepcopy(shown)
    room = "launch/command"
    name = next(iter(old["rooms"][room]))
    old["rooms"][room][name] += drawing.TOLERANCE + 1
    old["rooms"][room]["gone"] = 10
    old["arrows"].append([room, "launch/slurm"])
    old["across"]["data"] = {}
    assert len(drawing.differences(old, shown)) == 4
    old = copy.deepcopy(shown)
    old["rooms"][room][name] += drawing.TOLERANCE
    assert drawing.differences(old, shown) == []


def test_every_file_is_drawn_once(shown: drawing.Facts) -> None:
    drawn = {f"{room}/{name}" for room, files in shown["rooms"].items() for name in files}
    for module, path in MODULES.items():
        assert path.stem == "__init__" or f"{room(module)}/{path.stem}" in drawn, module


def test_only_arrows_that_follow_from_others_are_left_out() -> None:
    edges = {"c": {"b", "a"}, "b": {"a"}, "a": set()}
    assert drawing.reduced(edges) == {"c": {"b"}, "b": {"a"}, "a": set()}
    with pytest.raises(SystemExit, match="circle"):
        drawing.reduced({"a": {"b"}, "b": {"a"}})


def test_a_room_lies_to_the_right_of_all_that_it_imports(shown: drawing.Facts) -> None:
    for name in drawing.FLOORS:
        floor = drawing.Floor(name, shown["rooms"], shown["arrows"])
        for importer, to in floor.arrows:
            assert floor.depth[importer] > floor.depth[to]
