"""The table of a tuning for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from compactrec.benchmarks.space import settings_text
from compactrec.benchmarks.study import Cell
from compactrec.benchmarks.tune_file import TuneFile
from compactrec.benchmarks.tuning import BASE

__all__ = ["tune_table"]


def tune_table(file: TuneFile) -> Group:
    """Per cell: validation AUC of the base config and of the setting chosen, and what that is.

    Below it stands what has no result, and which choices the end of the space may have decided.
    """
    tuning = file.tuning
    title = f"{file.data.name}: {tuning.num_trials} trials each, sampler {tuning.sampler}"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        header_style="bold", pad_edge=False,
    )  # fmt: skip
    for name in ("Method", "Budget", "Base AUC", "Best AUC", "Trials", "Chosen", "Setting"):
        table.add_column(name, justify="right" if name in ("Base AUC", "Best AUC") else "left")
    notes = []
    for cell in file.cells:
        table.add_row(*_row(cell))
        notes += _notes(cell, file)
    lines = [Text(f"* {note}", style="dim") for note in notes]
    legend = Text("AUC: of validation rows, one seed that is not reported.", style="dim")
    return Group(table, *lines, legend)


def _row(cell: Cell) -> tuple[str, ...]:
    budget = cell.budget or "-"
    if not cell.trials:
        return (cell.method, budget, "-", "-", "0", "none, see below", "")
    by_name = {trial.name: trial.validation_auc for trial in cell.trials}
    best = None if cell.trial is None else by_name[cell.trial]
    setting = ", ".join(
        f"{settings_text({name: value})}{' (end of the space)' if name in cell.edges else ''}"
        for name, value in cell.settings.items()
    )
    finished = sum(auc is not None for auc in by_name.values())
    trials = f"{len(by_name)}" if finished == len(by_name) else f"{finished} of {len(by_name)}"
    return (
        cell.method, budget, _auc(by_name.get(BASE)), _auc(best), trials,
        cell.trial or "none, see below", setting,
    )  # fmt: skip


def _notes(cell: Cell, file: TuneFile) -> list[str]:
    where = cell.method if cell.budget is None else f"{cell.method} at {cell.budget}"
    if cell.trial is None:
        return [f"{where}: {cell.reason or 'not tuned'}"]
    notes = [
        f"{where}, {trial.name} failed: {trial.reason}"
        for trial in cell.trials
        if trial.validation_auc is None
    ]
    for name in cell.edges:
        span = file.tuning.space.ranges[name]
        notes.append(
            f"{where}: {settings_text({name: cell.settings[name]})} stands at an end of the space "
            f"({span.text}); a wider one may hold a better value, for all methods"
        )
    return notes


def _auc(auc: float | None) -> str:
    return "-" if auc is None else f"{auc:.4f}"
