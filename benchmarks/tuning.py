"""Tuning: every cell, the full tables included, tries as many settings from the same space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from compactrec.benchmarks.choices import changed
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.jobs import Job, placed
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.runs import Failure, Progress, Runner, run_all, trained_already
from compactrec.benchmarks.samplers import Sampler, SamplerName, make_sampler
from compactrec.benchmarks.space import Settings, Space, with_settings
from compactrec.benchmarks.study import Trial
from compactrec.data.manifest import Manifest

__all__ = ["BASE", "Tuning", "tune_jobs"]

BASE = "default"
"""Name of trial 0, the base config; the others are `trial 1`, ..."""


class Tuning(BaseModel):
    """How cells are tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(default=1, ge=1)
    """Settings tried for every cell, the base config the first; 1 tunes nothing."""
    space: Space = Field(default_factory=Space.default)
    sampler: SamplerName = "sobol"
    """`sobol`: the same settings for every cell. `tpe`: chosen by what the cell's trials gave."""
    seed: int = Field(default=1_000_005, ge=0, lt=2**32)
    """Of the settings and of the trials' runs; not among the reported seeds, so that no reported
    run was picked for its luck. With the default the first points of the sequence are apart."""

    @property
    def is_on(self) -> bool:
        """Whether there is anything to choose from."""
        return self.num_trials > 1

    def resolve(self, base: TrainConfig) -> Tuning:
        """The same with its space around `base`; ValueError where that does not go."""
        space = self.space.resolve(base)
        space.require(self.num_trials, space.settings_of(base))
        return self.model_copy(update={"space": space})

    @property
    def rounds(self) -> list[range]:
        """Numbers of the trials that can run at once: what `tpe` asks next waits for results."""
        if self.sampler == "sobol":
            return [range(self.num_trials)]
        return [range(number, number + 1) for number in range(self.num_trials)]


@dataclass
class _Cell:
    """A job while it is tuned."""

    job: Job
    config: TrainConfig
    """Before tuning."""
    first: Settings
    sampler: Sampler
    trials: list[Trial] = field(default_factory=list)

    def settings(self, number: int) -> dict[str, JsonValue]:
        return dict(self.first) if number == 0 else self.sampler.ask()

    def record(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.sampler.tell(trial.validation_auc)


def tune_jobs(
    jobs: list[Job],
    tuning: Tuning,
    manifest: Manifest,
    runner: Runner,
    num_jobs: int,
    progress: Progress,
) -> None:
    """Choose each job's setting by validation AUC; its config has it then, its cell all trials.

    `tuning` is resolved. A job without a plan for the trials' seed is left out, with a reason.
    """
    cells = []
    for job in jobs:
        if job.config is None:
            continue
        if job.search is not None and tuning.seed not in job.found:
            reason = f"not tuned: its search with seed {tuning.seed} gave no plan"
            job.cell, job.config = job.cell.model_copy(update={"reason": reason}), None
            continue
        first = tuning.space.settings_of(job.config)
        sampler = make_sampler(tuning.sampler, tuning.space, first, tuning.seed)
        cells.append(_Cell(job, job.config, first, sampler))
    for numbers in tuning.rounds:
        _run_round(cells, numbers, tuning, manifest, runner, num_jobs, progress)
    for cell in cells:
        _choose(cell, tuning.space)


def _run_round(
    cells: list[_Cell],
    numbers: range,
    tuning: Tuning,
    manifest: Manifest,
    runner: Runner,
    num_jobs: int,
    progress: Progress,
) -> None:
    planned: dict[str, tuple[_Cell, Trial]] = {}
    configs: dict[str, TrainConfig] = {}
    outcomes: dict[str, Result | Failure] = {}
    for number in numbers:  # all cells once, then again: an interrupted tuning is balanced
        for cell in cells:
            title = f"{cell.job.title}, trial {number}"
            trial = Trial(
                name=f"trial {number}" if number else BASE, settings=cell.settings(number), path="",
            )  # fmt: skip
            try:
                config = cell.config if number == 0 else with_settings(cell.config, trial.settings)
            except ValueError as error:  # settings that do not go together
                outcomes[title] = Failure(str(error))
            else:
                config = placed(
                    changed(config, score_test=False), cell.job, tuning.seed, "trials", manifest,
                    f"trial{number}_",
                )  # fmt: skip
                trial = trial.model_copy(update={"path": f"trials/{config.out.name}"})
                configs[title] = config
            planned[title] = (cell, trial)
    outcomes |= dict(run_all(configs, runner, num_jobs, progress, trained_already))
    for title, (cell, trial) in planned.items():
        cell.record(_finished(trial, outcomes[title]))


def _finished(trial: Trial, outcome: Result | Failure) -> Trial:
    if isinstance(outcome, Failure):
        return trial.model_copy(update={"reason": outcome.reason})
    return trial.model_copy(update={"validation_auc": outcome.validation.auc})


def _choose(cell: _Cell, space: Space) -> None:
    job = cell.job
    update: dict[str, Any] = {"trials": tuple(cell.trials)}
    tried = [trial for trial in cell.trials if trial.validation_auc is not None]
    if tried:
        best = max(tried, key=lambda trial: trial.validation_auc or 0.0)
        update |= {"trial": best.name, "settings": best.settings}
        update["edges"] = space.edges(cell.config, best.settings)
        job.config = with_settings(cell.config, best.settings)
    else:
        reasons = sorted({trial.reason for trial in cell.trials if trial.reason})
        update["reason"] = f"every trial failed: {'; '.join(reasons)}"
        job.config = None
    job.cell = job.cell.model_copy(update=update)
