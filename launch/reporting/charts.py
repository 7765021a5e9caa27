"""Small line and bar charts as inline SVG, drawn by matplotlib and coloured by the page's CSS.

The same data gives the same SVG. It refers to nothing outside. Points and bars show their values on hover.
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

FOR_THE_PAGE = (
    (r"^.*?(?=<svg)|<style.*?</style>|\n *(?=<)", ""),
    (r' xmlns(:\w+)?="[^"]*"|xlink:', ""),
    (r'<g id="[^ "]*"', "<g"),  # the charts of a page have the same ones
    (r'<g id="', '<g class="'),
    (r'<text style="[^"]*text-anchor: (\w+)[^"]*"', r'<text text-anchor="\1"'),
    *((colour, f"var({variable})") for colour, variable in COLOURS.items()),
)
"""Patterns of matplotlib's SVG, and what makes it an element of the page, with the page's fonts and colours."""


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


@matplotlib.rc_context(STYLE)
def line_chart(lines: Sequence[Line], label: str) -> str:
    """An SVG of one or two curves over the step; empty without a finite point."""
    kept = [finite for line in lines if (finite := _finite(line)).steps]
    if not kept:
        return ""
    titles = {}
    figure, axes = _axes(340, 200)
    _scale(axes, kept)
    for index, line in enumerate(kept):
        colour = (CURVE, OTHER)[index % 2]
        axes.plot(line.steps, line.values, color=colour, linewidth=1.8, clip_on=False)
        every = 1 if line.dots else max(1, len(line.steps) // 24)
        steps, values = line.steps[::every], line.values[::every]
        group = f"{'dot' if line.dots or len(line.steps) == 1 else 'hover'} c{index % 2}"
        axes.plot(steps, values, "o", color=colour, markersize=7, markeredgewidth=0, gid=group, clip_on=False)
        titles[group] = [
            f"{line.name} at step {step:.0f}: {number(value)}" for step, value in zip(steps, values, strict=True)
        ]
    return _svg(figure, label, titles)


@matplotlib.rc_context(STYLE)
def use_chart(counts: Sequence[int], label: str) -> str:
    """How often each code is used, from the most to the least frequent one, against equal use (dashed)."""
    total = sum(counts)
    if not total:
        return ""
    shares = [100 * count / total for count in sorted(counts, reverse=True)]
    bars = min(len(shares), MOST_BARS)
    groups = [shares[bar * len(shares) // bars : (bar + 1) * len(shares) // bars] for bar in range(bars)]
    heights = [sum(group) / len(group) for group in groups]
    figure, axes = _axes(700, 220)
    for index, bar in enumerate(axes.bar(range(bars), heights, width=0.86, color=BAR, clip_on=False)):
        bar.set_gid(f"bar {index}")
    equal = 100 / len(shares)
    axes.axhline(equal, color=OTHER, linewidth=1.4, linestyle=(0, (4, 3)), clip_on=False)
    axes.text(bars - 0.5, equal, "equal use ", color=SOFT, ha="right", va="bottom")
    axes.set_xlim(-0.5, bars - 0.5)
    axes.set_ylim(0, heights[0] * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)}%"))
    first, last = axes.set_xticks([-0.5, bars - 0.5], ["most used", f"least used of {len(shares)}"])
    first.label1.set_horizontalalignment("left")
    last.label1.set_horizontalalignment("right")
    titles = {f"bar {index}": [f"{number(share)}% of all codes"] for index, share in enumerate(heights)}
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
    """The figure as an element of a page; the shapes of the named groups get titles, and their style from its CSS."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    for pattern, replacement in FOR_THE_PAGE:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    root = ElementTree.fromstring(text)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    for group in root.iter("g"):
        if shown := titles.get(group.get("class", "")):
            shapes = list(group.iter("use")) or list(group.iter("path"))
            for shape, title in zip(shapes, shown, strict=True):
                shape.attrib.pop("style", None)
                ElementTree.SubElement(shape, "title").text = title
    return ElementTree.tostring(root, encoding="unicode")
