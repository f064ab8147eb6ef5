"""What a search found, for a person: its course, the plans, pictures of them, the next command."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.checkpoint import copy_atomically
from compactrec.benchmarks.plan_picture import draw_plan, plan_figures
from compactrec.benchmarks.search_result import FoundPlan, SearchResult
from compactrec.benchmarks.show import plan_table
from compactrec.benchmarks.start import start_path
from compactrec.data.manifest import Manifest
from compactrec.embeddings import load_plan

__all__ = ["report_search"]


def report_search(
    result: SearchResult, data: Path, out: Path, plan: Path | None, console: Console
) -> None:
    """Print what ``out`` holds, draw every plan beside its file, and copy the one plan to ``plan``.

    Raises:
        ValueError: no budget has a plan.
    """
    console.print(history_table(result))
    for found in result.found:
        budget = "its own size" if found.budget_bytes is None else format_bytes(found.budget_bytes)
        if found.plan is None:
            console.print(f"No plan for {budget}: {found.reason}", soft_wrap=True)
            continue
        made = load_plan(out / found.plan)
        console.print(plan_table(made, title=f"{out / found.plan}: {result.search} at {budget}"))
        picture = (out / found.plan).with_suffix(".png")
        draw_plan(plan_figures(made, Manifest.load(data).counts(data)), picture)
        console.print(_next(found, data, out, plan, picture), soft_wrap=True)
        if plan is not None:
            _copy(found, out, plan)
    console.print(
        f"search: {result.total_seconds:.0f} s in all, {result.train_seconds:.0f} s of them steps; "
        f"peak memory {format_bytes(result.peak_rss_bytes)}"
    )
    if not any(found.plan for found in result.found):
        raise ValueError(f"{result.search} found no plan, see above; raise the budget")


def history_table(result: SearchResult) -> Table:
    """One line per validation."""
    names = list(dict.fromkeys(name for entry in result.history for name in entry.figures))
    table = Table(title=f"{result.search}, seed {result.seed}", title_justify="left")
    for name in ("Phase", "Step", "Loss", "Validation AUC", *names):
        table.add_column(name, justify="left" if name == "Phase" else "right")
    for entry in result.history:
        figures = [f"{entry.figures[n]:.4g}" if n in entry.figures else "" for n in names]
        table.add_row(
            entry.phase, f"{entry.step:,}", f"{entry.train_loss:.4f}",
            f"{entry.validation.auc:.4f}", *figures,
        )  # fmt: skip
    return table


def _copy(found: FoundPlan, out: Path, plan: Path) -> None:
    assert found.plan is not None
    plan.parent.mkdir(parents=True, exist_ok=True)
    load_plan(out / found.plan).save(plan)
    if found.start is not None:
        copy_atomically(out / found.start, start_path(plan))


def _next(found: FoundPlan, data: Path, out: Path, plan: Path | None, picture: Path) -> str:
    """The picture's place and the command that trains the plan."""
    assert found.plan is not None
    place = plan or out / found.plan
    words = [f"compactrec train --data {data} --plan {place}"]
    if found.start is not None:
        words.append(f"--start {start_path(place) if plan else out / found.start}")
    if found.epochs is not None:
        words.append(f"--epochs {found.epochs}")
    return f"picture: {picture}\ntrain it: {' '.join(words)} --out runs/{result_name(found)}"


def result_name(found: FoundPlan) -> str:
    """A name for the folder of the run."""
    return "searched" if found.budget_bytes is None else f"searched-{found.budget_bytes}"
