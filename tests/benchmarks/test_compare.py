"""compare.py with a runner that trains nothing: what is run, where, and what is run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from compactrec.benchmarks.choices import parse_method, with_baselines
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.plans import plan_bytes
from compactrec.benchmarks.report import write_report
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search_config import SearchConfig
from compactrec.benchmarks.search_result import SearchResult
from compactrec.benchmarks.study import CompareFile
from compactrec.benchmarks.tuning import BASE, Tuning
from compactrec.embeddings import Plan, get_method, method_names, size
from compactrec.embeddings.search import search_names
from compactrec.locks import locked
from tests.benchmarks.fake_runs import Recorder, fake_data, fake_result
from tests.cases import SOME, needs_hash

QUIET = Console(quiet=True)
BASELINES = [n for n in method_names() if get_method(n).baseline and n != "full"]
OTHER = next(n for n in method_names() if not get_method(n).baseline)
"""Some method that is no baseline; which one does not matter here."""


@pytest.fixture
def base(tmp_path: Path) -> TrainConfig:
    data = fake_data(tmp_path / "data")
    return TrainConfig(data=data, out=tmp_path / "out", method="full", table_learning_rate=0.02)


def run(base: TrainConfig, runner: Recorder, **request: object) -> CompareFile:
    wanted = CompareRequest.model_validate({"budgets": ("1/4",), "num_seeds": 2, **request})
    return compare(wanted, base, runner=runner, console=QUIET)


def test_baselines_are_always_there_and_full_is_trained_once_per_seed(base: TrainConfig) -> None:
    runner = Recorder()
    file = run(base, runner, methods=(OTHER,), budgets=("1/4", "1/8"))
    cells = [(c.method, c.budget) for c in file.cells]
    assert set(BASELINES) == {"uniform", "rare", "hash"} & set(method_names())
    assert cells[0] == ("full", None)
    assert sorted(cells[1:]) == sorted((m, b) for m in [*BASELINES, OTHER] for b in ("1/4", "1/8"))
    trained = [(c.method, c.budget_bytes, c.seed) for c in runner.configs]
    assert len(trained) == len(set(trained)) == 2 * len(cells)
    assert trained.count(("full", None, 0)) == 1
    assert {r.status for c in file.cells for r in c.runs} == {"done"}


BESIDE_A_SEARCH = ["full", "uniform", "rare", "hash", "random", "magnitude"]
needs_all = pytest.mark.skipif(
    not {*BESIDE_A_SEARCH} <= {*method_names(), *search_names()}, reason="names all baselines"
)


@needs_all
def test_a_search_brings_the_baselines_that_are_written_here(base: TrainConfig) -> None:
    """By name: a baseline that loses its flag must not leave the table of a search unseen."""
    searched = []

    def searcher(config: SearchConfig) -> SearchResult:
        searched.append(config.search)
        raise ValueError("it finds nothing")

    request = CompareRequest(methods=("optembed",), budgets=("1/4",), num_seeds=1)
    file = compare(request, base, runner=Recorder(), searcher=searcher, console=QUIET)
    cells = {c.method: c.budget for c in file.cells}
    assert cells == {"full": None, **dict.fromkeys([*BESIDE_A_SEARCH[1:], "optembed"], "1/4")}
    assert len(file.cells) == len(cells)
    assert sorted(searched) == ["magnitude", "optembed"], "one of the baselines is a search itself"
    assert {c.method for c in file.cells if c.baseline} >= {*BESIDE_A_SEARCH} - {"random"}


@needs_all
@pytest.mark.parametrize("search", ["autodim", "dnis", "ihas", "magnitude", "optembed", "pep"])
def test_every_search_brings_them(search: str) -> None:
    asked = [choice.text for choice in with_baselines([search])]
    assert sorted(asked) == sorted({*BESIDE_A_SEARCH, search})
    with_options = [choice.text for choice in with_baselines([f"{search}:train.epochs=2"])]
    assert sorted(with_options) == sorted({*BESIDE_A_SEARCH, f"{search}:train.epochs=2"})


@needs_all
def test_a_method_does_not_bring_those_of_a_search() -> None:
    assert {choice.text for choice in with_baselines(["hash"])} == {
        "full", "uniform", "rare", "hash",
    }  # fmt: skip


def test_no_method_means_every_registered_one(base: TrainConfig) -> None:
    file = run(base, Recorder(), methods=())
    assert sorted(c.method for c in file.cells) == sorted(method_names())


def test_serving_bytes_hold_everything_and_stay_within_the_budget(base: TrainConfig) -> None:
    runner = Recorder()
    file = run(base, runner, methods=())
    assert file.full_serving_bytes is not None
    budget = file.full_serving_bytes // 4
    for config in runner.configs:
        assert config.plan is not None
        serving = plan_bytes(config, Plan.load(config.plan)).serving_bytes
        if config.method == "full":
            assert serving == file.full_serving_bytes
        else:
            assert config.budget_bytes == budget
            assert 0.5 * budget < serving <= budget


def test_all_runs_share_settings_and_seeds_alone_differ_within_a_cell(base: TrainConfig) -> None:
    runner = Recorder()
    run(base, runner, methods=(SOME,))
    own = {"method", "budget_bytes", "options", "seed"}
    settings = [{k: v for k, v in c.resolved().items() if k not in own} for c in runner.configs]
    assert all(s == settings[0] for s in settings)
    assert sorted(c.seed for c in runner.configs if c.method == SOME) == [0, 1]


def test_every_seed_draws_its_own_hash_functions_and_nothing_else(base: TrainConfig) -> None:
    runner = Recorder()
    run(base, runner, methods=())
    for method in method_names():
        made = [c for c in runner.configs if c.method == method]
        plans = [Plan.load(c.plan) for c in made if c.plan is not None]
        draws = "seed" in get_method(method).options.model_fields
        assert len({plan.digest for plan in plans}) == (len(made) if draws else 1), method
        assert len({size(plan).serving_bytes for plan in plans}) == 1
        if draws:
            assert [c.options["seed"] for c in made] == [c.seed for c in made]


def test_a_seed_that_is_asked_for_is_kept(base: TrainConfig) -> None:
    drawing = [m for m in method_names() if "seed" in get_method(m).options.model_fields]
    runner = Recorder()
    run(base, runner, methods=tuple(f"{m}:seed=7" for m in drawing))
    asked = [c for c in runner.configs if c.options.get("seed") == 7]
    assert {c.method for c in asked} == set(drawing)
    assert len({c.plan for c in asked}) == len(drawing)


def test_the_same_request_again_runs_nothing(base: TrainConfig) -> None:
    first = run(base, Recorder(), methods=(SOME,))
    again = Recorder()
    assert run(base, again, methods=(SOME,)) == first
    assert again.configs == []


def test_more_seeds_and_methods_run_only_what_is_new(base: TrainConfig) -> None:
    run(base, Recorder(), methods=(SOME,))
    more = Recorder()
    file = run(base, more, methods=(SOME, OTHER), num_seeds=3)
    assert {(c.method, c.seed) for c in more.configs} == {
        *((m, 2) for m in ["full", *BASELINES]),
        *((OTHER, s) for s in range(3)),
    }
    assert {r.status for c in file.cells for r in c.runs} == {"done"}


def test_other_settings_never_reuse_a_result(base: TrainConfig) -> None:
    first = Recorder()
    run(base, first)
    changed = Recorder()
    run(base.model_copy(update={"epochs": 2}), changed)
    assert len(changed.configs) == len(first.configs)
    assert not {c.out for c in first.configs} & {c.out for c in changed.configs}


def test_an_interrupted_run_is_given_the_same_folder_again(base: TrainConfig) -> None:
    """The runner finds its checkpoint there."""

    class Interrupted(Recorder):
        def __call__(self, config: TrainConfig) -> Result:
            if len(self.configs) == 3:
                self.configs.append(config)
                raise KeyboardInterrupt
            return super().__call__(config)

    first = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(base, first)
    file = CompareFile.load(base.out)
    assert sum(r.status == "done" for c in file.cells for r in c.runs) == 3
    second = Recorder()
    run(base, second)
    assert second.configs[0].out == first.configs[3].out
    assert len(second.configs) == 2 * len(file.cells) - 3


def test_a_method_that_does_not_fit_is_recorded_with_its_reason(base: TrainConfig) -> None:
    runner = Recorder()
    file = run(base, runner, methods=(OTHER,), budgets=("1/4", "300B"))
    small = {c.method: c for c in file.cells if c.budget == "300 B"}[SOME]
    assert small.runs == ()
    assert small.reason is not None
    assert "raise the budget" in small.reason
    assert not any(c.method == SOME and c.budget_bytes == 300 for c in runner.configs)
    report = write_report([base.out], base.out, num_resamples=5)
    assert small.reason in report.html.read_text().replace("&#39;", "'")
    assert f"No result for {SOME} at 300 B" in report.markdown.read_text()


def test_a_failing_run_stops_no_other_and_is_tried_again(base: TrainConfig) -> None:
    failing = Recorder(lambda c: c.method == SOME and c.seed == 1)
    file = run(base, failing)
    (some_cell,) = [c for c in file.cells if c.method == SOME]
    assert [r.status for r in some_cell.runs] == ["done", "failed"]
    assert some_cell.runs[1].reason == "RuntimeError: the loss is NaN at step 3"
    assert sum(r.status == "done" for c in file.cells for r in c.runs) == 2 * len(file.cells) - 1
    again = Recorder()
    run(base, again)
    assert [(c.method, c.seed) for c in again.configs] == [(SOME, 1)]


def test_a_bug_in_the_runner_is_not_swallowed(base: TrainConfig) -> None:
    def broken(config: TrainConfig) -> Result:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        compare(CompareRequest(budgets=("1/4",)), base, runner=broken, console=QUIET)


def test_tuning_gives_every_method_the_same_trials_and_chooses_by_validation(
    base: TrainConfig,
) -> None:
    runner = Recorder(best_rate=0.05)
    file = run(base, runner, methods=(SOME,), tuning=Tuning(num_trials=4))
    for cell in file.cells:
        assert [t.name for t in cell.trials] == [BASE, "trial 1", "trial 2", "trial 3"]
        best = max(cell.trials, key=lambda t: t.validation_auc or 0)
        assert (cell.trial, cell.settings) == (best.name, best.settings)
        assert best.name != BASE
    trials = [c for c in runner.configs if c.out.parent.name == "trials"]
    assert len(trials) == 4 * len(file.cells)
    assert {c.seed for c in trials} == {1_000_005}, "trials have a seed of their own"
    final = [c for c in runner.configs if c.out.parent.name == "runs"]
    assert {c.seed for c in final} == {0, 1}
    chosen = {(c.method, c.budget_bytes): c.settings for c in file.cells}
    for config in final:
        settings = chosen[config.method or "", config.budget_bytes]
        trained = {**dict(config), **config.model_options}
        assert {name: trained[name] for name in settings} == settings
    study = load_study([base.out])
    assert [cell.settings for cell in study.cells] == [cell.settings for cell in file.cells]


def test_trials_leave_the_test_split_closed(base: TrainConfig) -> None:
    runner = Recorder()
    run(base, runner, tuning=Tuning(num_trials=3))
    closed = {c.out.parent.name: c.score_test for c in runner.configs}
    assert closed == {"trials": False, "runs": True}


def test_a_folder_that_another_comparison_writes_is_refused(base: TrainConfig) -> None:
    runner = Recorder()
    with locked(base.out), pytest.raises(ValueError, match="another run is writing"):
        run(base, runner)
    assert runner.configs == []


def test_a_comparison_goes_on_with_the_threads_it_had(base: TrainConfig) -> None:
    base = base.model_copy(update={"num_threads": None})
    base.out.mkdir(parents=True)
    first = Recorder()
    file = run(base, first)
    threads = 7
    file.model_copy(update={"config": {**file.config, "num_threads": threads}}).save(base.out)
    again = Recorder()
    run(base, again)
    assert {c.num_threads for c in again.configs} == {threads}


def test_a_cell_whose_trials_all_fail_is_recorded(base: TrainConfig) -> None:
    file = run(base, Recorder(lambda c: c.method == SOME), tuning=Tuning(num_trials=2))
    (cell,) = [c for c in file.cells if c.method == SOME]
    assert cell.reason == "every trial failed: RuntimeError: the loss is NaN at step 3"
    assert cell.runs == ()


def test_other_data_in_the_same_folder_is_refused_by_name(
    base: TrainConfig, tmp_path: Path
) -> None:
    run(base, Recorder())
    other = fake_data(tmp_path / "other", name="other clicks")
    with pytest.raises(ValueError, match=r"results on other data: fake .* this is other clicks"):
        run(base.model_copy(update={"data": other}), Recorder())


@needs_hash
def test_methods_with_options_are_cells_of_their_own(base: TrainConfig) -> None:
    runner = Recorder()
    file = run(base, runner, methods=("hash:sign=true", "hash"))
    baseline = {c.method: c.baseline for c in file.cells if c.method.startswith("hash")}
    assert baseline == {"hash:sign=true": False, "hash": True}
    options = [c.options for c in runner.configs if "sign" in c.out.name]
    assert options == [{"sign": True, "seed": 0}, {"sign": True, "seed": 1}]
    assert len({c.out for c in runner.configs if c.method == "hash"}) == 4
    study = load_study([base.out])
    assert sum(c.method.startswith("hash") for c in study.cells) == 2


@needs_hash
@pytest.mark.parametrize(
    ("text", "name", "options", "threshold"),
    [
        ("hash", "hash", {}, None),
        ("hash:sign=true", "hash", {"sign": True}, None),
        ("hash:hash=mod:threshold=0", "hash", {"hash": "mod"}, 0),
        (" hash : seed = 3 ", "hash", {"seed": 3}, None),
    ],
)
def test_parse_method(text: str, name: str, options: dict[str, object], threshold: int) -> None:
    choice = parse_method(text)
    assert (choice.name, choice.options, choice.threshold) == (name, options, threshold)


@needs_hash
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hashing", r"unknown method 'hashing': there are full, .*hash"),
        ("hash:sign", r"'sign' is not an option; write 'name:key=value'"),
        ("hash:sing=true", r"hash: option sing: .*options are: hash, sign, seed"),
        ("hash:threshold=many", r"threshold must be a whole number"),
    ],
)
def test_parse_method_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(text)


def test_budgets_that_are_the_same_number_of_bytes_are_one(base: TrainConfig) -> None:
    file = run(base, Recorder(), methods=(SOME,), budgets=("1/4", "0.25x", "25%"))
    assert {c.budget for c in file.cells} == {None, "1/4"}


@pytest.mark.slow
def test_two_jobs_at_once_give_the_same_files(base: TrainConfig) -> None:
    """In processes of their own; the runner must be importable there."""
    request = CompareRequest(budgets=("1/4",), num_seeds=1, num_jobs=2)
    file = compare(request, base, runner=importable_runner, console=QUIET)
    assert {r.status for c in file.cells for r in c.runs if c.method != SOME} == {"done"}
    (failed,) = [r for c in file.cells for r in c.runs if r.status == "failed"]
    assert failed.reason == f"{SOME} does not like this"
    result = json.loads((base.out / file.cells[0].runs[0].path / "result.json").read_text())
    assert result["method"] == "full"


def importable_runner(config: TrainConfig) -> Result:
    """Used by processes that import this module."""
    if config.method == SOME:
        raise ValueError(f"{SOME} does not like this")
    assert config.num_threads is not None
    assert config.method is not None
    return fake_result(
        config.out, config.method, config.budget_bytes, config.seed, 0.5, num_rows=300
    )
