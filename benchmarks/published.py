"""Ours beside the published figures: one line per number, never without its source and caveat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.protocol_note import ProtocolNote, Published
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import budget_text

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "PublishedLine",
    "digits",
    "notes_of",
    "published_lines",
    "published_markdown",
    "published_table",
]

_WORDS = {"auc": "AUC", "logloss": "log loss", "accuracy": "accuracy"}
_COLUMNS = ("Method", "Budget", "Figure", "Ours", "Published", "Ours minus it", "Source")


@dataclass(frozen=True)
class PublishedLine:
    """One published number and ours."""

    row: Row | None
    """None where the cell was not run."""
    figure: Published
    metric: str
    published: float
    ours: float | None
    half_width: float | None
    number: int
    """Of the source, from 1."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of a table's row."""
        ours = "not run" if self.ours is None else f"{self.ours:.4f}"
        if self.half_width is not None:
            ours += f" ± {self.half_width:.4f}"
        difference = "-" if self.ours is None else f"{self.ours - self.published:+.4f}"
        num_bytes = self.figure.budget_bytes
        budget = "-" if num_bytes is None else format_bytes(num_bytes)
        if self.row is not None and self.row.budget:
            budget = budget_text(self.row)
        return (
            self.figure.method, budget, f"{self.figure.split} {_WORDS[self.metric]}", ours,
            digits(self.published), difference, f"[{self.number}]",
        )  # fmt: skip


def digits(value: float) -> str:
    """With the digits it was published with, and four at least."""
    return max(f"{value:.4f}", f"{value:g}", key=len)


def published_lines(summary: Summary) -> list[PublishedLine]:
    """A line per published number of the comparison's protocol."""
    note = summary.protocol
    if note is None:
        return []
    sources = _sources(note)
    lines = []
    for figure in note.figures:
        key = (figure.method, figure.budget_bytes)
        row = next((r for r in summary.rows if (r.method, r.budget_bytes) == key), None)
        for metric, value in figure.metrics.items():
            ours, half = _ours(row, figure, metric)
            number = sources.index(_source(figure)) + 1
            lines.append(PublishedLine(row, figure, metric, value, ours, half, number))
    return lines


def _ours(row: Row | None, figure: Published, metric: str) -> tuple[float | None, float | None]:
    if row is None or row.auc is None:
        return None, None
    if figure.split == "validation":
        return row.validation_auc, None
    if metric == "auc":
        return row.auc.mean, row.auc.half_width
    return row.test.get(metric), None


def _source(figure: Published) -> str:
    return f"{figure.source} ({figure.provenance}). Caveat: {figure.caveat}"


def _sources(note: ProtocolNote) -> list[str]:
    return list(dict.fromkeys(_source(figure) for figure in note.figures))


def notes_of(note: ProtocolNote) -> Iterator[str]:
    """What has to be read with the numbers: deviations, sources, caveats."""
    yield from note.deviations
    if not note.figures:
        yield "there is no published figure that could be verified"
    for number, text in enumerate(_sources(note), start=1):
        yield f"[{number}] {text}"
    yield from (f"otherwise than published: {text}" for text in note.caveats)


def published_markdown(summary: Summary) -> list[str]:
    """Lines of Markdown; none where the comparison has no protocol."""
    note = summary.protocol
    if note is None:
        return []
    head = f"**Protocol `{note.name}`, model `{note.model}`.** {note.title}."
    lines = ["", head, ""]
    found = published_lines(summary)
    if found:
        lines += ["| " + " | ".join(_COLUMNS) + " |", "|:---|:---|:---|---:|---:|---:|---:|"]
        lines += ["| " + " | ".join(line.cells) + " |" for line in found]
        lines.append("")
    return [*lines, *(f"* {text}" for text in notes_of(note))]


def published_table(summary: Summary) -> Group | None:
    """The same for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    note = summary.protocol
    if note is None:
        return None
    table = Table(
        title=f"Protocol {note.name}, model {note.model}", title_justify="left",
        title_style="bold", box=SIMPLE_HEAD, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for i, name in enumerate(_COLUMNS):
        table.add_column(name, justify="right" if i >= 3 else "left", no_wrap=True)
    for line in published_lines(summary):
        table.add_row(*(Text(cell) for cell in line.cells))
    deviations = len(note.deviations)
    styles = ["bold yellow"] * deviations
    texts = [
        Text(f"* {text}", style=styles[i] if i < deviations else "dim")
        for i, text in enumerate(notes_of(note))
    ]
    return Group(*([table] if note.figures else []), *texts)
