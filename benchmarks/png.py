"""The pictures of a report side by side as a PNG, for a README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.charts import (
    Series,
    bounds,
    curve_frame,
    difference_groups,
    label_of,
    levels_of,
    series_of,
    shifts,
    spread,
)
from compactrec.benchmarks.summary import Summary
from compactrec.benchmarks.texts import SIGNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_png"]

_LineStyle = str | tuple[float, tuple[float, ...]]
_MARKS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "down": "v"}


def draw_png(summary: Summary, path: Path) -> bool:
    """Both pictures side by side, as a PNG for a README; False when no budget has a result."""
    series = series_of(summary)
    if not series:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.8), dpi=140, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    _png_curve(left, summary, series)
    _png_difference(right, summary, {s.method: s for s in series})
    rows = summary.data.num_rows.get("test")
    num = f", {rows:,} test rows" if rows else ""
    figure.suptitle(
        f"{summary.data.name}: what a memory budget costs ({len(summary.seeds)} seeds{num})",
        fontsize=14, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path)
    return True


def _png_curve(axes: Axes, summary: Summary, series: Sequence[Series]) -> None:
    frame = curve_frame(summary, series, 1000, 500)
    axes.set(xscale="log", xlim=frame.x, ylim=frame.y, ylabel="test AUC")
    _png_style(axes)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    span = math.log(frame.x[1] / frame.x[0])
    styles: dict[str, _LineStyle] = {"full": "-", "best": (0, (1, 2))}
    if summary.full:
        axes.axhspan(*bounds(summary.full), color="#000000", alpha=0.07, linewidth=0)
    levels = levels_of(summary, frame.y)
    for level in levels:
        axes.axhline(level.auc, color="#222222", linewidth=1.4, linestyle=styles[level.kind])
    ends: list[tuple[str, str, float, float]] = []
    for one, shift in zip(series, shifts(summary, frame, len(series)), strict=True):
        x = [r.bytes["serving_bytes"] * math.exp(shift * span) for r in one.rows]
        y = [r.auc.mean if r.auc else 0.0 for r in one.rows]
        half = [(r.auc.half_width or 0.0) if r.auc else 0.0 for r in one.rows]
        axes.errorbar(
            x, y, yerr=half, color=one.colour, marker=_MARKS[one.mark], markersize=6.5,
            linestyle="--" if one.baseline else "-", linewidth=1.6, elinewidth=1.4,
            markerfacecolor="white" if one.baseline else one.colour, markeredgewidth=1.4,
        )  # fmt: skip
        ends.append((label_of(one), one.colour, x[-1], y[-1]))
    ends += [(level.text, "#222222", frame.x[1], level.auc) for level in levels]
    _png_labels(axes, ends, frame.y)
    ticks = [b for b in summary.budgets if frame.x[0] < b < frame.x[1]]
    full_bytes = summary.full_serving_bytes
    texts = [
        format_bytes(b) + (f"\n{full_bytes / b:.3g}x smaller" if full_bytes else "") for b in ticks
    ]
    axes.set_xticks(ticks, texts)
    axes.minorticks_off()
    axes.set_xlabel("serving bytes, log scale (points at one budget are spread sideways)")


def _png_labels(
    axes: Axes, ends: Sequence[tuple[str, str, float, float]], y: tuple[float, float]
) -> None:
    """Text, colour and end point of every line -> labels beside the picture that do not overlap."""
    low, high = y
    places = spread([end[3] for end in ends], (high - low) * 0.047, low, high)
    for (text, colour, x_end, y_end), place in zip(ends, places, strict=True):
        axes.annotate(
            text, (x_end, y_end), xytext=(1.025, (place - low) / (high - low)),
            textcoords="axes fraction", color=colour, va="center", fontsize=10,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.5,
                "shrinkA": 2, "shrinkB": 5, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _png_difference(axes: Axes, summary: Summary, series: dict[str, Series]) -> None:
    baseline, y = summary.baseline, 0.0
    ticks: list[float] = []
    texts: list[str] = []
    heads: list[int] = []
    for title, rows in difference_groups(summary):
        heads.append(len(ticks))
        ticks.append(y)
        texts.append(title)
        y += 1
        for row in rows:
            one, v = series[row.method], row.versus[baseline]
            if v.rows_low is not None and v.rows_high is not None:
                axes.plot([v.rows_low, v.rows_high], [y, y], color=one.colour, lw=6, alpha=0.25)
            if v.low is not None and v.high is not None:
                axes.plot([v.low, v.high], [y, y], color=one.colour, lw=1.6)
            axes.plot(
                v.mean, y, _MARKS[one.mark], color=one.colour, markersize=6.5,
                markerfacecolor="white" if one.baseline else one.colour, markeredgewidth=1.4,
            )  # fmt: skip
            sign = SIGNS[v.verdict]
            axes.annotate(
                f"{v.mean:+.4f}{sign}", (1.015, y), xycoords=("axes fraction", "data"),
                fontsize=9, va="center", annotation_clip=False,
            )  # fmt: skip
            ticks.append(y)
            texts.append(one.short)
            y += 1
    _png_style(axes)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_yticks(ticks, texts)
    for i in heads:
        axes.get_yticklabels()[i].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(y, 1) - 0.4, -0.6)
    axes.set_xlabel(f"test AUC minus that of {baseline} (line: seeds, band: test rows)")


def _png_style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9.5)
