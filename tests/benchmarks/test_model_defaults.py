"""A model's own defaults of training: where they stand, and who has the last word."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compactrec.benchmarks.choices import changed, train_config_for
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.search_config import search_config
from compactrec.benchmarks.show import result_table
from compactrec.benchmarks.train import train
from compactrec.embeddings.search import search_names
from compactrec.embeddings.search.base import DENSE_ADAM
from compactrec.models import get_model, model_names, registry
from compactrec.options import TrainOptions

OWN = {"batch_size": 512, "dense_optimizer": "adagrad", "table_learning_rate": 0.5}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """DCN-V2 is trained in a way of its own."""
    monkeypatch.setitem(registry._MODELS, "dcnv2", replace(get_model("dcnv2"), training=OWN))


def config(**given: Any) -> TrainConfig:
    return TrainConfig.model_validate({"data": "d", "out": "o", "method": "full", **given})


@pytest.mark.parametrize("name", model_names())
def test_a_model_names_fields_of_training_and_nothing_of_a_run(name: str) -> None:
    training = get_model(name).training
    assert set(training) <= {
        "batch_size", "dense_optimizer", "dense_learning_rate", "dense_weight_decay", "dim",
        "init_std", "table_optimizer", "table_learning_rate", "table_eps",
    }  # fmt: skip
    found = config(model=name).model_dump(mode="json")
    assert {key: found[key] for key in training} == dict(training)
    usual = config(model="dlrm").model_dump(mode="json", exclude={"model", "model_options"})
    assert {key for key, value in usual.items() if found[key] != value} <= set(training)


@pytest.mark.usefixtures("own")
def test_what_a_person_gives_wins_over_the_model_and_that_over_the_config() -> None:
    made = config(model="dcnv2", table_learning_rate=0.125)
    assert (made.batch_size, made.dense_optimizer, made.table_learning_rate) == (
        512, "adagrad", 0.125,
    )  # fmt: skip
    resolved = made.resolved()
    assert (resolved["batch_size"], resolved["table_learning_rate"]) == (512, 0.125)
    assert config(model="fnn").batch_size == 2048
    assert not {"batch_size", "dense_optimizer"} & made.model_fields_set
    assert changed(made, epochs=3).batch_size == 512
    assert TrainConfig.model_validate_json(made.model_dump_json()) == made


@pytest.mark.usefixtures("own")
def test_a_search_has_its_own_way_before_the_model_s() -> None:
    base = config(model="dcnv2")
    for name in search_names()[:1]:
        found = search_config(name, {}, (), base, given=base.model_fields_set).train
        assert {field: getattr(found, field) for field in DENSE_ADAM} == dict(DENSE_ADAM)
        assert found.batch_size == 512


def test_a_model_and_data_are_all_that_training_needs(data: Path, tmp_path: Path) -> None:
    base = TrainOptions(model="autoint", num_threads=1).train_config(data, tmp_path / "run", 0)
    result = train(train_config_for(changed(base, quiet=True), None, "full", None))
    assert result.config["model"] == "autoint"
    assert (result.config["batch_size"], result.config["dim"]) == (2048, 16)
    assert result.config["model_options"]["head_dim"] == 32
    assert result.test is not None


def test_a_run_that_left_the_test_split_closed_is_shown(data: Path, tmp_path: Path) -> None:
    made = config(data=data, out=tmp_path, model="lr", score_test=False, quiet=True)
    console = Console(width=100, file=StringIO())
    console.print(result_table(train(made), tmp_path))
    (line,) = (x for x in console.file.getvalue().splitlines() if x.strip().startswith("auc"))  # type: ignore[attr-defined]  # a StringIO
    assert re.fullmatch(r"\s*auc\s+0\.\d{5}\s+-\s*", line)
