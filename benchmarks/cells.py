"""The cells of a comparison's table, for a terminal, Markdown and a page alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.space import settings_text
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import SIGNS, budget_text, estimate_text
from compactrec.benchmarks.versus import Versus

__all__ = [
    "Cell",
    "Line",
    "columns_of",
    "left_out",
    "legend_of",
    "sections_of",
    "short_cells",
    "title_of",
    "versus_cell",
    "with_tag",
]


SEARCH = "Search"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and what the HTML page adds to it."""

    text: str
    sort: str = ""
    small: str = ""
    title: str = ""
    kind: str = ""
    tag: str = ""
    span: int = 1


@dataclass(frozen=True)
class Line:
    row: Row
    cells: tuple[Cell, ...]

    @property
    def reference(self) -> bool:
        return self.row.method == FULL


def columns_of(summary: Summary) -> list[str]:
    names = [
        "Method", "Budget", "Serving", "Smaller", "Test AUC", f"vs {summary.baseline}",
        "vs full", "Log loss", "Training", "Samples/s",
    ]  # fmt: skip
    return [*names, SEARCH] if any(row.search_seconds for row in summary.rows) else names


def sections_of(summary: Summary) -> Iterator[tuple[int | None, list[Line]]]:
    unbudgeted = [r for r in summary.rows if r.budget_bytes is None]
    if unbudgeted:
        yield None, [_line(summary, r) for r in unbudgeted]
    for budget in summary.budgets:
        yield budget, [_line(summary, r) for r in summary.at(budget)]


def _line(summary: Summary, row: Row) -> Line:
    tag = "baseline" if row.baseline and row.method != FULL else ""
    if row.trial:
        tag = f"{tag}, {row.trial}" if tag else row.trial
    name = Cell(row.method, row.method, tag=tag, title=settings_text(row.settings))
    budget = Cell(row.budget or "-", str(row.budget_bytes or ""), title=budget_text(row))
    if row.auc is None:
        reason = Cell(row.reason or "no result", kind="reason", span=len(columns_of(summary)) - 2)
        return Line(row, (name, budget, reason))
    serving, training = row.bytes["serving_bytes"], row.bytes["training_bytes"]
    smaller = f"{row.compression:.3g}x" if row.compression else "-"
    speed, ratio = row.samples_per_second or 0.0, row.speed_ratio
    loss = row.test["logloss"]
    cells = (
        name,
        budget,
        Cell(format_bytes(serving), str(serving), title=f"{serving:,} bytes"),
        Cell(smaller, str(row.compression or "")),
        Cell(estimate_text(row), str(row.auc.mean), title=_by_seed(row)),
        versus_cell(row.versus.get(summary.baseline)),
        versus_cell(row.versus.get(FULL)),
        Cell(f"{loss:.4f}", str(loss)),
        Cell(format_bytes(training), str(training), title=f"{training:,} bytes"),
        _speed_cell(speed, ratio),
    )
    search = (_search_cell(row),) if SEARCH in columns_of(summary) else ()
    return Line(row, (*cells, *search))


def _speed_cell(speed: float, ratio: float | None) -> Cell:
    if not speed:
        return Cell("not retrained", "0")
    return Cell(f"{speed / 1000:.3g}k" + (f" ({ratio:.2f}x)" if ratio else ""), str(speed))


def _search_cell(row: Row) -> Cell:
    """What finding the plan cost, beside one training of the full tables."""
    time, memory = row.search_time_ratio, row.search_memory_ratio
    if row.search_seconds is None or time is None or memory is None:
        return Cell("-")
    return Cell(
        f"{time:.1f}x, {memory:.2f}x", str(time), title=f"{row.search_seconds:.0f} s",
    )  # fmt: skip


def versus_cell(versus: Versus | None) -> Cell:
    if versus is None:
        return Cell("-")
    half = "" if versus.high is None else f" ± {versus.high - versus.mean:.4f}"
    rows = ""
    if versus.rows_low is not None and versus.rows_high is not None:
        rows = f"rows {versus.rows_low:+.4f} to {versus.rows_high:+.4f}"
    p = "" if versus.p_holm is None else f"corrected p = {versus.p_holm:.3g} over seeds"
    if versus.p_holm is None and versus.num_seeds > 1:
        p = "no p-value: the same difference under every seed"
    return Cell(
        f"{versus.mean:+.4f}{half}{SIGNS[versus.verdict]}",
        str(versus.mean),
        small=rows,
        title=p,
        kind="" if versus.verdict == "unclear" else versus.verdict,
    )


def short_cells(line: Line, num: int) -> list[Cell]:
    """One cell per column; a reason is only pointed at."""
    cells = [c for c in line.cells if c.kind != "reason"]
    if len(cells) < len(line.cells):
        cells += [Cell("-"), Cell("-"), Cell("none, see below", kind="reason")]
    return cells + [Cell("")] * (num - len(cells))


def legend_of(summary: Summary) -> str:
    text = (
        "±: half of a 95% interval over seeds. ▲ ▼: better or worse by a paired t-test over seeds "
        "(Holm, p < 0.05)"
    )
    if summary.num_resamples:
        text += f" and a paired bootstrap over test rows ({summary.num_resamples} resamples)"
    text += ". x: training speed beside the full tables'."
    if SEARCH in columns_of(summary):
        text += (
            f" {SEARCH}: time and peak memory of finding the plan of one budget, beside one "
            "training of the full tables; retraining, where there is any, comes on top."
        )
    return text


def left_out(summary: Summary) -> list[str]:
    """What has no result or lacks a seed, in words."""
    lines = []
    for row in summary.rows:
        where = f"{row.method} at {budget_text(row)}" if row.budget_bytes else row.method
        if row.auc is None:
            lines.append(f"No result for {where}: {row.reason or 'it was not run'}.")
        elif row.missing:
            lines.append(f"Seeds missing for {where}: {'; '.join(row.missing)}.")
    return lines


def _by_seed(row: Row) -> str:
    return ", ".join(f"seed {seed}: {auc:.5f}" for seed, auc in row.auc_by_seed.items())


def with_tag(cell: Cell) -> str:
    return f"{cell.text} ({cell.tag})" if cell.tag else cell.text


def title_of(summary: Summary) -> str:
    num = len(summary.seeds)
    seeds = f"{num} seed{'s' if num != 1 else ''}"
    return f"{summary.data.name}, protocol {summary.data.protocol}, {seeds}"
