"""Draws docs/architecture.svg from the code: `python -m docs.draw_architecture`; with `--check` it only compares.

Packages are floors, rooms are boxes, and a box lists its files with their lines of code. An arrow leads from a room to
one that it imports; arrows that follow from others are left out (the transitive reduction). Inside a floor a room lies
to the right of all that it imports. The drawing carries its data, so that a test can tell when it is stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from html import escape, unescape
from itertools import pairwise
from typing import TypedDict

from tests import imports as code

OUT = code.ROOT / "docs" / "architecture.svg"
FLOORS = code.PACKAGES[::-1]
TITLES = {
    "stage2_prior": "codes to new codes, and pictures from them",
    "stage1_tokenizer": "pictures to codes and back",
    "data": "shards, order and streaming; knows no model",
    "launch": "how a run starts, stops, resumes and is seen; knows no stage",
}
COLOURS = {"stage2_prior": "#7c5cbf", "stage1_tokenizer": "#c2662d", "data": "#2f8f6b", "launch": "#3f6fb0"}

Edges = dict[str, set[str]]


class Facts(TypedDict):
    """What the drawing shows, and carries as its data."""

    rooms: dict[str, dict[str, int]]
    """Each room's files with their lines."""
    arrows: list[list[str]]
    """Pairs of rooms of one floor: the first imports the second."""
    across: dict[str, dict[str, list[str]]]
    """For each floor the floors below that it imports, with the rooms that it uses there."""


WIDTH, ROW, TITLE, GAP, SPACE = 180, 17, 26, 60, 16
"""Of a box: width, height of a line and of the title; between boxes: across and down."""
LONGEST = 300
"""Lines of a file whose bar fills its box."""
TOLERANCE = 25
"""By how many lines a file may differ from the drawing before that is stale."""


# --- what the code says


def read_code() -> dict[str, dict[str, int]]:
    """Each room's files with their lines of code; of a folder's own file only where it defines something."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for module, path in code.MODULES.items():
        text = path.read_text()
        if module not in code.PACKAGES and (path.stem != "__init__" or re.search(r"^(def|class) ", text, re.MULTILINE)):
            found[code.room(module)][path.stem] = text.count("\n")
    return dict(found)


def reduced(edges: Edges) -> Edges:
    """The edges that don't follow from others. The graph must have no circles."""
    if circles := code.circles(edges):
        raise SystemExit(f"circle of imports: {', '.join(circles[0])}")
    reached = {room: code.reach(edges, room) for room in edges}
    return {
        room: {near for near in direct if not any(near in reached[other] for other in direct if other != near)}
        for room, direct in edges.items()
    }


def facts() -> Facts:
    """What the code says."""
    boxes, edges = read_code(), code.rooms()
    inside = {box: {to for to in edges[box] if floor(to) == floor(box)} for box in boxes}
    across: dict[str, dict[str, list[str]]] = {}
    for upper in FLOORS:
        used = {to for box in boxes if floor(box) == upper for to in edges[box] if floor(to) != upper}
        below = FLOORS[FLOORS.index(upper) + 1 :]
        of_floors = {lower: sorted(short(to) for to in used if floor(to) == lower) for lower in below}
        across[upper] = {lower: found for lower, found in of_floors.items() if found}
    arrows = sorted([box, to] for box, direct in reduced(inside).items() for to in direct)
    return {"rooms": boxes, "arrows": arrows, "across": across}


def floor(room: str) -> str:
    """The package of a room."""
    return room.partition("/")[0]


def short(room: str) -> str:
    """A room's name inside its package."""
    return room.partition("/")[2]


# --- where things lie


class Floor:
    """Boxes of one package in columns, and arrows between them as lists of points."""

    def __init__(self, name: str, rooms: dict[str, dict[str, int]], arrows: list[list[str]]):
        self.name = name
        self.files = {room: files for room, files in rooms.items() if floor(room) == name}
        self.arrows = [(room, to) for room, to in arrows if floor(room) == name]
        below: Edges = defaultdict(set)
        for room, to in self.arrows:
            below[room].add(to)
        self.depth: dict[str, int] = {}
        for room in self.files:
            self._place(room, below)
        self.ways = [self._way(room, to) for room, to in self.arrows]
        self.columns = self._ordered()
        self.top = self._stacked()
        self.height = max(self.top[node] + self.tall(node) for column in self.columns for node in column)

    def _place(self, room: str, below: Edges) -> int:
        if room not in self.depth:
            self.depth[room] = max((self._place(to, below) + 1 for to in below[room]), default=0)
        return self.depth[room]

    def _way(self, room: str, to: str) -> list[str]:
        """An arrow's stations from left to right: rooms, and gaps in the columns between them."""
        gaps = [f"{room} > {to} {column}" for column in range(self.depth[to] + 1, self.depth[room])]
        self.depth |= {gap: self.depth[to] + 1 + number for number, gap in enumerate(gaps)}
        return [to, *gaps, room]

    def tall(self, node: str) -> float:
        """The height of a room's box, or of a gap that an arrow passes through."""
        return TITLE + ROW * len(self.files[node]) + 8 if node in self.files else 4

    def _ordered(self) -> list[list[str]]:
        """Nodes by column, ordered so that arrows cross little: swept to and fro by their neighbours' mean place."""
        columns: list[list[str]] = [[] for _ in range(max(self.depth.values()) + 1)]
        for node in sorted(self.depth):
            columns[self.depth[node]].append(node)
        beside: Edges = defaultdict(set)
        for way in self.ways:
            for left, right in pairwise(way):
                beside[left].add(right)
                beside[right].add(left)
        best, fewest = [list(column) for column in columns], self._crossings(columns)
        for turn in range(40):
            ahead = turn % 2 == 0
            for number in range(1, len(columns)) if ahead else range(len(columns) - 2, -1, -1):
                place = {node: at for at, node in enumerate(columns[number - 1 if ahead else number + 1])}
                old = {node: at for at, node in enumerate(columns[number])}

                def mean(node: str, place: dict[str, int] = place, old: dict[str, int] = old) -> float:
                    near = [place[other] for other in beside[node] if other in place]
                    return sum(near) / len(near) if near else old[node]

                columns[number].sort(key=mean)
            crossings = self._crossings(columns)
            if crossings < fewest:
                best, fewest = [list(column) for column in columns], crossings
        return best

    def _crossings(self, columns: list[list[str]]) -> int:
        place = {node: at for column in columns for at, node in enumerate(column)}
        steps = [(self.depth[left], place[left], place[right]) for way in self.ways for left, right in pairwise(way)]
        return sum(
            a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < 0 for number, a in enumerate(steps) for b in steps[:number]
        )

    def _stacked(self) -> dict[str, float]:
        """Each node's upper edge, columns centred beside each other."""
        tall = [sum(self.tall(node) + SPACE for node in column) - SPACE for column in self.columns]
        top = {}
        for column, height in zip(self.columns, tall, strict=True):
            y = (max(tall) - height) / 2
            for node in column:
                top[node] = y
                y += self.tall(node) + SPACE
        return top


# --- the drawing


def text(x: float, y: float, words: str, size: float = 12, fill: str = "#333", more: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" {more}>{escape(words)}</text>'


def box(x: float, y: float, room: str, files: dict[str, int], colour: str) -> Iterator[str]:
    """A room: its name, and a bar for each file as long as the file."""
    height = TITLE + ROW * len(files) + 8
    yield f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{height}" rx="6" fill="#fff" stroke="{colour}"/>'
    yield text(x + 10, y + 18, short(room), 13.5, colour, 'font-weight="bold"')
    yield text(x + WIDTH - 10, y + 18, f"{sum(files.values()):,}", 12, colour, 'text-anchor="end"')
    for number, (name, lines) in enumerate(files.items()):
        top = y + TITLE + ROW * number
        bar = (WIDTH - 12) * min(lines / LONGEST, 1)
        yield (
            f'<rect x="{x + 6:g}" y="{top + 1:g}" width="{bar:.0f}" height="{ROW - 3}" rx="2" fill="{colour}" '
            f'fill-opacity="0.13"/>'
        )
        yield text(x + 10, top + 12, "(in __init__)" if name == "__init__" else name)
        yield text(x + WIDTH - 10, top + 12, str(lines), 10.5, "#888", 'text-anchor="end"')


def curve(points: list[tuple[float, float]], colour: str) -> str:
    """A smooth arrow from right to left through the points, each with its own level stretch."""
    path = f"M{points[0][0]:g},{points[0][1]:g}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        path += f" C{middle:g},{y0:g} {middle:g},{y1:g} {x1:g},{y1:g}" if y0 != y1 else f" L{x1:g},{y1:g}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" stroke-opacity="0.55"/>'


def arrows_of(plan: Floor, x: list[float], y: float, colour: str) -> Iterator[str]:
    """All arrows of a floor. Those at one side of a box are spread over it, in the order of where they lead."""
    ends: dict[tuple[str, bool], list[tuple[float, int]]] = defaultdict(list)
    level = {node: plan.top[node] + plan.tall(node) / 2 for node in plan.top}
    for number, way in enumerate(plan.ways):
        ends[way[-1], False].append((level[way[-2]], number))
        ends[way[0], True].append((level[way[1]], number))
    height: dict[tuple[int, bool], float] = {}
    for (node, right), leading in ends.items():
        tall = plan.tall(node)
        for place, (_, number) in enumerate(sorted(leading)):
            height[number, right] = y + plan.top[node] + tall * (place + 1) / (len(leading) + 1)
    for number, way in enumerate(plan.ways):
        stops = [(x[plan.depth[way[-1]]], height[number, False])]
        for gap in reversed(way[1:-1]):
            left, over = x[plan.depth[gap]], y + level[gap]
            stops += [(left + WIDTH, over), (left, over)]
        end, low = x[plan.depth[way[0]]] + WIDTH, height[number, True]
        yield curve([*stops, (end + 7, low)], colour)
        yield f'<path d="M{end + 1:g},{low:g} l8,-4 v8 z" fill="{colour}" fill-opacity="0.75"/>'


def draw(shown: Facts) -> str:
    """The whole drawing."""
    plans, across = [Floor(name, shown["rooms"], shown["arrows"]) for name in FLOORS], shown["across"]
    left, margin, head = 24, 18, 54
    most = max(len(plan.columns) for plan in plans)
    inner = most * WIDTH + (most - 1) * GAP
    width = 2 * left + 2 * margin + inner
    body: list[str] = []
    y = 24.0
    for number, plan in enumerate(plans):
        colour, count = COLOURS[plan.name], len(plan.columns)
        tall = head + plan.height + margin + 6
        body.append(
            f'<rect x="{left}" y="{y:g}" width="{width - 2 * left}" height="{tall:g}" rx="10" fill="{colour}" '
            f'fill-opacity="0.06" stroke="{colour}" stroke-opacity="0.35"/>'
        )
        lines = sum(sum(files.values()) for files in plan.files.values())
        body.append(text(left + margin, y + 30, f"{plan.name}/", 21, colour, 'font-weight="bold"'))
        words = f"{TITLES[plan.name]}  ·  {lines:,} lines"
        body.append(text(width - left - margin, y + 30, words, 14, "#555", 'text-anchor="end"'))
        step = (inner - WIDTH) / (count - 1) if count > 1 else 0
        x = [left + margin + step * column for column in range(count)]
        body += arrows_of(plan, x, y + head, colour)
        for room, files in plan.files.items():
            body += box(x[plan.depth[room]], y + head + plan.top[room], room, files, colour)
        y += tall
        if number < len(plans) - 1:
            used = across[plan.name]
            between = 24 + 16 * max(len(used), 2)
            body += down(width / 2, y, between, COLOURS[plan.name], used)
            y += between
    data = json.dumps(shown, separators=(",", ":"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 24:g}" width="{width}" '
            f'height="{y + 24:g}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
            "<title>The rooms of the four packages and what they import, drawn by docs/draw_architecture.py</title>",
            f"<metadata>{escape(data, quote=False)}</metadata>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def down(x: float, y: float, tall: float, colour: str, used: dict[str, list[str]]) -> Iterator[str]:
    """The thick arrow from one floor to those below, with the rooms that it uses of each."""
    path = f"M{x - 9:g},{y + 4:g} h18 v{tall - 24:g} h10 l-19,14 l-19,-14 h10 z"
    yield f'<path d="{path}" fill="{colour}" fill-opacity="0.6"/>'
    first = y + tall / 2 + 4 - 8 * (len(used) - 1)
    for number, (lower, rooms) in enumerate(used.items()):
        yield text(x + 32, first + 16 * number, f"uses {lower}: {', '.join(rooms)}", 12.5, COLOURS[lower])


def differences(held: Facts, shown: Facts) -> list[str]:
    """What the drawing says otherwise than the code, one line each."""
    old, new, found = held["rooms"], shown["rooms"], []
    for room in sorted(old.keys() | new.keys()):
        before, now = old.get(room, {}), new.get(room, {})
        for name in sorted(before.keys() | now.keys()):
            if abs(before.get(name, -LONGEST) - now.get(name, -LONGEST)) > TOLERANCE:
                found.append(f"{room}/{name}: {before.get(name, 'no')} lines drawn, {now.get(name, 'no')} in the code")
    found += [
        f"arrow {arrow} differs"
        for arrow in held["arrows"] + shown["arrows"]
        if (arrow in held["arrows"]) != (arrow in shown["arrows"])
    ]
    found += [
        f"{name} uses other floors' rooms differently"
        for name in FLOORS
        if held["across"][name] != shown["across"][name]
    ]
    return found


def drawn() -> Facts:
    """What the drawing shows."""
    data: Facts = json.loads(unescape(OUT.read_text().partition("<metadata>")[2].partition("</metadata>")[0]))
    return data


def main() -> int:
    """Draw, or with --check say where the drawing is stale and return 1."""
    shown = facts()
    if "--check" not in sys.argv[1:]:
        OUT.write_text(draw(shown))
        return 0
    found = differences(drawn(), shown)
    print("\n".join([*found, "redraw it: python -m docs.draw_architecture"]) if found else f"{OUT.name} is up to date")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
