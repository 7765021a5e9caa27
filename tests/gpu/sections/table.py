"""The evidence as Markdown, for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ABOUT = ("section", "group", "name")


def table(lines: list[dict[str, Any]], sections: Sequence[tuple[int | str, str]], *, rehearsed: bool) -> str:
    """A head with card, commit and date, then a table for each group of rows; what went wrong in words."""
    machine = next((line for line in lines if line.get("group") == "machine"), {})
    head = ", ".join(str(machine[key]) for key in ("card", "commit", "date", "versions") if machine.get(key))
    text = [f"Rehearsed on a CPU with tiny sizes: no number says anything. {head}" if rehearsed else head, ""]
    for number, title in sections:
        closed = next((line for line in reversed(lines) if line["section"] == number and "ok" in line), None)
        state = "did not run" if closed is None else f"{closed['seconds']} s"
        text += [f"**{number}. {title}** ({state})" + (f": {closed['error']}" if closed and "error" in closed else "")]
        rows = [line for line in lines if line["section"] == number and "group" in line]
        for group in dict.fromkeys(row["group"] for row in rows if row["group"] != "machine"):
            text += ["", *grid(group, [row for row in rows if row["group"] == group])]
        text += [""]
    return "\n".join(text) + "\n"


def grid(group: str, rows: list[dict[str, Any]]) -> list[str]:
    """The rows of one group. A row's error or note takes the place of its numbers."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in (*ABOUT, "error", "note")))
    lines = [f"| {group} | {' | '.join(keys)} |", "|" + "---|" * (len(keys) + 1)]
    if not keys:
        lines = [f"| {group} | |", "|---|---|"]
    for row in rows:
        words = row.get("error") or row.get("note")
        cells = [shown(row[key]) if key in row else "" for key in keys] or [""]
        if words:
            cells[-1] = f"{cells[-1]} {words}".strip().replace("|", "/")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def shown(value: Any) -> str:
    """A number with three digits that matter; anything else as it is."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/")
