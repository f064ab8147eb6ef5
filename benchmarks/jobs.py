"""The cells of a comparison while they are worked on: plan, config, folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compactrec.benchmarks.budgets import parse_budget
from compactrec.benchmarks.choices import FULL, MethodChoice, changed, full_serving_bytes
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.plans import plan_bytes, resolve_plan
from compactrec.benchmarks.start import start_epochs, start_path, start_sha256
from compactrec.benchmarks.study import Cell
from compactrec.data.manifest import Manifest
from compactrec.embeddings import load_plan
from compactrec.embeddings.budget import NoPlanSoSmall

__all__ = ["Found", "Job", "make_jobs", "placed", "plain"]


@dataclass(frozen=True)
class Found:
    """A plan that a search found, in its place on disk."""

    plan: Path
    start: Path | None
    epochs: int | None


@dataclass
class Job:
    """One cell while it is being worked on."""

    cell: Cell
    config: TrainConfig | None
    """None when there is no plan."""
    digest: str = ""
    """Of the plan."""
    draws: bool = False
    """The method draws hash functions: every seed draws its own, so that intervals cover them."""
    search: MethodChoice | None = None
    """The search that makes the plans, one for every seed; then there is no plan before it ran."""
    smallest_bytes: int | None = None
    """Of the method's plans, where it has none at the budget for that reason."""
    found: dict[int, Found] = field(default_factory=dict)
    """seed -> what its search found."""

    @property
    def title(self) -> str:
        """The cell in words, for progress and messages."""
        budget = self.cell.budget
        return self.cell.method if budget is None else f"{self.cell.method} at {budget}"


def make_jobs(
    budgets_asked: Sequence[str], choices: list[MethodChoice], base: TrainConfig, manifest: Manifest
) -> tuple[list[Job], int | None]:
    """One job per cell, with its plan saved; and the serving bytes of the full tables."""
    full = next(choice for choice in choices if choice.name == FULL)
    jobs = [_job(full, None, None, base, manifest)]
    full_bytes = full_serving_bytes(base, manifest)
    budgets: dict[int, str] = {}
    for text in budgets_asked:
        budget = parse_budget(text)
        budgets.setdefault(budget.resolve(full_bytes), budget.label)
    for num_bytes, label in sorted(budgets.items(), reverse=True):
        rest = (choice for choice in choices if choice.name != FULL)
        jobs += [_job(choice, num_bytes, label, base, manifest) for choice in rest]
    return jobs, full_bytes


def _job(
    choice: MethodChoice,
    budget_bytes: int | None,
    label: str | None,
    base: TrainConfig,
    manifest: Manifest,
) -> Job:
    cell = Cell(
        method=choice.text, baseline=choice.baseline, budget=label, budget_bytes=budget_bytes
    )
    threshold = base.threshold if choice.threshold is None else choice.threshold
    if choice.is_search:
        config = changed(
            base, plan=None, method=FULL, budget_bytes=None, options={}, threshold=threshold,
            quiet=True, keep_model=False,
        )  # fmt: skip
        return Job(cell, config, search=choice)
    if choice.plan is not None:
        return _of_file(cell, choice.plan, base, manifest)
    config = changed(
        base, plan=None, method=choice.name, budget_bytes=budget_bytes,
        options=choice.options, threshold=threshold, quiet=True, keep_model=False,
    )  # fmt: skip
    try:
        plan = resolve_plan(config, manifest)
        plan_bytes(config, plan)  # an open vocabulary is refused here, before anything is trained
    except ValueError as error:
        least = error.smallest_bytes if isinstance(error, NoPlanSoSmall) else None
        return Job(cell.model_copy(update={"reason": str(error)}), None, smallest_bytes=least)
    path = base.out / "plans" / f"{_slug(cell)}.json"
    plan.save(path)
    return Job(cell, changed(config, plan=path), plan.digest, choice.draws)


def _of_file(cell: Cell, path: Path, base: TrainConfig, manifest: Manifest) -> Job:
    """A plan file at a budget: it has the size that it has. If its start lies beside, it is trained
    from that, as long as the start asks for."""
    start = start_path(path) if start_path(path).is_file() else None
    epochs = None if start is None else start_epochs(start)
    config = changed(
        base, plan=path, start=start, epochs=base.epochs if epochs is None else epochs,
        method=None, budget_bytes=None, options={}, quiet=True, keep_model=False,
    )  # fmt: skip
    plan = resolve_plan(config, manifest)  # raises where it is for other features
    taken = plan_bytes(config, plan).serving_bytes
    if cell.budget_bytes is not None and taken > cell.budget_bytes:
        reason = f"{path} serves with {taken:,} bytes, and the budget is {cell.budget_bytes:,}"
        without = cell.model_copy(update={"reason": reason})
        return Job(without, None, smallest_bytes=taken)
    return Job(cell, config, plan.digest)


def placed(
    config: TrainConfig, job: Job, seed: int, folder: str, manifest: Manifest, prefix: str = ""
) -> TrainConfig:
    """The config of one seed in a folder named by what it is and a hash of all that decides it."""
    config, plan_digest = changed(config, seed=seed), job.digest
    if job.draws:
        config = changed(config, plan=None, options={**config.options, "seed": seed})
        plan = resolve_plan(config, manifest)
        path = config.out / "plans" / f"{_slug(job.cell)}_seed{seed}.json"
        plan.save(path)
        config, plan_digest = changed(config, plan=path), plan.digest
    if job.search is not None:
        found = job.found[seed]
        config = changed(
            config, plan=found.plan, start=found.start, method=None,
            epochs=config.epochs if found.epochs is None else found.epochs,
        )  # fmt: skip
        plan_digest = load_plan(found.plan).digest
    decides: dict[str, Any] = {
        "config": config.resolved(),
        "plan": plan_digest,
        "data": manifest.sha256(),
    }
    if config.start is not None:
        decides["start"] = start_sha256(config.start)
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{_slug(job.cell)}_{prefix}seed{config.seed}_{digest}"
    return changed(config, out=config.out / folder / name)


def _slug(cell: Cell) -> str:
    return plain(cell.method if cell.budget_bytes is None else f"{cell.method}_{cell.budget_bytes}")


def plain(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)
