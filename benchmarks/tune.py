"""Tuning alone: the settings of every cell, chosen on validation rows, to compare with later.

    out/tune.json     every trial of every cell, and the setting chosen
    out/trials/...    one folder per trial, as those of `compare`; their test split stays closed
    out/searches/...  the searches behind the plans

The same request again skips finished trials and goes on with what was interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.grid import make_grid, require_budgets
from compactrec.benchmarks.readiness import check_ready
from compactrec.benchmarks.runs import Progress, Runner
from compactrec.benchmarks.searches import Searcher, num_searches, run_searches
from compactrec.benchmarks.tune_file import TUNE_NAME, TuneFile, tune_file
from compactrec.benchmarks.tuning import Tuning, tune_jobs
from compactrec.locks import locked

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TuneRequest", "tune"]


class TuneRequest(BaseModel):
    """What to tune; methods, budgets and jobs as in a `CompareRequest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    tuning: Tuning = Tuning(num_trials=8)
    num_jobs: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_budgets(self.methods, self.budgets)
        if not self.tuning.is_on:
            raise ValueError("one trial is the base config alone; ask for two or more")
        return self


def tune(
    request: TuneRequest,
    base: TrainConfig,
    *,
    runner: Runner | None = None,
    searcher: Searcher | None = None,
    console: Console | None = None,
) -> TuneFile:
    """Make all trials of `request` that are not there yet; writes and returns `tune.json`.

    The arguments are those of :func:`compactrec.benchmarks.compare.compare`. Raises ValueError as
    it does, and for a space that does not fit `base`.
    """
    check_ready(base)
    if runner is None:
        from compactrec.benchmarks.train import train

        runner = train
    if searcher is None:
        from compactrec.benchmarks.search import search

        searcher = search
    tuning = request.tuning.resolve(base)
    with locked(base.out):
        path = base.out / TUNE_NAME
        before = TuneFile.load(path) if path.is_file() else None
        grid = make_grid(request.methods, request.budgets, base, request.num_jobs, before)
        jobs = grid.jobs
        total = grid.num_ready * tuning.num_trials + num_searches(jobs)
        with Progress(total, request.num_jobs, console) as progress:
            run_searches(
                jobs, (tuning.seed,), grid.base, grid.manifest, searcher, request.num_jobs, progress
            )
            tune_jobs(jobs, tuning, grid.manifest, runner, request.num_jobs, progress)
        file = tune_file(grid, tuning)
        file.save(base.out)
    return file
