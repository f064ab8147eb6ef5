"""Methods x budgets x seeds on one data folder, always beside the baselines.

    out/compare.json            what was asked for and how far it is; read by `report`
    out/plans/<cell>.json       one plan per cell (method x budget), and one per seed for methods
                                that draw hash functions: every seed draws its own
    out/runs/<cell>_seed0_<id>  one folder per run; <id> is a hash of config, plan and data
    out/trials/...              the same for tuning; their test split stays closed
    out/searches/...            the same for searches, one for every seed; one serves all budgets

The folder of a run carries a hash of all that decides its result. So the same request again skips
what is finished and goes on with what was interrupted, and a changed request never reads a result
that it did not ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.benchmarks.choices import FULL, changed, parse_method, with_baselines
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.jobs import Job, make_jobs, placed, plain
from compactrec.benchmarks.protocol_note import ProtocolNote
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.runs import (
    Failure,
    Progress,
    Runner,
    num_cores,
    run_all,
    trained_already,
)
from compactrec.benchmarks.searches import Searcher, num_searches, run_searches
from compactrec.benchmarks.study import (
    COMPARE_NAME,
    Cell,
    CompareFile,
    DataNote,
    RunEntry,
    Trial,
)
from compactrec.benchmarks.tuning import TRIALS
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
    num_trials: int = Field(default=1, ge=1, le=len(TRIALS))
    """Settings tried for every cell, full included; 1 trains all with the base config. Trials use a
    seed of their own (`num_seeds`), so that no reported run was picked for its luck."""
    num_jobs: int = Field(default=1, ge=1)
    """Runs at once, each with its share of the cores."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.methods and not self.budgets:
            raise ValueError(
                f"methods {list(self.methods)} need a budget to be compared at; give one or more"
            )
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

    Raises ValueError for an unknown method or budget, and when `base.out` holds a comparison on
    other data or is being written by another process. A method that does not fit a budget and a run
    that fails are recorded in the result.
    """
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
    choices = with_baselines(request.methods) if request.budgets else [parse_method(FULL)]
    manifest = Manifest.load(base.data)
    note = _note(manifest)
    there = CompareFile.load(base.out) if (base.out / COMPARE_NAME).is_file() else None
    _refuse_other_data(there, base.out, note)
    base = _with_threads(base, request.num_jobs, there)
    (base.out / "plans").mkdir(parents=True, exist_ok=True)

    jobs, full_bytes = make_jobs(request.budgets, choices, base, manifest)
    seeds = tuple(range(request.num_seeds))
    own = {"method", "budget_bytes", "options", "seed"}
    shared = {k: v for k, v in base.resolved().items() if k not in own}
    shared |= {"num_trials": request.num_trials, "num_jobs": request.num_jobs}

    def state() -> CompareFile:
        file = CompareFile(
            data=note, seeds=seeds, full_serving_bytes=full_bytes, config=shared,
            cells=tuple(job.cell for job in jobs), protocol=protocol,
        )  # fmt: skip
        file.save(base.out)
        return file

    ready = sum(job.config is not None for job in jobs)
    tuning = request.num_trials if request.num_trials > 1 else 0
    draws = (*seeds, request.num_seeds) if tuning else seeds
    total = ready * (tuning + len(seeds)) + num_searches(jobs) * len(draws)
    with Progress(total, request.num_jobs, console) as progress:
        state()
        run_searches(jobs, draws, base, manifest, searcher, request.num_jobs, progress)
        state()
        if tuning:
            _tune(jobs, request, manifest, runner, progress)
            state()
        _final_runs(jobs, request, seeds, manifest, runner, progress, state)
    return state()


def _note(manifest: Manifest) -> DataNote:
    return DataNote(
        name=manifest.name,
        protocol=manifest.protocol,
        manifest_sha256=manifest.sha256(),
        num_rows={name: split.num_rows for name, split in manifest.splits.items()},
        num_features=len(manifest.sparse),
        best_auc=manifest.best_auc,
    )


def _refuse_other_data(there: CompareFile | None, out: Path, note: DataNote) -> None:
    if there is not None and there.data.manifest_sha256 != note.manifest_sha256:
        raise ValueError(
            f"{out} holds a comparison on other data: {there.data.name} (manifest "
            f"{there.data.manifest_sha256[:8]}), and this is {note.name} (manifest "
            f"{note.manifest_sha256[:8]}); give another --out folder"
        )


def _with_threads(base: TrainConfig, num_jobs: int, there: CompareFile | None) -> TrainConfig:
    """Every job its share of the cores; a comparison that goes on keeps the threads it had.

    Threads decide the rounding, so other ones would make finished runs those of another request.
    """
    if base.num_threads is not None:
        return base
    kept = None if there is None else there.config.get("num_threads")
    if kept is None and num_jobs > 1:
        kept = max(1, num_cores() // num_jobs)
    return changed(base, num_threads=kept)


def _tune(
    jobs: list[Job],
    request: CompareRequest,
    manifest: Manifest,
    runner: Runner,
    progress: Progress,
) -> None:
    """Choose each cell's setting by validation AUC; every cell has the same number of trials."""
    names = list(TRIALS)[: request.num_trials]
    wanted: dict[str, tuple[Job, str, TrainConfig]] = {}
    for job in jobs:
        if job.config is None or (job.search is not None and request.num_seeds not in job.found):
            continue
        for name in names:
            config = TRIALS[name].apply(job.config)
            config = changed(config, score_test=False)
            prefix = f"{plain(name)}_"
            config = placed(config, job, request.num_seeds, "trials", manifest, prefix)
            wanted[f"{job.title}, trial {name!r}"] = (job, name, config)
    configs = {title: config for title, (_, _, config) in wanted.items()}
    outcomes = dict(run_all(configs, runner, request.num_jobs, progress, trained_already))
    for job in jobs:
        trials = tuple(
            _trial(name, config, outcomes[title])
            for title, (owner, name, config) in wanted.items()
            if owner is job
        )
        tried = [t for t in trials if t.validation_auc is not None]
        update: dict[str, Any] = {"trials": trials}
        if tried:
            best = max(tried, key=lambda t: t.validation_auc or 0.0)
            update["trial"] = best.name
            assert job.config is not None
            job.config = TRIALS[best.name].apply(job.config)
        elif job.config is not None and trials:
            mine = (o for title, o in outcomes.items() if wanted[title][0] is job)
            reasons = sorted({o.reason for o in mine if isinstance(o, Failure)})
            update["reason"] = f"every trial failed: {'; '.join(reasons)}"
            job.config = None
        job.cell = job.cell.model_copy(update=update)


def _trial(name: str, config: TrainConfig, outcome: Result | Failure) -> Trial:
    auc = None if isinstance(outcome, Failure) else outcome.validation.auc
    return Trial(name=name, path=f"trials/{config.out.name}", validation_auc=auc)


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
