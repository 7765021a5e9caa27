"""Class numbers and class names from a column or array of labels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.command.cli import UserError

MOST_CLASSES = 1_000_000
"""More classes than this are no classes but an id or a text of each sample."""


def class_numbers(
    values: Sequence[Any], where: str, names: Sequence[str] = (), way_out: str = "correct them"
) -> tuple[np.ndarray, list[str]]:
    """Class number of each sample, int64 (N,), -1 for none; and the classes' names.

    `values` are whole numbers (also as floats), truth values or words; None, NaN, "" and -1 are no label. `names` are
    the names of numbers where they are known. UserError, naming `where` and `way_out`, for all else.
    """
    there = [value for value in values if not _missing(value)]
    kinds = {_kind(value) for value in there}
    if len(kinds) > 1 or not kinds <= {"word", "number", "truth value"}:
        raise UserError(
            f"{where} holds {'s and '.join(sorted(kinds))}s (such as {_shown(there)}), but a class is a whole number "
            f"or a word: {way_out}"
        )
    if kinds == {"word"}:
        return _words([None if _missing(value) else str(value) for value in values], where, names, way_out)
    if kinds == {"truth value"} and not names:
        names = ("false", "true")
    numbers = np.array([-1 if _missing(value) else _whole(value, where, way_out) for value in values], dtype=np.int64)
    most = int(numbers.max(initial=-1))
    if names and most >= len(names):
        raise UserError(f"{where} holds {most}, but its {len(names)} classes are 0 to {len(names) - 1}: {way_out}")
    if most >= MOST_CLASSES:
        raise UserError(
            f"{where} holds {most}, but classes count from 0 to {MOST_CLASSES - 1} at most: store words or renumber "
            f"them, or {way_out}"
        )
    return numbers, list(names) or [str(i) for i in range(most + 1)]


def _words(values: list[str | None], where: str, names: Sequence[str], way_out: str) -> tuple[np.ndarray, list[str]]:
    found = sorted({value for value in values if value is not None})
    classes = list(names) if names and set(found) <= set(names) else found
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{where} holds {len(classes)} different words: they are no classes; {way_out}")
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(value, -1) for value in values], dtype=np.int64), classes


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "truth value"
    if isinstance(value, str):
        return "word"
    if isinstance(value, int | float | np.integer | np.floating):
        return "number"
    return type(value).__name__


def _whole(value: Any, where: str, way_out: str) -> int:
    number = int(value) if math.isfinite(value) else -2
    if number != value or number < -1:
        raise UserError(f"{where} holds {value}, which is no class number (0, 1, …; -1: none): {way_out}")
    return number


def _shown(values: Sequence[Any]) -> str:
    text = repr(values[0])
    return text if len(text) <= 40 else f"{text[:39]}…"
