"""Turns the runs of a comparison into something to look at.

`write_report` writes, into one folder: `summary.json` (aggregates, to be committed as evidence),
`report.md` (the table, to go into a README), `report.png` and `report.html` (one file, works
offline). `terminal_table` is the same table for a terminal. `insert_fragment` puts `report.md`
between two marker lines of a README.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.png import draw_png
from compactrec.benchmarks.study import load_study, write_json
from compactrec.benchmarks.summary import FULL, Row, Summary, Versus, summarise
from compactrec.benchmarks.svg import curve_svg, difference_svg

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "ReportFiles",
    "findings",
    "html_page",
    "insert_fragment",
    "markdown_fragment",
    "terminal_table",
    "write_report",
]

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_SIGNS = {"better": "▲", "worse": "▼", "unclear": ""}


@dataclass(frozen=True)
class ReportFiles:
    """What `write_report` wrote."""

    summary: Summary
    json: Path
    markdown: Path
    png: Path | None
    """None when no method has a result at any budget (only the full tables were trained)."""
    html: Path


@dataclass(frozen=True)
class _Cell:
    """One cell: its text, and what the HTML page adds to it."""

    text: str
    sort: str = ""
    small: str = ""
    title: str = ""
    kind: str = ""
    tag: str = ""
    span: int = 1


@dataclass(frozen=True)
class _Line:
    row: Row
    cells: tuple[_Cell, ...]

    @property
    def reference(self) -> bool:
        return self.row.method == FULL


def write_report(
    folders: Sequence[Path], out: Path, *, baseline: str | None = None, num_resamples: int = 200
) -> ReportFiles:
    """Read every result below `folders` and write the four files into `out`.

    Raises ValueError when there are no results or they may not be compared (`load_study`).
    """
    summary = summarise(load_study(folders), baseline, num_resamples)
    out.mkdir(parents=True, exist_ok=True)
    png = out / "report.png"
    drawn = draw_png(summary, png)
    write_json(out / "summary.json", summary.model_dump(mode="json"))
    (out / "report.md").write_text(markdown_fragment(summary), encoding="utf-8")
    (out / "report.html").write_text(html_page(summary), encoding="utf-8")
    return ReportFiles(
        summary,
        out / "summary.json",
        out / "report.md",
        png if drawn else None,
        out / "report.html",
    )


def terminal_table(summary: Summary, width: int = 160) -> Group:
    """The table for a terminal of `width` characters, with what was left out below it.

    Columns that do not fit are left out, the least important first; they are in the files.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sections = list(_sections(summary))
    names = _columns(summary)
    headings = {b: _budget(lines[0].row) for b, lines in sections if b is not None}
    shown = _fitting(names, headings.values(), [x for _, lines in sections for x in lines], width)
    table = Table(
        title=_title(summary), title_justify="left", title_style="bold",
        box=SIMPLE_HEAD, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for i in shown:
        table.add_column(names[i], justify="left" if i == 0 else "right", no_wrap=True)
    for budget, lines in sections:
        if budget is not None:
            table.add_row(Text(headings[budget], style="bold cyan"))
        for line in lines:
            cells = dict(enumerate(_short_cells(line, len(names))))
            texts = [Text(_with_tag(cells[i]), style=_STYLES.get(cells[i].kind, "")) for i in shown]
            table.add_row(*texts, style="bold" if line.reference else "")
        table.add_row()
    notes = [Text(f"* {line}", style="dim") for line in _left_out(summary)]
    return Group(table, *notes, Text(_legend(summary), style="dim"))


_STYLES = {"better": "green", "worse": "red", "reason": "dim"}
_DROPPED_FIRST = ("Budget", "Log loss", "Training", "Smaller", "Samples/s", "vs full")


def _fitting(
    names: Sequence[str], headings: Iterable[str], lines: Sequence[_Line], width: int
) -> list[int]:
    """Indices of the columns to show. "Budget" never is: each budget has a heading."""
    widths = [len(name) for name in names]
    widths[0] = max([widths[0], *(len(heading) for heading in headings)])
    for line in lines:
        for i, cell in enumerate(_short_cells(line, len(names))):
            widths[i] = max(widths[i], len(_with_tag(cell)))
    shown = list(range(len(names)))
    for name in _DROPPED_FIRST:
        if name != "Budget" and sum(widths[i] + 3 for i in shown) <= width:
            break
        shown.remove(list(names).index(name))
    return shown


def _short_cells(line: _Line, num: int) -> list[_Cell]:
    """One cell per column; a reason is only pointed at."""
    cells = [c for c in line.cells if c.kind != "reason"]
    if len(cells) < len(line.cells):
        cells += [_Cell("-"), _Cell("-"), _Cell("none, see below", kind="reason")]
    return cells + [_Cell("")] * (num - len(cells))


def _legend(summary: Summary) -> str:
    text = (
        "±: half of a 95% interval over seeds. ▲ ▼: better or worse by a paired t-test over seeds "
        "(Holm, p < 0.05)"
    )
    if summary.num_resamples:
        text += f" and a paired bootstrap over test rows ({summary.num_resamples} resamples)"
    return text + ". x: training speed beside the full tables'."


def markdown_fragment(summary: Summary) -> str:
    """The table and its caption, for `insert_fragment` to put into a README."""
    names = _columns(summary)
    head = ["| " + " | ".join(names) + " |", "|:---|" + "---:|" * (len(names) - 1)]
    body = []
    for _, lines in _sections(summary):
        for line in lines:
            cells = _short_cells(line, len(names))
            texts = [_plain(_with_tag(c)) for c in cells]
            if line.reference:
                texts = [f"**{t}**" if t else "" for t in texts]
            body.append("| " + " | ".join(texts) + " |")
    environment = summary.environment
    caption = (
        f"{_title(summary)}. {_legend(summary)} Serving bytes hold tables, integer state and dense "
        f"parts. Commit {_short(environment.get('commit'))}, torch {environment.get('torch')}, "
        f"{environment.get('cpu')}, {environment.get('num_threads')} thread(s)."
    )
    missing = [f"* {_plain(line)}" for line in _left_out(summary)]
    parts = [*head, *body, "", _plain(caption), *([""] if missing else []), *missing]
    return "\n".join(parts) + "\n"


def insert_fragment(readme: Path, fragment: str) -> bool:
    """Replace what stands between the markers in `readme`; True when the file changed.

    Raises ValueError when the markers are not there exactly once, in order.
    """
    text = readme.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise ValueError(
            f"{readme} must hold the line '{BEGIN}' once and, below it, '{END}' once; add both "
            "lines where the table shall stand"
        )
    new = f"{text[: begin + len(BEGIN)]}\n{fragment.strip()}\n{text[end:]}"
    if new != text:
        readme.write_text(new, encoding="utf-8")
    return new != text


def html_page(summary: Summary) -> str:
    """The whole page as text: no script, style, font or picture from elsewhere."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = files("compactrec.benchmarks").joinpath("report_template.html.j2")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        s=summary,
        cards=_cards(summary),
        findings=findings(summary) + _left_out(summary),
        curve=Markup(curve_svg(summary)),
        difference=Markup(difference_svg(summary)),
        columns=_columns(summary),
        lines=[line for _, lines in _sections(summary) for line in lines],
        environment=json.dumps(summary.environment, indent=1),
        config=json.dumps(summary.config, indent=1),
    )


def findings(summary: Summary) -> list[str]:
    """One sentence per budget: the best method, and what it keeps and loses."""
    lines = []
    for budget in summary.budgets:
        rows = [r for r in summary.at(budget) if r.auc]
        if not rows or rows[0].auc is None:
            continue
        best = rows[0]
        text = f"At {_budget(best)}: {best.method} has the highest mean test AUC, {_estimate(best)}"
        against = best.versus.get(summary.baseline)
        if against:
            told = "" if against.verdict != "unclear" else " (not told apart)"
            text += f"; {against.mean:+.4f} against {summary.baseline}{told}"
        full = best.versus.get(FULL)
        if full:
            told = "" if full.verdict != "unclear" else " (not told apart)"
            text += f"; {full.mean:+.4f} against the full tables{told}"
            if best.compression:
                text += f" at {best.compression:.3g} times fewer bytes"
        lines.append(text + ".")
    return lines


def _columns(summary: Summary) -> list[str]:
    return [
        "Method", "Budget", "Serving", "Smaller", "Test AUC", f"vs {summary.baseline}",
        "vs full", "Log loss", "Training", "Samples/s",
    ]  # fmt: skip


def _sections(summary: Summary) -> Iterator[tuple[int | None, list[_Line]]]:
    unbudgeted = [r for r in summary.rows if r.budget_bytes is None]
    if unbudgeted:
        yield None, [_line(summary, r) for r in unbudgeted]
    for budget in summary.budgets:
        yield budget, [_line(summary, r) for r in summary.at(budget)]


def _line(summary: Summary, row: Row) -> _Line:
    tag = "baseline" if row.baseline and row.method != FULL else ""
    if row.trial:
        tag = f"{tag}, {row.trial}" if tag else row.trial
    name = _Cell(row.method, row.method, tag=tag)
    budget = _Cell(row.budget or "-", str(row.budget_bytes or ""), title=_budget(row))
    if row.auc is None:
        reason = _Cell(row.reason or "no result", kind="reason", span=len(_columns(summary)) - 2)
        return _Line(row, (name, budget, reason))
    serving, training = row.bytes["serving_bytes"], row.bytes["training_bytes"]
    smaller = f"{row.compression:.3g}x" if row.compression else "-"
    speed, ratio = row.samples_per_second or 0.0, row.speed_ratio
    loss = row.test["logloss"]
    cells = (
        name,
        budget,
        _Cell(format_bytes(serving), str(serving), title=f"{serving:,} bytes"),
        _Cell(smaller, str(row.compression or "")),
        _Cell(_estimate(row), str(row.auc.mean), title=_by_seed(row)),
        _versus_cell(row.versus.get(summary.baseline)),
        _versus_cell(row.versus.get(FULL)),
        _Cell(f"{loss:.4f}", str(loss)),
        _Cell(format_bytes(training), str(training), title=f"{training:,} bytes"),
        _Cell(f"{speed / 1000:.3g}k" + (f" ({ratio:.2f}x)" if ratio else ""), str(speed)),
    )
    return _Line(row, cells)


def _versus_cell(versus: Versus | None) -> _Cell:
    if versus is None:
        return _Cell("-")
    half = "" if versus.high is None else f" ± {versus.high - versus.mean:.4f}"
    rows = ""
    if versus.rows_low is not None and versus.rows_high is not None:
        rows = f"rows {versus.rows_low:+.4f} to {versus.rows_high:+.4f}"
    p = "" if versus.p_holm is None else f"corrected p = {versus.p_holm:.3g} over seeds"
    return _Cell(
        f"{versus.mean:+.4f}{half} {_SIGNS[versus.verdict]}".rstrip(),
        str(versus.mean),
        small=rows,
        title=p,
        kind="" if versus.verdict == "unclear" else versus.verdict,
    )


def _cards(summary: Summary) -> list[tuple[str, str]]:
    cards = []
    if summary.full_serving_bytes:
        cards.append((format_bytes(summary.full_serving_bytes), "full tables, serving"))
    if summary.full:
        cards.append((_estimate(summary.full), "test AUC of the full tables"))
    if summary.data.best_auc is not None:
        cards.append((f"{summary.data.best_auc:.4f}", "best possible test AUC"))
    for split in ("train", "test"):
        if split in summary.data.num_rows:
            cards.append((f"{summary.data.num_rows[split]:,}", f"{split} rows"))
    if summary.data.num_features:
        cards.append((str(summary.data.num_features), "sparse features"))
    return cards


def _left_out(summary: Summary) -> list[str]:
    """What has no result or lacks a seed, in words."""
    lines = []
    for row in summary.rows:
        where = f"{row.method} at {_budget(row)}" if row.budget_bytes else row.method
        if row.auc is None:
            lines.append(f"No result for {where}: {row.reason or 'not run yet'}.")
        elif row.missing:
            lines.append(f"Seeds missing for {where}: {'; '.join(row.missing)}.")
    return lines


def _budget(row: Row) -> str:
    if row.budget_bytes is None:
        return "no budget"
    size = format_bytes(row.budget_bytes)
    return size if row.budget in (None, size) else f"{row.budget} of full ({size})"


def _estimate(row: Row) -> str:
    if row.auc is None:
        return "-"
    half = row.auc.half_width
    return f"{row.auc.mean:.4f}" + (f" ± {half:.4f}" if half is not None else "")


def _by_seed(row: Row) -> str:
    return ", ".join(f"seed {seed}: {auc:.5f}" for seed, auc in row.auc_by_seed.items())


def _with_tag(cell: _Cell) -> str:
    return f"{cell.text} ({cell.tag})" if cell.tag else cell.text


def _title(summary: Summary) -> str:
    num = len(summary.seeds)
    seeds = f"{num} seed{'s' if num != 1 else ''}"
    return f"{summary.data.name}, protocol {summary.data.protocol}, {seeds}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return escape(text, quote=False).replace("|", "\\|")


def _short(commit: object) -> str:
    return str(commit)[:12] if commit else "unknown"
