"""Tables for the terminal: methods, a data folder, a plan, one result, a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.cells import (
    Line,
    columns_of,
    left_out,
    legend_of,
    sections_of,
    short_cells,
    title_of,
    with_tag,
)
from compactrec.benchmarks.metrics import Metrics
from compactrec.benchmarks.protocol_file import load_protocol, protocol_names
from compactrec.benchmarks.published import published_table
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.summary import Summary
from compactrec.benchmarks.texts import budget_text
from compactrec.data.manifest import Manifest
from compactrec.embeddings import AnyPlan, Method, get_method, method_names, size
from compactrec.embeddings.search import Search, get_search, search_names
from compactrec.models import Model, get_model, model_names

__all__ = [
    "manifest_table",
    "methods_table",
    "models_table",
    "option_text",
    "plan_table",
    "protocols_table",
    "result_table",
    "terminal_table",
]

_STYLES = {"better": "green", "worse": "red", "reason": "dim"}
_DROPPED_FIRST = ("Budget", "Log loss", "Training", "Smaller", "Samples/s", "vs full")


def methods_table() -> Group:
    """Methods and searches: title, formula, paper, and options with what they allow."""
    methods = _table("", ("Method", "What it is", "Options at a budget"), num_right=0)
    for name in method_names():
        _describe(methods, name, get_method(name), get_method(name).options)
    searches = _table("", ("Search", "What it does", "Options"), num_right=0)
    for name in search_names():
        _describe(searches, name, get_search(name), get_search(name).options)
    return Group(methods, searches)


def models_table() -> Table:
    """Models: title, formula, paper, and options with what they allow."""
    models = _table("", ("Model", "What it is", "Options"), num_right=0)
    for name in model_names():
        entry = get_model(name)
        _describe(models, name, entry, entry.config)
    return models


def protocols_table() -> Table:
    """Published protocols: title, models, and how many figures stand beside ours."""
    table = _table("", ("Protocol", "What it is", "Models", "Figures"), num_right=1)
    table.columns[0].no_wrap = True
    for name in protocol_names():
        protocol = load_protocol(name)
        figures = sum(len(group.cells) for group in protocol.figures)
        table.add_row(name, protocol.title, ", ".join(protocol.models), str(figures))
    return table


def _describe(
    table: Table, name: str, entry: Method | Search | Model, options: type[BaseModel]
) -> None:
    """A row of what a person can ask for."""
    what = [Text(entry.title, style="bold"), Text(entry.formula, style="cyan")]
    if entry.paper != "-":
        what.append(Text(entry.paper, style="dim"))
    schema = options.model_json_schema()
    texts = [option_text(key, field) for key, field in schema.get("properties", {}).items()]
    if isinstance(entry, Model) and entry.training:
        given = ", ".join(f"{key} = {value}" for key, value in entry.training.items())
        texts.append(f"trained with {given}")
    title = Text(name, style="bold")
    if not isinstance(entry, Model) and entry.baseline:
        title.append("\nbaseline", style="dim not bold")
    table.add_row(title, Text("\n").join(what), Text("\n".join(texts) or "-"))
    table.add_row()


def option_text(name: str, field: dict[str, Any]) -> str:
    """One option from its JSON schema: name, what is allowed, default."""
    kinds = field.get("anyOf", [field])
    allowed = []
    for kind in kinds:
        if "enum" in kind:
            allowed.append(" | ".join(str(v) for v in kind["enum"]))
        elif "const" in kind:
            allowed.append(str(kind["const"]))
        elif kind.get("type") == "null":
            allowed.append("null")
        else:
            low, high = kind.get("minimum"), kind.get("maximum")
            above = f" > {kind['exclusiveMinimum']:g}" if "exclusiveMinimum" in kind else ""
            text = kind.get("type", "value") + above
            if low is not None and high is not None:
                text += f" {low:g} to {high:g}"
            elif low is not None:
                text += f" >= {low:g}"
            elif high is not None:
                text += f" <= {high:g}"
            allowed.append(text)
    default = field.get("default")
    shown = (
        "null"
        if default is None
        else str(default).lower()
        if isinstance(default, bool)
        else default
    )
    return f"{name} = {' | '.join(allowed)} [{shown}]"


def manifest_table(manifest: Manifest, folder: Path) -> Table:
    """Rows per split and ids per feature of a data folder."""
    table = _table(
        f"{folder}: {manifest.name}, protocol {manifest.protocol}", ("", "Rows", "Positive")
    )
    for name, split in manifest.splits.items():
        positives = manifest.counters.positives.get(name)
        share = f"{positives / split.num_rows:.2%}" if positives and split.num_rows else "-"
        table.add_row(name, f"{split.num_rows:,}", share)
    known = [f.num_ids for f in manifest.sparse if f.num_ids is not None]
    table.add_section()
    table.add_row(f"{len(manifest.sparse)} sparse features", f"{sum(known):,} ids", "")
    table.add_row(f"{len(manifest.dense)} dense columns", "", "")
    if manifest.counters.malformed_rows:
        table.add_row("malformed rows, set aside", f"{manifest.counters.malformed_rows:,}", "")
    return table


def plan_table(plan: AnyPlan, title: str) -> Table:
    """Per feature or shared group: method, physical tables, bytes, compression; and the sum.

    Several plans come one after the other, then what routes to them.
    """
    report = size(plan)
    names = ("Feature", "Method", "Tables (rows x width)", "Bytes", "Full", "Smaller")
    table = _table(title, names, num_left=2)
    rows = iter(report.groups)
    for number, part in enumerate(plan.plans):
        if number:
            table.add_section()
        arrays = {name: array.to("meta") for name, array in part.arrays.items()}
        for group in part.groups:
            row = next(rows)
            with torch.device("meta"):
                tables = part.lower_group(group, arrays).tables
            shapes = _shapes((t.num_rows, t.dim) for t in tables)
            num_bytes = row.table_bytes + row.aux_bytes + row.dense_bytes
            table.add_row(
                _features(row.features), row.method, shapes, *_bytes(num_bytes, row.full_bytes)
            )
    known = [row.full_bytes for row in report.groups[: len(plan.plans[0].groups)]]
    full = None if None in known else sum(f or 0 for f in known)
    table.add_section()
    if report.routing_bytes:
        table.add_row("router", "", "", format_bytes(report.routing_bytes), "", "")
    parts = (
        f"tables {format_bytes(report.table_bytes)}, integers {format_bytes(report.aux_bytes)}, "
        f"dense {format_bytes(report.dense_bytes)}"
    )
    table.add_row("serving", "", parts, *_bytes(report.serving_bytes, full), style="bold")
    return table


def result_table(result: Result, folder: Path) -> Table:
    """One finished run."""
    table = _table(f"{folder}: {result.method}, seed {result.seed}", ("", "Validation", "Test"))
    for name in Metrics.model_fields:
        values = [getattr(split, name, None) for split in (result.validation, result.test)]
        texts = [
            f"{v:,}" if isinstance(v, int) else "-" if v is None else f"{v:.5f}" for v in values
        ]
        table.add_row(name.replace("_", " "), *texts)
    table.add_section()
    table.add_row("serving bytes", "", format_bytes(result.bytes.serving_bytes))
    table.add_row("training bytes", "", format_bytes(result.bytes.training_bytes))
    table.add_row("samples per second", "", f"{result.samples_per_second:,.0f}")
    if result.num_processes not in (None, 1):
        table.add_row("processes", "", f"{result.num_processes}")
    table.add_row("best step of", "", f"{result.best_step:,} of {result.num_steps:,}")
    return table


def terminal_table(summary: Summary, width: int = 160) -> Group:
    """The table for a terminal of `width` characters, with what was left out below it.

    Columns that do not fit are left out, the least important first; they are in the files.
    """
    sections = list(sections_of(summary))
    names = columns_of(summary)
    headings = {b: budget_text(lines[0].row) for b, lines in sections if b is not None}
    shown = _fitting(names, headings.values(), [x for _, lines in sections for x in lines], width)
    table = _table(title_of(summary), tuple(names[i] for i in shown))
    for column in table.columns:
        column.no_wrap = True
    for budget, lines in sections:
        if budget is not None:
            table.add_row(Text(headings[budget], style="bold cyan"))
        for line in lines:
            cells = dict(enumerate(short_cells(line, len(names))))
            texts = [Text(with_tag(cells[i]), style=_STYLES.get(cells[i].kind, "")) for i in shown]
            table.add_row(*texts, style="bold" if line.reference else "")
        table.add_row()
    notes = [Text(f"* {line}", style="dim") for line in left_out(summary)]
    group = Group(table, *notes, Text(legend_of(summary), style="dim"))
    published = published_table(summary)
    return group if published is None else Group(group, Text(), published)


def _table(
    title: str, names: tuple[str, ...], *, num_left: int = 1, num_right: int | None = None
) -> Table:
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        header_style="bold", pad_edge=False,
    )  # fmt: skip
    for i, name in enumerate(names):
        right = i >= num_left if num_right is None else i >= len(names) - num_right
        table.add_column(name, justify="right" if right else "left")
    return table


def _fitting(
    names: Sequence[str], headings: Iterable[str], lines: Sequence[Line], width: int
) -> list[int]:
    """Indices of the columns to show. "Budget" never is: each budget has a heading."""
    widths = [len(name) for name in names]
    widths[0] = max([widths[0], *(len(heading) for heading in headings)])
    for line in lines:
        for i, cell in enumerate(short_cells(line, len(names))):
            widths[i] = max(widths[i], len(with_tag(cell)))
    shown = list(range(len(names)))
    for name in _DROPPED_FIRST:
        if name != "Budget" and sum(widths[i] + 3 for i in shown) <= width:
            break
        shown.remove(list(names).index(name))
    return shown


def _shapes(tables: Iterable[tuple[int, int]]) -> str:
    texts = [f"{rows:,} x {dim}" for rows, dim in tables]
    if len(texts) > 3:
        texts = [*texts[:2], f"{len(texts) - 2} more"]
    return ", ".join(texts)


def _features(names: tuple[str, ...]) -> str:
    if len(names) <= 2:
        return ", ".join(names)
    return f"{names[0]} ... {names[-1]} ({len(names)}, shared)"


def _bytes(num_bytes: int, full_bytes: int | None) -> tuple[str, str, str]:
    if full_bytes is None:
        return format_bytes(num_bytes), "open", "-"
    return format_bytes(num_bytes), format_bytes(full_bytes), f"{full_bytes / num_bytes:.3g}x"
