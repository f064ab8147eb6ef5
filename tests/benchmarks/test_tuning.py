"""Tuning with a runner that trains nothing: who tries what, what is chosen, what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compactrec.benchmarks.choices import changed, parse_choice
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.jobs import Found, Job
from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.ranges import Range
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.runs import Progress
from compactrec.benchmarks.space import Space
from compactrec.benchmarks.study import Cell, CompareFile
from compactrec.benchmarks.tune import TuneRequest, tune
from compactrec.benchmarks.tune_file import TUNE_NAME, TuneFile
from compactrec.benchmarks.tune_table import tune_table
from compactrec.benchmarks.tuning import BASE, Tuning, tune_jobs
from compactrec.data.manifest import Manifest
from tests.benchmarks.fake_runs import Recorder, fake_data
from tests.benchmarks.test_samplers import TPE, needs_optuna
from tests.cases import SOME

QUIET = Console(quiet=True)
RATES = Space(ranges={"table_learning_rate": Range(times=(0.1, 10))})


@pytest.fixture
def base(tmp_path: Path) -> TrainConfig:
    data = fake_data(tmp_path / "data")
    return TrainConfig(
        data=data, out=tmp_path / "out", method="full", table_learning_rate=0.02, model="dcnv2"
    )


def run(
    base: TrainConfig, runner: Recorder, *, budgets: tuple[str, ...] = ("1/4",), **tuning: Any
) -> TuneFile:
    given = {"num_trials": 4, **tuning}
    request = TuneRequest(methods=(SOME,), budgets=budgets, tuning=Tuning(**given))
    return tune(request, base, runner=runner, console=QUIET)


def compared(base: TrainConfig, runner: Recorder, **request: Any) -> CompareFile:
    given = {"methods": (SOME,), "budgets": ("1/4",), "num_seeds": 2, **request}
    return compare(CompareRequest(**given), base, runner=runner, console=QUIET)


def shown(file: TuneFile) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as text:
        console.print(tune_table(file))
    return text.get()


def test_every_cell_tries_the_very_same_settings_on_validation(base: TrainConfig) -> None:
    runner = Recorder(best_rate=0.05)
    file = run(base, runner, budgets=("1/4", "1/8"))
    assert TuneFile.load(base.out / TUNE_NAME) == file
    assert [(c.method, c.budget) for c in file.cells].count(("full", None)) == 1
    assert len(file.cells) >= 5
    first, *others = file.cells
    tried = [(trial.name, trial.settings) for trial in first.trials]
    assert [name for name, _ in tried] == [BASE, "trial 1", "trial 2", "trial 3"]
    assert tried[0][1] == file.tuning.space.settings_of(base)
    assert len({json.dumps(settings) for _, settings in tried}) == 4
    assert {"dropout", "table_learning_rate", "embedding_decay"} < tried[1][1].keys()
    for cell in others:
        assert [(trial.name, trial.settings) for trial in cell.trials] == tried
    assert len(runner.configs) == 4 * len(file.cells)
    assert {(c.seed, c.score_test) for c in runner.configs} == {(1_000_005, False)}
    for cell in file.cells:
        best = max(cell.trials, key=lambda t: t.validation_auc or 0)
        assert (cell.trial, cell.settings) == (best.name, best.settings)
    dropouts = {c.model_options.get("dropout") for c in runner.configs}
    assert dropouts == {None, *(settings["dropout"] for _, settings in tried[1:])}


@pytest.mark.parametrize("sampler", ["sobol", TPE])
def test_more_trials_add_to_those_that_are_there(base: TrainConfig, sampler: str) -> None:
    first = run(base, Recorder(), sampler=sampler)
    more = Recorder()
    file = run(base, more, sampler=sampler, num_trials=6)
    assert [c.trials[:4] for c in file.cells] == [c.trials for c in first.cells]
    assert len(more.configs) == 2 * len(file.cells)


class Opposed(Recorder):
    """Full tables want a high rate, all else a low one."""

    def __call__(self, config: TrainConfig) -> Result:
        self.best_rate = 2.0 if config.budget_bytes is None else 0.001
        return super().__call__(config)


@needs_optuna
def test_tpe_gives_every_cell_as_many_trials_of_its_own(base: TrainConfig) -> None:
    file = run(base, Opposed(), sampler="tpe", num_trials=9)
    assert {len(cell.trials) for cell in file.cells} == {9}
    spans = file.tuning.space.ranges
    for cell in file.cells:
        for trial in cell.trials:
            assert all(span.holds(trial.settings[name]) for name, span in spans.items())
    early = {json.dumps([t.settings for t in cell.trials[:5]]) for cell in file.cells}
    late = {json.dumps([t.settings for t in cell.trials[5:]]) for cell in file.cells}
    assert len(early) == 1, "drawn by chance from one seed"
    assert len(late) > 1, "by what a cell's trials gave"


class Killed(Recorder):
    """Ends after nine runs."""

    def __call__(self, config: TrainConfig) -> Result:
        if len(self.configs) == 9:
            raise KeyboardInterrupt
        return super().__call__(config)


@pytest.mark.parametrize("sampler", ["sobol", TPE])
def test_a_tuning_that_was_killed_goes_on_to_the_same_file(
    base: TrainConfig, tmp_path: Path, sampler: str
) -> None:
    whole = run(changed(base, out=tmp_path / "whole"), Recorder(), sampler=sampler, num_trials=8)
    with pytest.raises(KeyboardInterrupt):
        run(base, Killed(), sampler=sampler, num_trials=8)
    assert not (base.out / TUNE_NAME).exists()
    rest = Recorder()
    file = run(base, rest, sampler=sampler, num_trials=8)
    assert len(rest.configs) == 8 * len(file.cells) - 9
    assert file == whole


def test_trials_that_fail_are_recorded_with_their_reason(base: TrainConfig) -> None:
    def failing(config: TrainConfig) -> bool:
        return config.method == SOME or config.table_learning_rate > 0.03

    file = run(base, Recorder(failing))
    for cell in file.cells:
        aucs = [trial.validation_auc for trial in cell.trials]
        reasons = {trial.reason for trial in cell.trials if trial.validation_auc is None}
        assert reasons == {"RuntimeError: the loss is NaN at step 3"}
        if cell.method == SOME:
            assert (aucs, cell.trial) == ([None] * 4, None)
            assert cell.reason == "every trial failed: RuntimeError: the loss is NaN at step 3"
        else:
            assert cell.settings["table_learning_rate"] == 0.02 or aucs[0] is not None
    text = shown(file)
    assert f"* {SOME} at 1/4: every trial failed: RuntimeError: the loss is NaN" in text
    assert re.search(r"\* full, trial \d failed: RuntimeError: the loss is NaN", text)
    again = compared(changed(base, out=base.out / "c"), Recorder(), tuned=base.out / TUNE_NAME)
    (some,) = [cell for cell in again.cells if cell.method == SOME]
    assert some.runs == ()
    assert some.reason is not None
    assert some.reason.startswith("every trial failed")


def test_settings_that_do_not_go_together_fail_for_every_cell_alike(base: TrainConfig) -> None:
    space = Space(
        ranges={
            "table_learning_rate": Range(choices=(0.02, 2.0)),
            "table_decay": Range(choices=(0.0, 0.9)),
        }
    )
    runner = Recorder()
    file = run(base, runner, space=space)
    for cell in file.cells:
        (bad,) = [trial for trial in cell.trials if trial.validation_auc is None]
        assert bad.settings == {"table_learning_rate": 2.0, "table_decay": 0.9}
        assert "(--table-lr) 2 times table_decay (--table-decay) 0.9 must be below 1" in (
            bad.reason or ""
        )
        assert bad.path == ""
    assert len(runner.configs) == 3 * len(file.cells)


def test_a_choice_at_an_end_of_the_space_is_named(base: TrainConfig) -> None:
    space = Space(ranges={"table_learning_rate": Range(choices=(0.001, 0.02, 0.9))})
    file = run(base, Recorder(best_rate=5.0), space=space, num_trials=3)
    assert {cell.edges for cell in file.cells} == {("table_learning_rate",)}
    text = shown(file)
    message = (
        "* full: table_learning_rate 0.9 stands at an end of the space (choices 0.001, 0.02, 0.9)"
    )
    assert message in text
    assert re.search(
        r"full +- +0\.\d{4} +0\.\d{4} +3 +trial \d +table_learning_rate 0\.9 \(e", text
    )
    space = Space(ranges={"table_learning_rate": Range(choices=(0.001, 0.02, 0.9, 5.0))})
    within = run(base, Recorder(best_rate=0.9), space=space, num_trials=4)
    assert {cell.edges for cell in within.cells} == {()}
    assert "end of the space" not in shown(within)


def test_comparing_with_a_file_is_tuning_and_comparing_in_one(
    base: TrainConfig, tmp_path: Path
) -> None:
    runner = Recorder(best_rate=0.05)
    one = compared(base, runner, tuning=Tuning(num_trials=4))
    tuned = changed(base, out=tmp_path / "tuned")
    file = run(tuned, Recorder(best_rate=0.05))
    assert TuneFile.load(base.out / TUNE_NAME) == file
    apart = Recorder(best_rate=0.05)
    other = changed(base, out=tmp_path / "other", num_threads=3)
    two = compared(other, apart, tuned=tuned.out / TUNE_NAME)
    assert {c.out.parent.name for c in apart.configs} == {"runs"}
    names = {"table_learning_rate", "dense_learning_rate", "embedding_decay", "model_options"}
    final = [c for c in runner.configs if c.out.parent.name == "runs"]
    assert [c.model_dump(include=names) for c in apart.configs] == [
        c.model_dump(include=names) for c in final
    ]
    choices = [(c.trial, c.settings, c.edges) for c in one.cells]
    assert [(c.trial, c.settings, c.edges) for c in two.cells] == choices
    assert any(trial != BASE for trial, _, _ in choices)
    assert two.config["num_trials"] == one.config["num_trials"] == 4
    assert two.config["tuning"] == one.config["tuning"]
    assert load_study([base.out]).cells[0].settings == file.cells[0].settings


def test_a_file_of_something_else_is_refused(base: TrainConfig, tmp_path: Path) -> None:
    run(base, Recorder(), num_trials=2)
    path = base.out / TUNE_NAME
    here = changed(base, out=tmp_path / "compared")
    runner = Recorder()

    def refused(message: str, config: TrainConfig = here, **request: Any) -> None:
        with pytest.raises(ValueError, match=message):
            compared(config, runner, **{"tuned": path, **request})

    other = fake_data(tmp_path / "other", name="other clicks")
    refused("was tuned on other data: fake .* this is other clicks", changed(here, data=other))
    refused(
        "for another training: batch_size is 2048 there and 64 here; model is 'dcnv2' there and "
        "'dlrm' here; model_options is .*; give the same options, or tune with these",
        changed(here, batch_size=64, model="dlrm"),
    )
    refused(f"has no .*{SOME} at 1/8.*; tune with the same --methods", budgets=("1/4", "1/8"))
    refused(f"has no {SOME}:threshold=7 at 1/4", methods=(f"{SOME}:threshold=7",))
    refused(
        "gone.json cannot be read .*; give the tune.json that 'compactrec tune' writes",
        tuned=tmp_path / "gone.json",
    )
    refused("has the settings already, and 3 trials were", tuning=Tuning(num_trials=3))
    broken = tmp_path / "broken.json"
    broken.write_text(path.read_text().replace("compactrec.tune", "compactrec.tuna"))
    refused("broken.json is not a tune file of version 1; was it edited", tuned=broken)
    assert runner.configs == []


def test_a_seed_that_is_reported_is_not_tuned_with(base: TrainConfig, tmp_path: Path) -> None:
    message = "seed 2 would be tuned with and reported"
    with pytest.raises(ValueError, match=message):
        compared(base, Recorder(), num_seeds=3, tuning=Tuning(num_trials=2, seed=2))
    run(base, Recorder(), num_trials=2, seed=2)
    here = changed(base, out=tmp_path / "compared")
    with pytest.raises(ValueError, match=message):
        compared(here, Recorder(), num_seeds=3, tuned=base.out / TUNE_NAME)
    assert compared(here, Recorder(), tuned=base.out / TUNE_NAME).num_failed == 0


def test_a_request_that_cannot_be_tuned_is_refused_before_anything_runs(
    base: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="one trial is the base config alone"):
        TuneRequest(tuning=Tuning(num_trials=1))
    with pytest.raises(ValueError, match="need a budget to be compared at"):
        TuneRequest(methods=(SOME,))
    runner = Recorder()
    few = Space(ranges={"table_learning_rate": Range(choices=(0.02, 0.06))})
    with pytest.raises(ValueError, match="4 trials, and the space has 2 settings"):
        run(base, runner, space=few)
    with pytest.raises(ValueError, match="4 trials, and the space has 2 settings"):
        compared(base, runner, tuning=Tuning(num_trials=4, space=few))
    run(base, Recorder(), num_trials=2, space=RATES)
    other = fake_data(tmp_path / "other", name="other clicks")
    with pytest.raises(ValueError, match=r"results on other data: fake .* this is other clicks"):
        run(changed(base, data=other), runner)
    assert runner.configs == []


def test_a_search_without_a_plan_for_the_trials_is_left_out(base: TrainConfig) -> None:
    """It would be compared untuned beside others that are."""
    cell = Cell(method="toy", baseline=False, budget="1/4", budget_bytes=1000)
    found = {0: Found(plan=Path("p"), start=None, epochs=None)}
    job = Job(cell, base, search=parse_choice(SOME), found=found)
    tuning = Tuning(num_trials=3).resolve(base)
    with Progress(1, 1, QUIET) as progress:
        tune_jobs([job], tuning, Manifest.load(base.data), Recorder(), 1, progress)
    assert job.config is None
    assert job.cell.reason == "not tuned: its search with seed 1000005 gave no plan"
