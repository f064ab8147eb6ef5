"""What a search found, for a person: its course, the plans, pictures of them, the next command."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.plan_picture import FeatureFigures, draw_plan, plan_figures
from compactrec.benchmarks.plans import counts_of
from compactrec.benchmarks.search_result import FoundPlan, SearchResult
from compactrec.benchmarks.start import start_path
from compactrec.data.manifest import Manifest
from compactrec.embeddings import load_plan
from compactrec.embeddings.checkpoint_io import copy_atomically

__all__ = ["report_search"]

FEW_STEPS = 100


def report_search(
    result: SearchResult,
    data: Path,
    out: Path,
    plan: Path | None,
    console: Console,
    words: str = "",
) -> None:
    """Print what ``out`` holds, draw every plan beside its file, and copy the one plan to ``plan``.
    ``words`` are options of the model that training the plan needs as well.

    Raises:
        ValueError: no budget has a plan.
    """
    console.print(history_table(result))
    counts = Manifest.load(data).counts(data)
    for found in result.found:
        budget = "its own size" if found.budget_bytes is None else format_bytes(found.budget_bytes)
        if found.plan is None:
            console.print(f"No plan for {budget}: {found.reason}", soft_wrap=True)
            continue
        made = load_plan(out / found.plan)
        figures = plan_figures(made, counts_of(made.features, counts))
        title = f"{result.search} at {budget}"
        console.print(found_table(figures, found, f"{out / found.plan}: {title}"))
        picture = (out / found.plan).with_suffix(".png")
        draw_plan(figures, picture, title, serving_bytes=found.serving_bytes)
        console.print(_next(found, data, out, plan, picture, words), soft_wrap=True)
        if plan is not None:
            _copy(found, out, plan)
    console.print(
        f"search: {result.total_seconds:.0f} s in all, {result.train_seconds:.0f} s of them steps; "
        f"peak memory {format_bytes(result.peak_rss_bytes)}"
    )
    if (steps := sum(_last_steps(result).values())) < FEW_STEPS:
        console.print(
            f"The supernet had {steps} steps, which is few: a smaller --batch-size or more epochs "
            f"of the search may find more.", soft_wrap=True,
        )  # fmt: skip
    if not any(found.plan for found in result.found):
        raise ValueError(f"{result.search} found no plan, see above; raise the budget")


def found_table(figures: tuple[FeatureFigures, ...], found: FoundPlan, title: str) -> Table:
    """What each feature gets: ids kept, values for each of them, bytes of all copies."""
    models = figures[0].num_models
    copies = f", {models} models" if models > 1 else ""
    table = Table(title=f"{title}{copies}", title_justify="left")
    for name in ("Feature", "Method", "Ids kept", "Mean width", "Bytes", "Full", "Smaller"):
        table.add_column(name, justify="left" if name in ("Feature", "Method") else "right")
    for f in figures:
        table.add_row(
            f.feature, f.method, f"{f.kept_ids:,} of {f.num_ids:,}",
            f"{f.mean_width:.2f} of {f.dim}", format_bytes(f.num_bytes), format_bytes(f.full_bytes),
            f"{f.full_bytes / max(1, f.num_bytes):.3g}x",
        )  # fmt: skip
    full, serving = sum(f.full_bytes for f in figures), found.serving_bytes or 0
    table.add_section()
    table.add_row(
        "serving", "", "", "", format_bytes(serving), format_bytes(full),
        f"{full / max(1, serving):.3g}x", style="bold",
    )  # fmt: skip
    return table


def _last_steps(result: SearchResult) -> dict[str, int]:
    """Steps of every phase, as far as it was validated."""
    return {entry.phase: entry.step for entry in result.history}


def history_table(result: SearchResult) -> Table:
    """One line per validation: of the supernet, with nothing cut yet."""
    names = list(dict.fromkeys(name for entry in result.history for name in entry.figures))
    title = f"{result.search}, seed {result.seed}: the supernet, larger than any plan of it"
    table = Table(title=title, title_justify="left")
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


def _next(
    found: FoundPlan, data: Path, out: Path, plan: Path | None, picture: Path, more: str
) -> str:
    """The picture's place and the command that trains the plan."""
    assert found.plan is not None
    place = plan or out / found.plan
    words = [f"compactrec train --data {data} --plan {place}"]
    if found.start is not None:
        words.append(f"--start {start_path(place) if plan else out / found.start}")
    if found.epochs is not None:
        words.append(f"--epochs {found.epochs}")
    if more:
        words.append(more)
    return f"picture: {picture}\ntrain it: {' '.join(words)} --out runs/{result_name(found)}"


def result_name(found: FoundPlan) -> str:
    """A name for the folder of the run."""
    return "searched" if found.budget_bytes is None else f"searched-{found.budget_bytes}"
