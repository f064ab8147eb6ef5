"""The search loop: what moves when, what it reads, what it finds, and that it can be resumed."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compactrec.benchmarks import fitness as fitness_module
from compactrec.benchmarks import search as search_module
from compactrec.benchmarks import search_loop, search_state
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.report import write_report
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import SearchConfig, search_config, search_for
from compactrec.benchmarks.search_result import SearchResult
from compactrec.benchmarks.train import train
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.embeddings import get_method, load_plan, method_names, size
from tests.benchmarks.folder import ROWS
from tests.benchmarks.toy_search import ToySupernet, base_config
from tests.run_code import run_code

STEPS = -(-ROWS["train"] // 64)
VALIDATION_STEPS = -(-ROWS["validation"] // 64)
BASELINES = {name for name in method_names() if get_method(name).baseline}
TIMED = {"train_seconds", "total_seconds", "peak_rss_bytes", "environment"}


pytestmark = pytest.mark.usefixtures("toy")


def toy_config(
    data: Path, out: Path, budgets: tuple[int, ...] = (), **options: Any
) -> SearchConfig:
    return search_config("toy", options, budgets, base_config(data, out))


def untimed(result: SearchResult) -> dict[str, Any]:
    values = result.model_dump(exclude=TIMED)
    for found in values["found"]:
        del found["derive_seconds"]
    return values


class Spy(BatchLoader):
    """Notes the splits that are opened."""

    made: list[str]

    def __init__(self, folder: Path, split: str, *arguments: Any, **options: Any) -> None:
        super().__init__(folder, split, *arguments, **options)
        Spy.made.append(split)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    Spy.made = []
    for module in (search_module, search_loop, search_state, fitness_module):
        monkeypatch.setattr(module, "BatchLoader", Spy)
    return Spy


@pytest.fixture
def supernets(monkeypatch: pytest.MonkeyPatch) -> list[ToySupernet]:
    """Every supernet that is built."""
    made: list[ToySupernet] = []
    real = ToySupernet.__init__

    def noting(self: ToySupernet, task: Any) -> None:
        real(self, task)
        made.append(self)

    monkeypatch.setattr(ToySupernet, "__init__", noting)
    return made


def test_finds_plans_within_their_budgets_and_writes_them_down(data: Path, tmp_path: Path) -> None:
    config = toy_config(data, tmp_path / "s", (9_000, 5_000, 100))
    result = search(config)
    assert SearchResult.load(config.train.out) == result
    assert [f.budget_bytes for f in result.found] == [9_000, 5_000, 100]
    for found in result.found[:2]:
        assert found.plan is not None
        plan = load_plan(config.train.out / found.plan)
        assert size(plan).serving_bytes == found.serving_bytes <= (found.budget_bytes or 0)
    assert result.found[0].notes["keep"] > result.found[1].notes["keep"]  # type: ignore[operator]
    assert result.found[2].plan is None
    assert "smallest plan takes" in (result.found[2].reason or "")
    assert {entry.phase for entry in result.history} == {"warm", "gates"}
    assert all("mean gate" in entry.figures for entry in result.history)
    assert not (config.train.out / "checkpoint").exists()
    assert str(data) not in (config.train.out / "search.json").read_text()
    fitness = result.found[0].notes["fitness"]
    assert fitness[0] > fitness[1]  # type: ignore[index,operator]


def test_the_same_search_again_is_read_and_another_refused(data: Path, tmp_path: Path) -> None:
    config = toy_config(data, tmp_path / "s", (6_000,), epochs=1)
    assert search(config) == search(config)
    with pytest.raises(ValueError, match=r"result of another search: config.options.epochs is 1 t"):
        search(toy_config(data, tmp_path / "s", (6_000,), epochs=2))
    twin = search(toy_config(data, tmp_path / "twin", (6_000,), epochs=1))
    assert untimed(twin) == untimed(search(config))


@pytest.mark.parametrize("architecture", ["validation", "train", "off"])
def test_no_search_and_no_early_stop_sees_test(
    data: Path, tmp_path: Path, spy: type[Spy], architecture: str
) -> None:
    config = toy_config(data, tmp_path / "s", (6_000,), architecture=architecture, patience=1)
    search(config)
    assert set(spy.made) == {"train", "validation"}


def test_a_changed_byte_of_the_data_is_found_before_the_search(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (path,) = Manifest.load(data).shard_paths(tmp_path / "data", "validation")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"validation.*has changed since it was prepared"):
        search(toy_config(tmp_path / "data", tmp_path / "s", (6_000,)))


def test_rows_of_the_test_split_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sees 'train' and 'validation' rows only, got 'test'"):
        list(fitness_module.rows_of(None, data, "test", 9, batch_size=4, seed=0))  # type: ignore[arg-type]


def test_the_architecture_moves_as_its_phase_says(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, torch.Tensor]] = []
    real = ToySupernet.after_step

    def noting(self: ToySupernet, phase: Any) -> None:
        real(self, phase)
        seen.append((phase.name, self.gates.gate.detach().clone()))

    monkeypatch.setattr(ToySupernet, "after_step", noting)
    search(toy_config(data, tmp_path / "s", (6_000,)))
    warm = [gate for name, gate in seen if name == "warm"]
    moved = [gate for name, gate in seen if name == "gates"]
    assert len(warm) == STEPS
    assert len(moved) == 2 * STEPS
    assert all(torch.equal(gate, torch.ones_like(gate)) for gate in warm)
    searched = [0, 2]  # C1 and C3; C2 has 7 ids
    assert not torch.equal(moved[-1][searched], warm[0][searched])
    assert torch.equal(moved[-1][1], warm[0][1])


def test_an_epoch_may_end_with_the_shorter_loader(
    data: Path, tmp_path: Path, supernets: list[ToySupernet]
) -> None:
    search(toy_config(data, tmp_path / "s", (6_000,), epoch_ends="shorter"))
    assert supernets[0].asked.count("gates") == 2 * VALIDATION_STEPS


def test_tables_alone_may_move(data: Path, tmp_path: Path, supernets: list[ToySupernet]) -> None:
    config = toy_config(data, tmp_path / "s", (6_000,), weights="tables", retrain="none")
    warm = toy_config(data, tmp_path / "w", (6_000,), epochs=0, retrain="none")
    one, two = search(config), search(warm)
    first = load_file(str(config.train.out / (one.found[0].start or "")))
    second = load_file(str(warm.train.out / (two.found[0].start or "")))
    dense = [name for name in first if not name.startswith("embeddings.")]
    assert dense
    assert all(torch.equal(first[name], second[name]) for name in dense)


@pytest.mark.parametrize("retrain", ["finetune", "none", "fresh", "ticket"])
def test_found_plans_train_from_their_start(data: Path, tmp_path: Path, retrain: str) -> None:
    config = toy_config(data, tmp_path / "s", (9_000,), epochs=1, retrain=retrain)
    (found,) = search(config).found
    assert (found.start is None) == (retrain == "fresh")
    assert found.epochs == (0 if retrain == "none" else None)
    out = config.train.out
    run = base_config(
        data, tmp_path / "run", method=None, plan=out / (found.plan or ""),
        start=None if found.start is None else out / found.start, table_learning_rate=0.05,
        epochs=1 if found.epochs is None else found.epochs,
    )  # fmt: skip
    result = train(run)
    assert result.tested.auc > 0.6
    assert result.bytes.serving_bytes == found.serving_bytes
    assert result.num_steps == (0 if retrain == "none" else STEPS)


@pytest.mark.parametrize("changes", [{}, {"model": "deepfm"}], ids=["dlrm", "deepfm"])
def test_serving_the_start_is_what_the_search_validated(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """With every column kept and folded, the plain model predicts what the supernet did."""
    options = {"epochs": 1, "retrain": "none"}
    config = search_config("toy", options, (), base_config(data, tmp_path / "s", **changes))
    result = search(config)
    (found,) = result.found
    best = max(e.validation.auc for e in result.history if e.phase == "gates")
    run = base_config(
        data, tmp_path / "run", method=None, plan=config.train.out / (found.plan or ""), epochs=0,
        start=config.train.out / (found.start or ""), **changes,
    )  # fmt: skip
    assert train(run).validation.auc == pytest.approx(best, abs=1e-6)


KILLED = """
import json, os, signal
import torch
torch.set_num_threads(1)
from compactrec.benchmarks import search_loop
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import SearchConfig
from compactrec.embeddings.search import register_search
from tests.benchmarks.toy_search import TOY, base_config
register_search(TOY)
config = SearchConfig.model_validate(json.loads({config!r}))
real, calls = search_loop.SearchLoop._step, [0]
def deadly(self, *arguments):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments)
search_loop.SearchLoop._step = deadly
search(config)
"""


@pytest.mark.slow
def test_a_killed_search_ends_with_the_same_plans(data: Path, tmp_path: Path) -> None:
    every = {"checkpoint_every_steps": 7, "seed": 3}
    whole = search(
        search_config("toy", {}, (6_000,), base_config(data, tmp_path / "whole", **every))
    )
    every["checkpoint_asynchronous"] = True
    config = search_config("toy", {}, (6_000,), base_config(data, tmp_path / "killed", **every))
    for call in (12, STEPS // 2, 30):
        code = KILLED.format(config=config.model_dump_json(), call=call)
        status, _, errors = run_code(code, tmp_path, 120)
        assert status == -signal.SIGKILL, errors
    resumed = search(config)
    assert untimed(resumed) == untimed(whole)
    starts = [
        load_file(str(tmp_path / n / (whole.found[0].start or ""))) for n in ("whole", "killed")
    ]
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])


def test_bad_requests_are_refused_in_words(data: Path, tmp_path: Path) -> None:
    base = base_config(data, tmp_path / "s")
    with pytest.raises(ValueError, match="unknown search 'nothing': there are "):
        search_for(base, "nothing", ["1/2"])
    with pytest.raises(ValueError, match=r"toy: option depth: .*; options are: architecture, epo"):
        search_for(base, "toy:depth=3", ["1/2"])
    with pytest.raises(ValueError, match="runs on the CPU, got device 'cuda'"):
        search_config("toy", {}, (9,), base_config(data, tmp_path / "s", device="cuda"))
    with pytest.raises(ValueError, match=r"no feature has more than threshold = 500 ids"):
        search(search_config("toy", {}, (), base_config(data, tmp_path / "s", threshold=500)))


def test_words_become_a_config(data: Path, tmp_path: Path) -> None:
    base = base_config(data, tmp_path / "s", table_learning_rate=0.3)
    config = search_for(base, "toy:epochs=3:train.table_eps=0.5:fitness_rows=200", ["1/2", "4kB"])
    assert config.options == {"epochs": 3}
    assert config.budgets == (4800, 4000)
    assert config.fitness_rows == 200
    assert search_for(base, "dnis:threshold=0.5:train.threshold=30", ["1/2"]).train.threshold == 30
    train_config = config.train
    assert (train_config.table_learning_rate, train_config.table_eps) == (0.3, 0.5)
    assert train_config.table_optimizer == "adagrad"
    own = search_config("toy", {}, (), base)
    assert own.train.table_learning_rate == 0.05, "the search's own, unless a person gave one"


def test_found_plans_stand_in_a_comparison(data: Path, tmp_path: Path) -> None:
    config = toy_config(data, tmp_path / "s", (5_000,), epochs=1)
    (found,) = search(config).found
    plan = tmp_path / "mine.json"
    load_plan(config.train.out / (found.plan or "")).save(plan)
    start = config.train.out / (found.start or "")
    (tmp_path / "mine.start.safetensors").write_bytes(start.read_bytes())
    base = base_config(data, tmp_path / "c", table_learning_rate=0.05)
    request = CompareRequest(methods=(str(plan),), budgets=("6kB", "2kB"), num_seeds=1)
    file = compare(request, base)
    cells = {c.budget: c for c in file.cells if c.method == "mine"}
    assert [run.status for run in cells["6 kB"].runs] == ["done"]
    assert "serves with" in (cells["2 kB"].reason or "")
    result = Result.load(base.out / cells["6 kB"].runs[0].path)
    assert result.start_sha256 is not None
    assert str(tmp_path) not in (base.out / "compare.json").read_text().replace(
        cells["2 kB"].reason or "", ""
    )
    with pytest.raises(ValueError, match=r"there is no plan file nowhere\.json"):
        compare(CompareRequest(methods=("nowhere.json",), budgets=("6kB",)), base)


def test_searches_stand_in_a_comparison(data: Path, tmp_path: Path) -> None:
    base = base_config(data, tmp_path / "c", table_learning_rate=0.05)
    request = CompareRequest(methods=("toy:epochs=1",), budgets=("1/2", "0.02x"), num_seeds=2)
    file = compare(request, base)
    cells = {(c.method, c.budget): c for c in file.cells}
    half = cells["toy:epochs=1", "1/2"]
    assert [r.status for r in half.runs] == ["done", "done"]
    assert [r.status for r in half.searches] == ["done", "done"]
    (small,) = (c for c in file.cells if c.method == half.method and c.budget != "1/2")
    assert "smallest plan takes" in (small.reason or "")
    assert {c.method for c in file.cells} >= BASELINES | {"magnitude", "toy:epochs=1"}
    again = compare(request, base)
    assert again == file
    summary = write_report([base.out], base.out, num_resamples=10).summary
    row = next(r for r in summary.rows if r.method == "toy:epochs=1" and r.auc)
    assert row.search_time_ratio is not None
    assert row.search_time_ratio > 0
    assert row.bytes["serving_bytes"] <= (row.budget_bytes or 0)
    assert "Search" in (base.out / "report.md").read_text()
    assert json.loads((base.out / "summary.json").read_text())["rows"]
