"""Small line and bar charts as inline SVG, coloured by the page's CSS, readable in print and without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 26
MOST_POINTS = 300
LOG_FROM = 30.0
"""Values that span more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """One curve: a name for the legend, steps and values; `dots` marks the points instead of joining many."""

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


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers inside [low, high], roughly `about` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high], thinned to five."""
    powers = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    return [10.0**power for power in powers[:: max(1, len(powers) // 5)]]


class _Axes:
    """Maps steps and values to the picture."""

    def __init__(self, lines: Sequence[Line]):
        xs = [step for line in lines for step in line.steps]
        ys = [value for line in lines for value in line.values]
        self.x_low, self.x_high = min(xs), max(max(xs), min(xs) + 1)
        self.log = min(ys) > 0 and max(ys) / min(ys) > LOG_FROM
        low, high = min(ys), max(ys)
        if not self.log:
            margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
            low, high = low - margin if low < 0 or low > margin else 0.0, high + margin
        self.y_low, self.y_high = low, high

    def x(self, step: float) -> float:
        return LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def draw(self) -> list[str]:
        parts = []
        for value in log_ticks(self.y_low, self.y_high) if self.log else ticks(self.y_low, self.y_high):
            y = self.y(value)
            parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
        for step in ticks(self.x_low, self.x_high):
            x = self.x(step)
            anchor = "end" if x > WIDTH - RIGHT - 14 else "middle"
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{number(step)}</text>')
        base = HEIGHT - BOTTOM
        return [*parts, f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']


def line_chart(lines: Sequence[Line], label: str) -> str:
    """An SVG of one or several curves over the step; empty without a finite point. Points tell their value on hover."""
    kept = [found for line in lines if (found := _finite(line)).steps]
    if not kept:
        return ""
    axes = _Axes(kept)
    parts = axes.draw()
    for index, line in enumerate(kept):
        points = [(axes.x(step), axes.y(value)) for step, value in zip(line.steps, line.values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="curve c{index}" points="{path}"/>')
        every = 1 if line.dots else max(1, len(points) // 24)
        shown = "dot" if line.dots or len(points) == 1 else "hover"
        for (x, y), step, value in list(zip(points, line.steps, line.values, strict=True))[::every]:
            told = escape(f"{line.name} at step {step:.0f}: {number(value)}")
            parts.append(
                f'<circle class="{shown} c{index}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{told}</title></circle>'
            )
    return _svg(parts, label)


def _finite(line: Line) -> Line:
    """The curve without what can't be drawn, thinned to MOST_POINTS."""
    pairs = [pair for pair in zip(line.steps, line.values, strict=True) if math.isfinite(pair[1])]
    stride = max(1, -(-len(pairs) // MOST_POINTS))
    thinned = pairs[:-1:stride] + pairs[-1:]
    return Line(line.name, [step for step, _ in thinned], [value for _, value in thinned], line.dots)


def use_chart(counts: Sequence[int], label: str) -> str:
    """How often each code is used, from the most to the least frequent one, against equal use (dashed)."""
    total = sum(counts)
    if not total:
        return ""
    shares = [100 * count / total for count in sorted(counts, reverse=True)]
    width, height = 700, 220
    top = shares[0] * 1.05
    inner_width, inner_height = width - LEFT - RIGHT, height - TOP - BOTTOM
    base = height - BOTTOM

    def y(share: float) -> float:
        return base - share / top * inner_height

    bars = max(1, min(len(shares), 256))
    parts = []
    for value in ticks(0, top, 3):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{number(value)}%</text>')
    for bar in range(bars):
        group = shares[bar * len(shares) // bars : (bar + 1) * len(shares) // bars]
        share = sum(group) / len(group)
        x, wide = LEFT + bar * inner_width / bars, inner_width / bars
        parts.append(
            f'<rect class="bar" x="{x:.2f}" y="{y(share):.2f}" width="{max(wide - 0.6, 0.6):.2f}" '
            f'height="{base - y(share):.2f}"><title>{number(share)}% of all codes</title></rect>'
        )
    equal = y(100 / len(shares))
    parts.append(f'<line class="equal" x1="{LEFT}" x2="{width - RIGHT}" y1="{equal:.1f}" y2="{equal:.1f}"/>')
    parts.append(f'<text x="{width - RIGHT}" y="{equal - 5:.1f}" text-anchor="end">equal use</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 8}">most used</text>')
    parts.append(f'<text x="{width - RIGHT}" y="{height - 8}" text-anchor="end">least used of {len(shares)}</text>')
    return _svg(parts, label, width, height)


def _svg(parts: Sequence[str], label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
