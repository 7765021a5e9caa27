"""Counts what was taken and what was left out, so that nothing disappears without a word.

    tally = Tally()
    tally.took("pictures"); tally.took("captions")
    tally.left_out("no bytes", "cat/000.jpg")
    tally.ignored("system files", ".DS_Store")
    warnings = tally.settle(config.allow_left_out, "allow_left_out")   # UserError above the allowed share
    print(*tally.lines(), *warnings, sep="\n", file=sys.stderr)

Tallies of several processes are added; `to_json` and `from_json` keep one in a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from launch.command.cli import UserError

EXAMPLES = 5
"""Names kept for each reason."""
SHOWN = 12
"""Reasons in the table before it says how many more there are."""
WARNED = 0.01
"""Share left out above which there is a warning."""
ALLOWED = 0.1
"""Share left out above which there is an error, unless a setting allows more."""

_IGNORED, _NOTED = "files that are no data", "notes"
"""What `ignored` and `noted` count: it is listed, but no share is lost by it."""

_FREE = (_IGNORED, _NOTED)


@dataclass
class _Reason:
    """What was left out for one reason."""

    text: str
    """As it was given first; reasons that differ in numbers only are one."""
    count: int = 0
    extensions: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def add(self, count: int, extensions: Mapping[str, int], names: list[str]) -> None:
        self.count += count
        for extension, number in extensions.items():
            self.extensions[extension] = self.extensions.get(extension, 0) + number
        self.names += names[: EXAMPLES - len(self.names)]

    def examples(self) -> str:
        return ", ".join(self.names) + (", …" if self.count > len(self.names) else "")

    def by_extension(self) -> str:
        found = sorted(self.extensions.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count} {name}" for name, count in found[:SHOWN])
        return shown + (f" and {len(found) - SHOWN} other extensions" if len(found) > SHOWN else "")


class Tally:
    """What a piece of work took and what it left out, by reason and by extension."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        """Things taken, by what they are: pictures, captions, labels."""
        self._left: dict[str, dict[str, _Reason]] = {}

    def took(self, what: str = "pictures", count: int = 1) -> None:
        """`count` things were taken."""
        self.taken[what] += count

    def left_out(self, reason: str, name: str, *, of: str = "pictures", count: int = 1) -> None:
        """`count` things were left out, of which `name` (a path or a key) is one."""
        reasons = self._left.setdefault(of, {})
        entry = reasons.setdefault(re.sub(r"\d+", "#", reason), _Reason(reason))
        entry.add(count, {extension_in(name): count}, [printable(name)])

    def ignored(self, reason: str, name: str, *, count: int = 1) -> None:
        """`count` files were passed over that are no data: system files, a README, a list that was read."""
        self.left_out(reason, name, of=_IGNORED, count=count)

    def noted(self, what: str, name: str, *, count: int = 1) -> None:
        """Something to be told of `count` things that were taken: how a caption was read, a class without pictures."""
        self.left_out(what, name, of=_NOTED, count=count)

    def lost(self, of: str = "pictures") -> int:
        """How many things of a sort were left out."""
        return sum(reason.count for reason in self._left.get(of, {}).values())

    def share(self, of: str = "pictures") -> float:
        """Share left out of all things of a sort, 0 to 1; 0 of none."""
        lost = self.lost(of)
        return lost / (lost + self.taken[of]) if lost and of not in _FREE else 0.0

    def lines(self) -> list[str]:
        """The table: what was taken, then a line for each reason, the frequent ones first."""
        taken = ", ".join(f"{count} {what}" for what, count in self.taken.items() if count)
        lines = [f"taken: {taken or 'nothing'}"]
        for of, reasons in sorted(self._left.items(), key=lambda item: (item[0] in _FREE, item[0] == _NOTED)):
            frequent = sorted(reasons.values(), key=lambda reason: -reason.count)
            lines += [_line(of, reason) for reason in frequent[:SHOWN]]
            if rest := frequent[SHOWN:]:
                lines.append(f"{_word(of)}: {sum(r.count for r in rest)} for {len(rest)} other reasons")
        return lines

    def settle(self, allow: float | bool = ALLOWED, key: str = "allow_left_out") -> list[str]:
        """Warnings for the sorts of which more than 1 % was left out.

        `allow` is the share that may be left out (True: any; False: the usual tenth), `key` the setting that says so.
        UserError where more of a sort was left out.
        """
        allowed = (1.0 if allow else ALLOWED) if isinstance(allow, bool) else allow
        warnings = []
        for of in self._left:
            share = self.share(of)
            if share > max(allowed, 0.0):
                raise UserError(
                    f"{key}={allowed:g} is exceeded: {self._loss(of)}; mend the source, "
                    f"or set {key} to {_share_above(share)} or more"
                )
            if share > WARNED:
                warnings.append(f"warning: {self._loss(of)}")
        return warnings

    def _loss(self, of: str) -> str:
        lost = self.lost(of)
        frequent = sorted(self._left[of].values(), key=lambda reason: -reason.count)
        why = "; ".join(f"{reason.count} {reason.text} ({reason.examples()})" for reason in frequent[:3])
        more = f"; {len(frequent) - 3} other reasons" if len(frequent) > 3 else ""
        return f"{lost} of {lost + self.taken[of]} {of} ({self.share(of):.1%}) are left out: {why}{more}"

    def __add__(self, other: Tally) -> Tally:
        total = Tally()
        for one in (self, other):
            total.taken.update(one.taken)
            for of, reasons in one._left.items():
                for key, reason in reasons.items():
                    entry = total._left.setdefault(of, {}).setdefault(key, _Reason(reason.text))
                    entry.add(reason.count, reason.extensions, reason.names)
        return total

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        left = {of: [asdict(reason) for reason in reasons.values()] for of, reasons in self._left.items()}
        return {"taken": dict(self.taken), "left_out": left}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tally:
        """The tally that `to_json` described."""
        tally = cls()
        tally.taken.update(values.get("taken", {}))
        for of, reasons in values.get("left_out", {}).items():
            tally._left[of] = {re.sub(r"\d+", "#", r["text"]): _Reason(**r) for r in reasons}
        return tally


def printable(name: str) -> str:
    """The name on one line, also where it has control characters or isn't Unicode."""
    return name if name.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


NO_EXTENSION = "without extension"


def extension_in(name: str) -> str:
    """`.jpg` of `a/b.c.JPG`; NO_EXTENSION where there is none, hidden files included."""
    stem, dot, extension = name.replace("\\", "/").rpartition("/")[2].rpartition(".")
    return f".{extension.lower()}" if dot and stem.strip(".") and extension else NO_EXTENSION


def _word(of: str) -> str:
    return {_IGNORED: "ignored", _NOTED: "note"}.get(of, f"left out of the {of}")


def _line(of: str, reason: _Reason) -> str:
    if of == _NOTED:
        return f"{_word(of)}: {reason.text}{f' ({reason.count})' if reason.count > 1 else ''}: {reason.examples()}"
    many = f" ({reason.by_extension()})" if reason.extensions.keys() != {NO_EXTENSION} else ""
    return f"{_word(of)}: {reason.count}, {reason.text}{many}: {reason.examples()}"


def _share_above(share: float) -> float:
    """The share, rounded up to two decimals."""
    return -(-round(share * 1e6) // 10_000) / 100
