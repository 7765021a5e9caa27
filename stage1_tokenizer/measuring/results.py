"""What stands beside a result's figures, and whether two results may be compared.

`python -m stage1_tokenizer.evaluate --compare A.json B.json` (or stage2_prior's) says what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.command.cli import UserError

VERSION = 1
"""Of the way in which figures are measured; it rises with any change that moves one of them."""

SUBJECT = ("fingerprint", "prior", "prior_weights", "sampling", "measured_set")
"""What two comparable results may be about."""
CIRCUMSTANCES = ("commit", "hardware", "ranks", "versions", "date", "by", "subset")
"""What moves figures in their last digits at most."""
PARTS = {
    "codes": ("bits_per_code", "accuracy", "codes"),
    "classifier": ("class_agreement", "real_accuracy", "real_samples"),
}
"""What some figures alone rest on: where it differs they can't be compared, but the others may be."""
PLACES = ("data", "transform", "reference.set", "reference.transform", "codes.set")
"""Where pictures come from and how they were prepared: data_hash and reference.hash say whether they are the same."""

DIFFERENT = 1
"""Exit code for two results that can't be compared."""


def circumstances(ranks: int) -> dict[str, Any]:
    """version, commit, hardware, ranks, versions and date, for a result's `measured`."""
    from launch.run.provenance import facts

    known = facts()
    return {
        "version": VERSION,
        "ranks": ranks,
        **{key: known[key] for key in ("commit", "hardware", "versions", "date")},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys of two results' `measured` whose values differ, with both (None where absent)."""
    from launch.run.folder import differences as nested

    return nested(one["measured"], other["measured"])


def must_agree(key: str) -> bool:
    """Whether two results can only be compared where they agree on this key of `measured`."""
    return not any(key == free or key.startswith(f"{free}.") for free in (*SUBJECT, *CIRCUMSTANCES, *PLACES))


def load(path: str) -> dict[str, Any]:
    """A result; UserError for a file that is none, or that doesn't say how it was measured."""
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found["measured"], dict) or "version" not in found["measured"]:
            raise KeyError("measured.version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no result of stage1_tokenizer.evaluate or stage2_prior.evaluate ({error!r}): measure anew"
        ) from error
    return found


def report(one: dict[str, Any], other: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether two results can be compared, and lines that say what differs and, if they can, their figures."""
    found = list(differences(one, other))
    parts = {key.split(".")[0] for key, _, _ in found if must_agree(key)} & set(PARTS)
    wrong = [change for change in found if must_agree(change[0]) and change[0].split(".")[0] not in parts]
    lines = [f"  {key}: {_short(a)} | {_short(b)}" for key, a, b in found if (key, a, b) not in wrong]
    if lines:
        lines = ["differs, as it may:", *lines]
    if wrong:
        told = [f"  {key}: {_short(a)} | {_short(b)}" for key, a, b in wrong]
        return False, [*lines, "not comparable, because this must agree:", *told]
    apart = [figure for part in parts for figure in PARTS[part] if figure in one and figure in other]
    if apart:
        lines.append(f"not comparable, because what they rest on differs: {', '.join(apart)}")
    shared = [
        key for key, value in one.items() if isinstance(value, (int, float)) and key in other and key not in apart
    ]
    if not shared:
        return False, [*lines, "not comparable: they share no figure"]
    return True, [*lines, "comparable:", *(f"  {key}: {one[key]:.6g} | {other[key]:.6g}" for key in shared)]


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def compare(words: Sequence[str]) -> int:
    """The command `--compare A.json B.json`: prints the report; 0, or DIFFERENT where they can't be compared."""
    if len(words) != 2:
        raise UserError(f"--compare takes two results, not {len(words)}: --compare A.json B.json")
    comparable, lines = report(load(words[0]), load(words[1]))
    print("\n".join(lines))
    return 0 if comparable else DIFFERENT
