"""Conditions of a result, and whether two results may be compared.

`python -m stage1_tokenizer.evaluate --compare A.json B.json` (or stage2_prior's) says what differs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.command.cli import UserError, reason
from launch.run.folder import differences
from launch.run.provenance import facts
from stage1_tokenizer.measuring.references import with_size

VERSION = 1
"""Version of the metrics: raised by any change that moves a figure."""

SUBJECT = ("fingerprint", "prior", "prior_weights", "sampling", "measured_set")
"""What is measured: it may differ between comparable results."""
CIRCUMSTANTIAL = ("commit", "hardware", "ranks", "versions", "date", "by", "subset")
"""What changes a figure in its last digits at most."""
PARTS = {
    "codes": ("bits_per_code", "accuracy", "codes"),
    "classifier": ("class_agreement", "real_accuracy", "real_samples"),
    "probe": ("linear_probe", "semantic_cosine"),
}
"""Conditions that only some figures depend on: if they differ, only these figures can't be compared."""
METRICS = "metrics"
"""Conditions by figure, `metrics.FIGURE`: what it is. Where they differ, this figure can't be compared."""
PLACES = ("data", "transform", "reference.set", "reference.transform", "codes.set", "codes.name", "classifier.data")
"""Names of sets and how they were prepared. Whether they are the same, hashes and digests say."""
SIZES = ("measured_set.size", "reference.size")
"""Height and width of the pictures of sets: they must agree, also of the set that is measured."""
LATER = ("codes.digest", "classifier.digest", *SIZES)
"""Conditions that older results don't state, so that they may be absent."""

DIFFERENT = 1
"""Exit code for two results that can't be compared."""


def conditions(ranks: int) -> dict[str, Any]:
    """version, commit, hardware, ranks, versions and date, for a result's `measured`."""
    known = facts()
    return {
        "version": VERSION,
        "ranks": ranks,
        **{key: known[key] for key in ("commit", "hardware", "versions", "date")},
    }


def defined(texts: dict[str, str]) -> dict[str, dict[str, str]]:
    """Definitions of figures for `measured.metrics`, each with a hash of its text."""
    hashes = {name: hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16] for name, text in texts.items()}
    return {name: {"definition": text, "hash": hashes[name]} for name, text in texts.items()}


def must_agree(key: str) -> bool:
    """Whether two results must agree on this key of `measured` to be comparable."""
    return key in SIZES or not any(
        key == free or key.startswith(f"{free}.") for free in (*SUBJECT, *CIRCUMSTANTIAL, *PLACES)
    )


def load(path: str) -> dict[str, Any]:
    """Read a result; UserError for a file that isn't one, or that doesn't say how it was measured."""
    try:
        result = json.loads(Path(path).read_text())
        if not isinstance(result["measured"], dict) or "version" not in result["measured"]:
            raise KeyError("measured.version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a result of stage1_tokenizer.evaluate or stage2_prior.evaluate ({reason(error)}): measure "
            "again"
        ) from error
    # Results of before precision was kept: torch's own settings multiply convolutions as TF32 on GPUs.
    on_cpu = "CPU core" in str(result["measured"].get("hardware"))
    result["measured"].setdefault("precision", "fp32" if on_cpu else "not kept (convolutions as TF32, if torch's own)")
    for name in ("reference", "measured_set"):
        if isinstance(result["measured"].get(name), dict):
            result["measured"][name] = with_size(result["measured"][name])
    return result


def report(one: dict[str, Any], other: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether two results can be compared; lines with what differs and, if they are comparable, their figures."""
    changes = list(differences(one["measured"], other["measured"]))
    apart = [change for change in changes if must_agree(change[0]) and not (change[0] in LATER and None in change)]
    wrong = [change for change in apart if not figures_of(change[0])]
    lines = [f"  {key}: {_short(a)} | {_short(b)}" for key, a, b in changes if (key, a, b) not in wrong]
    if lines:
        lines = ["differs, which is allowed:", *lines]
    if wrong:
        rows = [f"  {key}: {_short(a)} | {_short(b)}" for key, a, b in wrong]
        return False, [*lines, "not comparable, because these must agree:", *rows]
    depend = [figure for key, _, _ in apart for figure in figures_of(key)]
    odd = [figure for figure in dict.fromkeys(depend) if figure in one and figure in other]
    if odd:
        lines.append(f"not comparable, because their conditions differ: {', '.join(odd)}")
    shared = [key for key, value in one.items() if isinstance(value, (int, float)) and key in other and key not in odd]
    if not shared:
        return False, [*lines, "not comparable: no figure in common"]
    return True, [*lines, "comparable:", *(f"  {key}: {one[key]:.6g} | {other[key]:.6g}" for key in shared)]


def figures_of(key: str) -> tuple[str, ...]:
    """The figures that alone depend on a condition; none for conditions of the whole result."""
    first, _, rest = key.partition(".")
    if first == METRICS:  # a figure's name may have dots
        return (rest.removesuffix(".definition").removesuffix(".hash"),) if rest else ()
    return PARTS.get(first, ())


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def compare(words: Sequence[str]) -> int:
    """The option `--compare A.json B.json`: prints the report; 0, or DIFFERENT if they can't be compared."""
    if len(words) != 2:
        raise UserError(f"--compare takes two results, not {len(words)}: --compare A.json B.json")
    comparable, lines = report(load(words[0]), load(words[1]))
    print("\n".join(lines))
    return 0 if comparable else DIFFERENT
