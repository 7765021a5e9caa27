"""Schedules of guidance and temperature at named places, and what is out of range."""

from __future__ import annotations

from typing import Any

import pytest

from stage2_prior.config.drawing import Drawing


def test_constant_guidance_in_an_interval() -> None:
    drawing = Drawing(guidance=3.0, guidance_from=0.25, guidance_until=0.75)
    assert [drawing.guidance_at(place, 8) for place in range(8)] == [1, 1, 3, 3, 3, 3, 1, 1]
    assert drawing.guided_steps(8) == 6


def test_guidance_grows_linearly_to_its_strength_at_the_last_place() -> None:
    drawing = Drawing(guidance=3.0, guidance_schedule="linear")
    assert [drawing.guidance_at(place, 4) for place in range(4)] == pytest.approx([1.5, 2.0, 2.5, 3.0])


def test_guidance_grows_along_half_a_cosine() -> None:
    drawing = Drawing(guidance=3.0, guidance_schedule="cosine")
    assert [drawing.guidance_at(place, 6) for place in (1, 2, 3, 5)] == pytest.approx([1.5, 2.0, 2.5, 3.0])


def test_the_null_half_is_needed_up_to_the_last_guided_place() -> None:
    assert Drawing().guided_steps(5) == 0
    assert Drawing(guidance=2.0).guided_steps(5) == 5
    assert Drawing(guidance=2.0, guidance_until=0.5).guided_steps(5) == 3
    assert Drawing(guidance=2.0, guidance_from=0.5, guidance_until=0.5).guided_steps(5) == 0


def test_temperature_changes_linearly_and_ends_where_it_should() -> None:
    drawing = Drawing(temperature=1.0, final_temperature=0.2)
    assert [drawing.temperature_at(place, 5) for place in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert drawing.temperature_at(0, 1) == 1.0
    assert Drawing(temperature=0.7).temperature_at(3, 5) == 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"final_temperature": 0.0},
        {"top_k": 0},
        {"top_p": 1.0},
        {"top_p": 0.01},
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"guidance": 0.0},
        {"guidance_until": 0.0},
        {"guidance_until": 1.0},
        {"guidance_from": 1.0},
        {"guidance_from": 0.5, "guidance_until": 0.5},
        {"choice_temperature": 0.0},
        {"steps": 1},
    ],
)
def test_the_ends_of_a_range_are_in_it(changes: dict[str, Any]) -> None:
    Drawing(**changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("final_temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("guidance", -0.1),
        ("guidance_until", -0.1),
        ("guidance_until", 1.01),
        ("guidance_from", -0.1),
        ("guidance_from", 1.01),
        ("choice_temperature", -0.1),
        ("steps", 0),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Drawing(**{name: value})  # type: ignore[arg-type]


def test_guidance_can_not_begin_after_its_end() -> None:
    with pytest.raises(ValueError, match=r"guidance_from=0\.6"):
        Drawing(guidance_from=0.6, guidance_until=0.5)
