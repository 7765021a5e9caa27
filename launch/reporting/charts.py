"""Small line and bar charts as inline SVG, drawn by matplotlib and coloured by the page's CSS.

The same data gives the same SVG. It has no scripts and refers to nothing outside. Points and bars
show their values on hover.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

WIDTH, HEIGHT = 340, 200
WIDE, WIDE_HEIGHT = 700, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
"""Margins around the axes, in the same units, of which the page makes pixels."""

MOST_POINTS = 300
MOST_BARS = 256
LOG_FROM = 30.0
"""Values that span more than this factor are drawn on a logarithmic axis."""

COLOURS = {"#2563c9": "--c0", "#d9722b": "--c1", "#4f83d6": "--bar", "#e3e3df": "--line", "#63676e": "--soft"}
"""Colours that are drawn with, and the page's variables that replace them."""

CURVE, OTHER, BAR, RULE, SOFT = COLOURS
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "vqloom", "font.size": 10}


@dataclass(frozen=True)
class Line:
    """One curve: a name for the legend, steps and values; `dots` marks the points."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False


def number(value: float) -> str:
    """A number as short as it can be read: 1234567 → 1.23M, 0.000123 → 1.23e-04."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (limit if unit != 'k' else 1e3):.3g}{unit}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.2e}"


def line_chart(lines: Sequence[Line], label: str) -> str:
    """An SVG of one or two curves over the step; empty without a finite point."""
    kept = [finite for line in lines if (finite := _finite(line)).steps]
    if not kept:
        return ""
    titles = {}
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(WIDTH, HEIGHT)
        _scale(axes, kept)
        for index, line in enumerate(kept):
            colour = (CURVE, OTHER)[index % 2]
            axes.plot(line.steps, line.values, color=colour, linewidth=1.8, solid_joinstyle="round", clip_on=False)
            every = 1 if line.dots else max(1, len(line.steps) // 24)
            steps, values = line.steps[::every], line.values[::every]
            shown = "dot" if line.dots or len(line.steps) == 1 else "hover"
            group = f"{shown} c{index % 2}"
            axes.plot(steps, values, "o", color=colour, markersize=7, markeredgewidth=0, gid=group, clip_on=False)
            titles[group] = [
                f"{line.name} at step {step:.0f}: {number(value)}" for step, value in zip(steps, values, strict=True)
            ]
        return _svg(figure, label, titles)


def use_chart(counts: Sequence[int], label: str) -> str:
    """How often each code is used, from the most to the least frequent one, against equal use (dashed)."""
    total = sum(counts)
    if not total:
        return ""
    shares = [100 * count / total for count in sorted(counts, reverse=True)]
    bars = min(len(shares), MOST_BARS)
    groups = [shares[bar * len(shares) // bars : (bar + 1) * len(shares) // bars] for bar in range(bars)]
    heights = [sum(group) / len(group) for group in groups]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(WIDE, WIDE_HEIGHT)
        for index, bar in enumerate(axes.bar(range(bars), heights, width=0.86, color=BAR, clip_on=False)):
            bar.set_gid(f"bar {index}")
        equal = 100 / len(shares)
        axes.axhline(equal, color=OTHER, linewidth=1.4, linestyle=(0, (4, 3)), clip_on=False)
        axes.text(bars - 0.5, equal, "equal use ", color=SOFT, ha="right", va="bottom")
        axes.set_xlim(-0.5, bars - 0.5)
        axes.set_ylim(0, heights[0] * 1.06)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)}%"))
        axes.set_xticks([-0.5, bars - 0.5], ["most used", f"least used of {len(shares)}"])
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        titles = {f"bar {index}": [f"{number(height)}% of all codes"] for index, height in enumerate(heights)}
        return _svg(figure, label, titles)


def _axes(width: int, height: int) -> tuple[Figure, Axes]:
    """Axes with horizontal rules only."""
    figure = Figure((width / 72, height / 72))
    axes = figure.add_axes(
        (LEFT / width, BOTTOM / height, 1 - (LEFT + RIGHT) / width, 1 - (TOP + BOTTOM) / height), frameon=False
    )
    axes.grid(axis="y", color=RULE, linewidth=1, clip_on=False)
    axes.plot((0, 1), (0, 0), transform=axes.transAxes, color=SOFT, linewidth=1, alpha=0.6, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=SOFT, pad=6)
    return figure, axes


def _scale(axes: Axes, lines: Sequence[Line]) -> None:
    """The scales that show all curves, with a few round numbers on each."""
    values = [value for line in lines for value in line.values]
    steps = [step for line in lines for step in line.steps]
    low, high = min(values), max(values)
    axes.set_xlim(min(steps), max(max(steps), min(steps) + 1))
    if low > 0 and high / low > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
        axes.set_ylim(low - margin if low < 0 or low > margin else 0.0, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel("step", color=SOFT, loc="right", labelpad=1)


def _finite(line: Line) -> Line:
    """The curve without what can't be drawn, thinned to MOST_POINTS."""
    pairs = [pair for pair in zip(line.steps, line.values, strict=True) if math.isfinite(pair[1])]
    stride = max(1, -(-len(pairs) // MOST_POINTS))
    thinned = pairs[:-1:stride] + pairs[-1:]
    return Line(line.name, [step for step, _ in thinned], [value for _, value in thinned], line.dots)


def _svg(figure: Figure, label: str, titles: Mapping[str, Sequence[str]]) -> str:
    """The figure as an element of a page: the page's fonts and colours, titles on the shapes of the named groups."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.set(name.partition("}")[2], element.attrib.pop(name))
        if element.tag == "text":
            anchor = re.search(r"text-anchor: (\w+)", element.attrib.pop("style", ""))
            element.set("text-anchor", anchor[1] if anchor else "start")
            element.attrib.pop("transform", None)
        elif "style" in element.attrib:
            element.set("style", re.sub(r"#\w{6}", lambda found: _variable(found[0]), element.attrib["style"]))
        element.text, element.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
    for parent in (root, *root.findall("defs")):
        for unused in (*parent.findall("metadata"), *parent.findall("style")):
            parent.remove(unused)
    for group in root.iter("g"):
        _label(group, titles.get(group.attrib.get("id", ""), ()))
    _drop_unused_names(root)
    size = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": size, "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode")


def _label(group: ElementTree.Element, titles: Sequence[str]) -> None:
    """Give the shapes of a group their titles, and the group its name as classes of the page's CSS."""
    if not titles:
        return
    group.set("class", group.attrib["id"])
    shapes = list(group.iter("use")) or list(group.iter("path"))
    for element in group.iter():
        element.attrib.pop("style", None)
    for shape, text in zip(shapes, titles, strict=True):
        ElementTree.SubElement(shape, "title").text = text


def _drop_unused_names(root: ElementTree.Element) -> None:
    """Leave only the ids that are referred to, which differ between the charts of a page."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)


def _variable(colour: str) -> str:
    return f"var({COLOURS[colour]})" if colour in COLOURS else colour
