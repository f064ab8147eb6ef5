"""The pictures of a report as inline SVG for the HTML page.

They follow the page's light or dark colours through CSS classes and show numbers on hover.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.charts import (
    ON_DARK,
    Frame,
    Level,
    Series,
    bounds,
    curve_frame,
    difference_groups,
    extent,
    label_of,
    levels_of,
    number_text,
    padded,
    room,
    series_of,
    shifts,
    signed_text,
    spread,
    ticks,
)
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import SIGNS, describe_difference, describe_row

__all__ = ["curve_svg", "difference_svg"]


def curve_svg(summary: Summary, width: int = 920, height: int = 470) -> str:
    """Test AUC against serving bytes, as an `<svg>` element; empty when no budget has a result."""
    series = series_of(summary)
    if not series:
        return ""
    frame = curve_frame(summary, series, width, height)
    parts = [_svg_open(width, height, "Test AUC against serving bytes")]
    parts += _axes(frame, summary)
    levels = levels_of(summary, frame.y)
    ends = [s.rows[-1].auc.mean if s.rows[-1].auc else 0.0 for s in series]
    wanted = [frame.to_y(auc) for auc in [*ends, *(level.auc for level in levels)]]
    labels = spread(wanted, 17, frame.top + 6, frame.bottom - 4)
    for level, label_y in zip(levels, labels[len(series) :], strict=True):
        parts += _level(frame, summary, level, label_y)
    for one, shift, label_y in zip(
        series, shifts(summary, frame, len(series)), labels[: len(series)], strict=True
    ):
        parts += _curve(frame, one, shift * (frame.right - frame.left), label_y)
    return "\n".join([*parts, "</svg>"])


def difference_svg(summary: Summary, width: int = 920) -> str:
    """Test AUC minus the baseline's, per budget and method; empty when there is nothing to show."""
    groups = difference_groups(summary)
    values = [v for _, rows in groups for row in rows for v in extent(row, summary.baseline)]
    if not values:
        return ""
    line, head = 24, 30
    height = 58 + sum(head + line * len(rows) for _, rows in groups)
    low, high = padded(min([*values, 0.0]), max([*values, 0.0]))
    by_method = {one.method: one for one in series_of(summary)}
    left = max(150.0, 20 + room([by_method[r.method].short for _, rows in groups for r in rows]))
    frame = Frame(left, width - 100, 14, height - 46, (low, high), (0, 1), log=False)
    parts = [_svg_open(width, height, f"Test AUC minus that of {summary.baseline}")]
    for tick in ticks(low, high, 6):
        x = frame.to_x(tick)
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        parts.append(_line(x, frame.top, x, frame.bottom, kind))
        parts.append(_text(x, frame.bottom + 18, signed_text(tick, low, high), "tick", "middle"))
    caption = f"test AUC minus that of {summary.baseline} at the same budget"
    parts.append(_text((frame.left + frame.right) / 2, height - 6, caption, "axis", "middle"))
    y = frame.top
    for title, rows in groups:
        parts.append(_text(8, y + 20, title, "group", "start"))
        y += head
        for row in rows:
            parts += _difference(frame, by_method[row.method], row, summary.baseline, y + line / 2)
            y += line
    return "\n".join([*parts, "</svg>"])


def _axes(frame: Frame, summary: Summary) -> list[str]:
    parts = []
    for tick in ticks(*frame.y, 6):
        y = frame.to_y(tick)
        parts.append(_line(frame.left, y, frame.right, y, "grid"))
        parts.append(_text(frame.left - 9, y + 4, number_text(tick, *frame.y), "tick", "end"))
    for budget in summary.budgets:
        if not frame.x[0] < budget < frame.x[1]:
            continue
        x = frame.to_x(budget)
        parts.append(_line(x, frame.bottom, x, frame.bottom + 5, "axis-line"))
        parts.append(_text(x, frame.bottom + 19, format_bytes(budget), "tick", "middle"))
        if summary.full_serving_bytes:
            times = f"{summary.full_serving_bytes / budget:.3g}x smaller"
            parts.append(_text(x, frame.bottom + 34, times, "tick faint", "middle"))
    parts.append(_line(frame.left, frame.bottom, frame.right, frame.bottom, "axis-line"))
    middle = (frame.top + frame.bottom) / 2
    parts.append(
        f'<text class="axis" transform="translate(16 {middle:.1f}) rotate(-90)" '
        'text-anchor="middle">test AUC</text>'
    )
    x = (frame.left + frame.right) / 2
    parts.append(_text(x, frame.bottom + 51, "serving bytes (log scale)", "axis", "middle"))
    return parts


def _level(frame: Frame, summary: Summary, level: Level, label_y: float) -> list[str]:
    """A horizontal line with its label; the full tables have a band and their numbers."""
    parts, title = [], level.text
    y, end = frame.to_y(level.auc), frame.right + 12
    if level.kind == "full" and summary.full:
        top, bottom = (frame.to_y(v) for v in reversed(bounds(summary.full)))
        size = f'width="{frame.right - frame.left:.1f}" height="{max(bottom - top, 0):.1f}"'
        parts.append(f'<rect class="full-band" x="{frame.left}" y="{top:.1f}" {size}/>')
        title = describe_row(summary.full)
    parts.append(_line(frame.left, y, frame.right, y, f"{level.kind}-line", title))
    points = f"{frame.right:.1f},{y:.1f} {end - 2:.1f},{label_y:.1f}"
    parts.append(f'<polyline class="level-leader" points="{points}"/>')
    parts.append(_text(end + 2, label_y + 4, level.text, "label strong", "start"))
    return parts


def _curve(frame: Frame, one: Series, shift: float, label_y: float) -> list[str]:
    points = []
    parts = [_group_open(one)]
    for row in one.rows:
        x, y = frame.at(row.bytes["serving_bytes"], row.auc.mean if row.auc else 0.0)
        points.append((x + shift, y, row))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dash = " dashed" if one.baseline else ""
    parts.append(f'<polyline class="curve{dash}" points="{path}"/>')
    for x, y, row in points:
        low, high = (frame.to_y(v) for v in bounds(row))
        parts.append(_line(x, low, x, high, "bar"))
        parts.append(_mark(x, y, one, describe_row(row)))
    x, y, _ = points[-1]
    end = frame.right + 12
    parts.append(f'<polyline class="leader" points="{x + 8:.1f},{y:.1f} {end - 2},{label_y:.1f}"/>')
    label = label_of(one)
    parts.append(_text(end + 2, label_y + 4, label, "label", "start"))
    return [*parts, "</g>"]


def _difference(frame: Frame, one: Series, row: Row, baseline: str, y: float) -> list[str]:
    v = row.versus[baseline]
    parts = [_group_open(one)]
    parts.append(_text(frame.left - 12, y + 4, one.short, "label", "end"))
    if v.rows_low is not None and v.rows_high is not None:
        parts.append(_line(frame.to_x(v.rows_low), y, frame.to_x(v.rows_high), y, "rows-bar"))
    if v.low is not None and v.high is not None:
        parts.append(_line(frame.to_x(v.low), y, frame.to_x(v.high), y, "bar"))
    parts.append(_mark(frame.to_x(v.mean), y, one, describe_difference(row, baseline)))
    sign = SIGNS[v.verdict]
    parts.append(_text(frame.right + 14, y + 4, f"{v.mean:+.4f}{sign}", "label", "start"))
    return [*parts, "</g>"]


def _group_open(one: Series) -> str:
    return f'<g class="series" style="--light:{one.colour};--dark:{ON_DARK[one.colour]}">'


def _svg_open(width: int, height: int, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}>{inner}</line>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _mark(x: float, y: float, one: Series, title: str) -> str:
    r = 5.5
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"',
        "square": f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"',
        "triangle": _polygon([(x, y - 6.5), (x + 6, y + 4.5), (x - 6, y + 4.5)]),
        "down": _polygon([(x, y + 6.5), (x + 6, y - 4.5), (x - 6, y - 4.5)]),
        "diamond": _polygon([(x, y - 7), (x + 6, y), (x, y + 7), (x - 6, y)]),
    }
    kind = "mark hollow" if one.baseline else "mark"
    tag = shapes[one.mark]
    name = tag[1 : tag.index(" ")]
    return f'{tag} class="{kind}"><title>{escape(title)}</title></{name}>'


def _polygon(points: Sequence[tuple[float, float]]) -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"'
