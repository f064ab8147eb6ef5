"""What a search is told: by itself, by a person, by a comparison; and what would do nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compactrec.benchmarks.choices import changed, parse_search, train_config_for
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import search_config, search_for
from compactrec.benchmarks.search_result import SearchResult
from compactrec.benchmarks.start import start_epochs, start_path
from compactrec.benchmarks.train import train
from compactrec.embeddings.search import Derived, get_search, search_names
from compactrec.embeddings.search import base as search_base
from compactrec.embeddings.search.base import DENSE_ADAM
from tests.benchmarks.toy_search import base_config


@pytest.mark.parametrize("name", search_names())
def test_supernets_train_with_a_decay_of_all_rows_unless_told(
    name: str, data: Path, tmp_path: Path
) -> None:
    own = search_config(name, {}, (), base_config(data, tmp_path)).train
    assert {field: getattr(own, field) for field in DENSE_ADAM} == dict(DENSE_ADAM)
    base = base_config(data, tmp_path, table_learning_rate=0.5, decay_mode="touched_rows")
    told = search_for(base, name, ()).train
    assert (told.table_learning_rate, told.decay_mode) == (0.5, "touched_rows")
    option = search_for(base, f"{name}:train.table_learning_rate=0.25", ()).train
    assert option.table_learning_rate == 0.25


def test_compare_tells_a_search_what_search_would(data: Path, tmp_path: Path) -> None:
    fields = {"table_optimizer": "adam", "table_learning_rate": 0.5, "engine": "eager"}
    base = base_config(data, tmp_path / "c", evals_per_epoch=1, **fields)
    compare(CompareRequest(methods=("magnitude",), budgets=("1/2",), num_seeds=1), base)
    (folder,) = (tmp_path / "c" / "searches").iterdir()
    told = search_for(base, "magnitude", ()).resolved()
    assert SearchResult.load(folder).config["train"] == told["train"]
    assert told["train"]["table_learning_rate"] == 0.5


@pytest.mark.parametrize("field", ["epochs", "patience", "eval_every_steps"])
def test_fields_that_would_do_nothing_are_refused(field: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"magnitude: train\.{field} would do nothing in a sea"):
        search_for(base_config(data, tmp_path), f"magnitude:train.{field}=2", ())


@pytest.mark.parametrize(
    "fields", [{"embedding_decay": 1e-4}, {"schedule": {"warmup_steps": 10}}], ids=str
)
def test_what_supernets_do_without_is_refused(
    fields: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    base = base_config(data, tmp_path, **fields)
    with pytest.raises(ValueError, match="a supernet is trained without embedding_decay and sched"):
        search_for(base, "magnitude", ())


def test_what_supernets_have_one_way_of_is_refused(data: Path, tmp_path: Path) -> None:
    base = base_config(data, tmp_path, engine="eager", accumulate_steps=4)
    with pytest.raises(ValueError, match="got accumulate_steps 4; say magnitude:tr"):
        search_for(base, "magnitude", ())
    assert search_for(base, "magnitude:train.accumulate_steps=1", ()).train.accumulate_steps == 1
    judged = base_config(data, tmp_path, monitor="auc_minus_logloss")
    with pytest.raises(ValueError, match="judged by AUC, got monitor 'auc_minus_logloss'; say mag"):
        search_for(judged, "magnitude", ())
    assert search_for(judged, "magnitude:train.monitor=auc", ()).train.monitor == "auc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dnis:ratio=0.9", "dnis: ratio and threshold say how much is dropped, and so does a b"),
        ("optembed:strict_official=true", "optembed: strict_official is the published code, wh"),
    ],
)
def test_options_against_a_budget_are_refused_before_training(
    text: str, message: str, data: Path, tmp_path: Path
) -> None:
    config = search_for(base_config(data, tmp_path / "s"), text, ["1/2"])
    with pytest.raises(ValueError, match=message):
        search(config)
    assert not list((tmp_path / "s" / "checkpoint").glob("*"))


def test_without_a_budget_a_search_has_its_own_size(data: Path, tmp_path: Path) -> None:
    text = "dnis:ratio=0.75:warm_epochs=1:search_epochs=1"
    (found,) = search(search_for(base_config(data, tmp_path / "s"), text, ())).found
    assert (found.budget_bytes, found.plan) == (None, "plans/own.json")
    assert found.notes["dropped"] == pytest.approx(0.75, abs=0.01)


def test_a_derive_that_fails_is_no_outcome(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Derived:
        raise ValueError("the shapes differ")

    chosen = replace(get_search("magnitude"), derive=broken)
    monkeypatch.setitem(search_base._SEARCHES, "magnitude", chosen)
    config = search_for(base_config(data, tmp_path / "s"), "magnitude", ["1/2"])
    with pytest.raises(ValueError, match="the shapes differ"):
        search(config)
    assert not (tmp_path / "s" / "search.json").exists()


def test_a_plan_is_trained_as_long_as_its_start_asks(data: Path, tmp_path: Path) -> None:
    config = search_for(base_config(data, tmp_path / "s"), "magnitude", ["1/2"])
    (found,) = search(config).found
    assert found.plan is not None
    assert found.start is not None
    assert found.epochs == 0
    plan, start = tmp_path / "s" / found.plan, tmp_path / "s" / found.start
    assert start == start_path(plan)
    assert start_epochs(start) == 0
    base = base_config(data, tmp_path / "run", start=start)
    assert train_config_for(base, plan, None, None).epochs == 0
    assert train_config_for(changed(base, epochs=2), plan, None, None).epochs == 2
    alone = train(train_config_for(base, plan, None, None))
    base = base_config(data, tmp_path / "c")
    compare(CompareRequest(methods=(str(plan),), budgets=("1/2",), num_seeds=1), base)
    (folder,) = (tmp_path / "c" / "runs").glob(f"{plan.stem}*")
    result = Result.load(folder)
    assert result.num_steps == 0
    assert result.test == alone.test


def test_a_finished_search_without_its_files_says_so(data: Path, tmp_path: Path) -> None:
    config = search_for(base_config(data, tmp_path / "s"), "magnitude", ["1/2"])
    (found,) = search(config).found
    (tmp_path / "s" / str(found.plan)).unlink()
    with pytest.raises(ValueError, match=r"a finished search whose files \['plans/\d+.json'\] are"):
        search(config)


def test_parse_search_knows_the_loop_s_own_options() -> None:
    choice = parse_search("pep:train.table_learning_rate=0.1:fitness_rows=500")
    assert choice.options == {"train.table_learning_rate": 0.1, "fitness_rows": 500}
