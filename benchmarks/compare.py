"""Methods x budgets x seeds on one data folder, always beside the baselines.

    out/compare.json            what was asked for and how far it is; read by `report`
    out/plans/<cell>.json       one plan per cell (method x budget), and one per seed for methods
                                that draw hash functions: every seed draws its own
    out/runs/<cell>_seed0_<id>  one folder per run; <id> is a hash of config, plan and data
    out/trials/..., tune.json   the same for tuning; their test split stays closed
    out/searches/...            the same for searches, one for every seed; one serves all budgets

The folder of a run carries a hash of all that decides its result. So the same request again skips
what is finished and goes on with what was interrupted, and a changed request never reads a result
that it did not ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.grid import make_grid, require_budgets
from compactrec.benchmarks.jobs import Job, placed
from compactrec.benchmarks.protocol_note import ProtocolNote
from compactrec.benchmarks.readiness import check_ready
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.runs import Failure, Progress, Runner, run_all, trained_already
from compactrec.benchmarks.searches import Searcher, num_searches, run_searches
from compactrec.benchmarks.study import COMPARE_NAME, Cell, CompareFile, RunEntry
from compactrec.benchmarks.tune_file import TuneFile, apply_tuned, tune_file
from compactrec.benchmarks.tuning import Tuning, tune_jobs
from compactrec.data.manifest import Manifest
from compactrec.locks import locked

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CompareRequest", "compare"]


class CompareRequest(BaseModel):
    """What to compare. How each run is trained is in the base `TrainConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...] = ()
    """Names of methods or searches, each with options if wanted (`compositional:operation=concat`),
    or plan files. The baselines are added; an empty tuple means every method that has a budget."""
    budgets: tuple[str, ...] = ()
    """`64MB`, `1/4`, `0.25x`: serving bytes, tables, integer state and dense parts together. None:
    the full tables alone."""
    num_seeds: int = Field(default=3, ge=1)
    """Seeds 0 .. num_seeds - 1; three or more give intervals worth reading."""
    tuning: Tuning = Tuning()
    """Settings tried for every cell, full included."""
    tuned: Path | None = None
    """A `tune.json` with the settings of all cells, instead of tuning here."""
    num_jobs: int = Field(default=1, ge=1)
    """Runs at once, each with its share of the cores."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_budgets(self.methods, self.budgets)
        if self.tuned is not None and self.tuning.is_on:
            raise ValueError(
                f"{self.tuned} has the settings already, and {self.tuning.num_trials} trials were "
                f"asked for; give one of --tuned and --trials"
            )
        if self.tuning.is_on and self.tuning.seed < self.num_seeds:
            raise ValueError(_twice(self.tuning.seed))
        return self


def compare(
    request: CompareRequest,
    base: TrainConfig,
    *,
    runner: Runner | None = None,
    searcher: Searcher | None = None,
    console: Console | None = None,
    protocol: ProtocolNote | None = None,
) -> CompareFile:
    """Make all runs of `request` that are not there yet, and return the state of the comparison.

    `base` gives the data folder, the output folder and everything that the runs share; its method,
    budget and seed are not used. `runner` and `searcher` are `train` and `search` unless a test
    brings its own. `protocol` is kept with the results.

    Raises ValueError for an unknown method or budget, for budgets at which no method has a plan,
    for a device that is not here, and when `base.out` holds a comparison on other data, is a data
    folder or is being written by another process. A method that does not fit a budget and a run
    that fails are recorded in the result.
    """
    check_ready(base)
    if runner is None:
        from compactrec.benchmarks.train import train

        runner = train
    if searcher is None:
        from compactrec.benchmarks.search import search

        searcher = search
    with locked(base.out):
        return _compare(request, base, runner, searcher, console, protocol)


def _compare(
    request: CompareRequest,
    base: TrainConfig,
    runner: Runner,
    searcher: Searcher,
    console: Console | None,
    protocol: ProtocolNote | None,
) -> CompareFile:
    tuning = request.tuning.resolve(base) if request.tuning.is_on else request.tuning
    file = None if request.tuned is None else TuneFile.load(request.tuned)
    if file is not None:
        tuning = file.tuning
        if tuning.seed < request.num_seeds:
            raise ValueError(_twice(tuning.seed))
    there = CompareFile.load(base.out) if (base.out / COMPARE_NAME).is_file() else None
    grid = make_grid(request.methods, request.budgets, base, request.num_jobs, there)
    if file is not None and request.tuned is not None:
        apply_tuned(file, grid, request.tuned)
    seeds = tuple(range(request.num_seeds))
    shared = {**grid.shared, "num_trials": tuning.num_trials, "num_jobs": request.num_jobs}
    if tuning.is_on:
        shared["tuning"] = tuning.model_dump(mode="json", exclude={"num_trials"}, exclude_none=True)

    def state() -> CompareFile:
        file = CompareFile(
            data=grid.note, seeds=seeds, full_serving_bytes=grid.full_bytes, config=shared,
            cells=tuple(job.cell for job in grid.jobs), protocol=protocol,
        )  # fmt: skip
        file.save(base.out)
        return file

    num_trials = tuning.num_trials if request.tuning.is_on else 0
    draws = (*seeds, tuning.seed) if num_trials else seeds
    total = grid.num_ready * (num_trials + len(seeds)) + num_searches(grid.jobs) * len(draws)
    with Progress(total, request.num_jobs, console) as progress:
        state()
        run_searches(
            grid.jobs, draws, grid.base, grid.manifest, searcher, request.num_jobs, progress
        )
        state()
        if num_trials:
            tune_jobs(grid.jobs, tuning, grid.manifest, runner, request.num_jobs, progress)
            tune_file(grid, tuning).save(base.out)
            state()
        _final_runs(grid.jobs, request, seeds, grid.manifest, runner, progress, state)
    return state()


def _twice(seed: int) -> str:
    return (
        f"seed {seed} would be tuned with and reported, so the run that was picked for its luck "
        f"too; compare fewer seeds, or tune with another seed"
    )


def _final_runs(
    jobs: list[Job],
    request: CompareRequest,
    seeds: tuple[int, ...],
    manifest: Manifest,
    runner: Runner,
    progress: Progress,
    save: Callable[[], object],
) -> None:
    wanted: dict[str, tuple[Job, int]] = {}
    configs: dict[str, TrainConfig] = {}
    for seed in seeds:  # all cells once, then all again: an interrupted comparison is balanced
        for job in jobs:
            if job.config is not None and (job.search is None or seed in job.found):
                config = placed(job.config, job, seed, "runs", manifest)
                title = f"{job.title}, seed {seed}"
                wanted[title], configs[title] = (job, seed), config
                entry = RunEntry(seed=seed, path=f"runs/{config.out.name}")
                runs = (*job.cell.runs, entry)
                job.cell = job.cell.model_copy(update={"runs": runs})
    save()
    for title, outcome in run_all(configs, runner, request.num_jobs, progress, trained_already):
        job, seed = wanted[title]
        job.cell = _recorded(job.cell, seed, outcome)
        save()


def _recorded(cell: Cell, seed: int, outcome: Result | Failure) -> Cell:
    failed = isinstance(outcome, Failure)
    update = {"status": "failed" if failed else "done"}
    if isinstance(outcome, Failure):
        update["reason"] = outcome.reason
    runs = tuple(r.model_copy(update=update) if r.seed == seed else r for r in cell.runs)
    return cell.model_copy(update={"runs": runs})
