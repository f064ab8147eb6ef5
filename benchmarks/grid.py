"""Methods x budgets on one data folder: what a tuning and a comparison begin with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compactrec.benchmarks.choices import FULL, changed, parse_method, with_baselines
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.jobs import Job, make_jobs
from compactrec.benchmarks.runs import num_cores
from compactrec.benchmarks.study import DataNote
from compactrec.data.manifest import Manifest

__all__ = ["Before", "Grid", "make_grid", "require_baseline", "require_budgets"]


class Before(Protocol):
    """The file that an earlier command left in the same folder."""

    @property
    def data(self) -> DataNote: ...

    @property
    def config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Grid:
    """The cells, with a plan each, and what they share."""

    base: TrainConfig
    manifest: Manifest
    note: DataNote
    jobs: list[Job]
    full_bytes: int | None
    """Serving bytes of the full tables."""

    @property
    def shared(self) -> dict[str, Any]:
        """What every run shares, resolved."""
        own = {"method", "budget_bytes", "options", "seed"}
        return {name: v for name, v in self.base.resolved().items() if name not in own}

    @property
    def num_ready(self) -> int:
        """Cells that can be trained."""
        return sum(job.config is not None for job in self.jobs)


def require_budgets(methods: Iterable[str], budgets: Iterable[str]) -> None:
    """Raise ValueError for methods without a budget."""
    if (asked := list(methods)) and not list(budgets):
        raise ValueError(f"methods {asked} need a budget to be compared at; give one or more")


def require_baseline(baseline: str | None, methods: Iterable[str], budgets: Iterable[str]) -> None:
    """Raise ValueError for a `baseline` that no report of these methods could test against."""
    if baseline is None or not list(budgets):
        return
    known = [choice.text for choice in with_baselines(methods)]
    if baseline not in known:
        raise ValueError(
            f"baseline (--baseline) {baseline!r} is not among the methods that are compared: "
            f"{', '.join(known)}; choose one of them, or add it to the methods (--methods)"
        )


def make_grid(
    methods: tuple[str, ...],
    budgets: tuple[str, ...],
    base: TrainConfig,
    num_jobs: int,
    before: Before | None,
) -> Grid:
    """Plans for all cells, saved in `base.out`; the baselines are added.

    Raises ValueError for an unknown method or budget, where no method but `full` has a plan at any,
    and where `before` is of other data.
    """
    choices = with_baselines(methods) if budgets else [parse_method(FULL)]
    manifest = Manifest.load(base.data)
    note = _note(manifest)
    if before is not None:
        _refuse_other_data(before.data, note, base.out)
    base = _with_threads(base, num_jobs, before)
    (base.out / "plans").mkdir(parents=True, exist_ok=True)
    jobs, full_bytes = make_jobs(budgets, choices, base, manifest)
    _require_plans(jobs)
    return Grid(base, manifest, note, jobs, full_bytes)


def _note(manifest: Manifest) -> DataNote:
    return DataNote(
        name=manifest.name,
        protocol=manifest.protocol,
        manifest_sha256=manifest.sha256(),
        num_rows={name: split.num_rows for name, split in manifest.splits.items()},
        num_features=len(manifest.sparse),
        best_auc=manifest.best_auc,
    )


def _refuse_other_data(there: DataNote, here: DataNote, out: Path) -> None:
    if there.manifest_sha256 != here.manifest_sha256:
        raise ValueError(
            f"{out} holds results on other data: {there.name} (manifest "
            f"{there.manifest_sha256[:8]}), and this is {here.name} (manifest "
            f"{here.manifest_sha256[:8]}); give another --out folder"
        )


def _require_plans(jobs: list[Job]) -> None:
    """Full tables alone are no comparison."""
    sized = [job for job in jobs if job.cell.budget is not None]
    if not sized or any(job.config is not None for job in sized):
        return
    largest = [job for job in sized if job.cell.budget == sized[0].cell.budget]
    ordered = sorted(largest, key=lambda job: job.smallest_bytes or math.inf)
    raise ValueError(
        f"no method has a plan of {sized[0].cell.budget}, so full tables alone would be trained. "
        f"The smallest plans: {'; '.join(_smallest(job) for job in ordered)}. Raise the budget "
        f"(--budget)"
    )


def _smallest(job: Job) -> str:
    if job.smallest_bytes is None:
        return f"{job.cell.method} has none ({job.cell.reason})"
    return f"{job.cell.method} {job.smallest_bytes:,} bytes"


def _with_threads(base: TrainConfig, num_jobs: int, before: Before | None) -> TrainConfig:
    """Every job its share of the cores; what goes on keeps the threads it had.

    Threads decide the rounding, so other ones would make finished runs those of another request.
    """
    if base.num_threads is not None:
        return base
    kept = None if before is None else before.config.get("num_threads")
    if kept is None and num_jobs > 1:
        kept = max(1, num_cores() // num_jobs)
    return changed(base, num_threads=kept)
