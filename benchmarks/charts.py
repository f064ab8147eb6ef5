"""What the pictures of a report show: series, axes, labels. Drawn by `svg.py` and `png.py`.

Two pictures: test AUC against serving bytes, and the difference to the baseline at each budget.
Colours are Okabe and Ito's, which colour-blind readers tell apart; every series has a mark of its
own too; baselines are grey with hollow marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import budget_text

__all__ = [
    "DODGE",
    "ON_DARK",
    "Frame",
    "Level",
    "Series",
    "bounds",
    "curve_frame",
    "difference_groups",
    "extent",
    "label_of",
    "levels_of",
    "number_text",
    "padded",
    "room",
    "series_of",
    "shifts",
    "signed_text",
    "spread",
    "ticks",
]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREYS = ("#8a8a8a", "#6a6a6a", "#3f3f3f")
_PALE = ("#4FA8E0", "#FF8A4C", "#3CCB9B", "#E79CC4", "#F2B632", "#9AD6F8")
_PALE_GREYS = ("#9a9a9a", "#bdbdbd", "#e2e2e2")
ON_DARK = dict(zip((*_COLOURS, *_GREYS), (*_PALE, *_PALE_GREYS), strict=True))
"""The same colours on a dark page."""
_MARKS = ("circle", "square", "triangle", "diamond", "down")
DODGE = 0.022
"""Sideways spread of points at one budget, in parts of the picture's width."""


@dataclass(frozen=True)
class Series:
    """One method's points, smallest budget first."""

    method: str
    short: str
    """The method without options that no other series tells it apart by."""
    baseline: bool
    colour: str
    mark: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Frame:
    """Data to picture coordinates; x is logarithmic where `log` is set."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = True

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.to_x(x), self.to_y(y)

    def to_x(self, value: float) -> float:
        low, high = self.x
        part = (
            math.log(value / low) / math.log(high / low)
            if self.log
            else (value - low) / (high - low)
        )
        return self.left + part * (self.right - self.left)

    def to_y(self, value: float) -> float:
        low, high = self.y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def series_of(summary: Summary) -> list[Series]:
    """One series per method with a result, in the order of the study; full is drawn apart.

    The baseline of the comparison has the darkest grey.
    """
    names = dict.fromkeys(r.method for r in summary.rows if r.budget_bytes is not None and r.auc)
    short = _short_names(list(names))
    series: list[Series] = []
    num_baselines = 0
    for name in names:
        rows = [r for r in summary.rows if r.method == name and r.auc and r.budget_bytes]
        rows.sort(key=lambda r: r.budget_bytes or 0)
        baseline = rows[0].baseline
        place = num_baselines if baseline else len(series) - num_baselines
        colours = _GREYS[:-1] if baseline else _COLOURS
        colour = _GREYS[-1] if name == summary.baseline else colours[place % len(colours)]
        num_baselines += baseline
        mark = _MARKS[(place + place // len(colours)) % len(_MARKS)]
        series.append(Series(name, short[name], baseline, colour, mark, tuple(rows)))
    return series


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """``optembed:epochs=30:alpha=0.1`` -> ``optembed``, or ``optembed:alpha=0.1`` beside another
    one of 30 epochs."""
    alike: dict[str, list[set[str]]] = {}
    for name in names:
        head, *options = name.split(":")
        alike.setdefault(head, []).append(set(options))
    short = {}
    for name in names:
        head, *options = name.split(":")
        shared = set.intersection(*alike[head])
        short[name] = ":".join([head, *(option for option in options if option not in shared)])
    return short


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near `wanted` as can be, at least `gap` apart and within [low, high], same order.

    Least squares: what would overlap is centred on its mean. When they cannot all fit, the gap
    shrinks until they do.
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # mean of (wanted - rank * gap) and size
    for rank, i in enumerate(order):
        mean, size = wanted[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, num = blocks.pop()
            mean, size = (before * num + mean * size) / (num + size), num + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    last = high - gap * (len(wanted) - 1)
    result = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        result[i] = min(max(flat[rank], low), last) + rank * gap
    return result


@dataclass(frozen=True)
class Level:
    """A horizontal line: the full tables, or the best possible AUC."""

    kind: Literal["full", "best"]
    text: str
    auc: float


def levels_of(summary: Summary, y: tuple[float, float]) -> list[Level]:
    """The lines within the range `y`, with their labels."""
    levels = []
    if summary.full and summary.full.auc:
        size = format_bytes(summary.full.bytes["serving_bytes"])
        levels.append(Level("full", f"full tables, {size}", summary.full.auc.mean))
    best = summary.data.best_auc
    if best is not None and y[0] < best < y[1]:
        levels.append(Level("best", f"best possible, {best:.4f}", best))
    return levels


def curve_frame(summary: Summary, series: Sequence[Series], width: int, height: int) -> Frame:
    """The axes of the AUC picture; the best possible AUC is left out if it would squeeze them."""
    sizes = [float(r.bytes["serving_bytes"]) for s in series for r in s.rows]
    y = [v for s in series for r in s.rows for v in bounds(r)]
    if summary.full:
        y += bounds(summary.full)
    best = summary.data.best_auc
    if best is not None and best - max(y) < 0.4 * (max(y) - min(y)):
        y.append(best)
    y_range = padded(min(y), max(y))
    margin = max(1.35, (max(sizes) / min(sizes)) ** 0.12)
    x_range = (min(sizes) / margin, max(sizes) * margin)
    texts = [*(label_of(one) for one in series), *(v.text for v in levels_of(summary, y_range))]
    return Frame(74, width - 20 - room(texts), 16, height - 56, x_range, y_range)


def shifts(summary: Summary, frame: Frame, num: int) -> list[float]:
    """Sideways shift of each of `num` series, in parts of the frame's width.

    They keep clear of the next budget.
    """
    width = frame.right - frame.left
    places = sorted((frame.to_x(b) - frame.left) / width for b in summary.budgets)
    gaps = [b - a for a, b in pairwise(places)]
    step = min([DODGE, *(0.6 * gap / num for gap in gaps)])
    return [(place - (num - 1) / 2) * step for place in range(num)]


def difference_groups(summary: Summary) -> list[tuple[str, list[Row]]]:
    groups = []
    for budget in sorted(summary.budgets):
        rows = [r for r in summary.at(budget) if summary.baseline in r.versus]
        if rows:
            groups.append((budget_text(rows[0]), rows))
    return groups


def extent(row: Row, baseline: str) -> list[float]:
    v = row.versus[baseline]
    return [x for x in (v.mean, v.low, v.high, v.rows_low, v.rows_high) if x is not None]


def label_of(one: Series) -> str:
    return one.short + (" (baseline)" if one.baseline else "")


def room(texts: Sequence[str]) -> float:
    """Width in SVG units that the longest text may take at 13 px."""
    return 7.3 * max((len(t) for t in texts), default=0)


def bounds(row: Row) -> list[float]:
    if row.auc is None:
        return []
    if row.auc.low is None or row.auc.high is None:
        return [row.auc.mean, row.auc.mean]
    return [row.auc.low, row.auc.high]


def padded(low: float, high: float) -> tuple[float, float]:
    pad = max((high - low) * 0.07, 1e-4)
    return low - pad, high + pad


def ticks(low: float, high: float, num: int) -> list[float]:
    raw = (high - low) / num
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _digits(low: float, high: float) -> int:
    at = ticks(low, high, 6)
    step = at[1] - at[0] if len(at) > 1 else high - low
    return max(2, -math.floor(math.log10(step) + 1e-9))


def number_text(value: float, low: float, high: float) -> str:
    return f"{value:.{_digits(low, high)}f}"


def signed_text(value: float, low: float, high: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.{_digits(low, high)}f}"
