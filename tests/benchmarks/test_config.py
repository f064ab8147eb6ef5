"""The training config and the learning-rate schedule: what is allowed, and what they resolve to."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compactrec.benchmarks.choices import train_config_for
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.plans import resolve_plan
from compactrec.benchmarks.schedule import LearningRateSchedule
from compactrec.data.manifest import Manifest
from tests.benchmarks.fake_runs import fake_data

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "benchmarks/configs").glob("*.toml"))


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"data": "d", "out": "o", "method": "full", **changes})


def test_there_are_example_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_example_configs_parse(path: Path) -> None:
    places = {"data": "a", "out": "b", "method": "full"}
    TrainConfig.model_validate({**places, **tomllib.loads(path.read_text())})


def test_the_documented_training_config_parses() -> None:
    text = (CONFIGS[0].parents[2] / "docs" / "training.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    made = config(**tomllib.loads("\n".join(blocks)))  # as one file
    assert made.schedule.plateau_factor == 0.1
    assert made.accumulate_steps * made.batch_size == 10_000


def test_round_trip_through_json() -> None:
    given = config(bottom=(8, 4), options={"operation": "product"}, method="hash", budget_bytes=9)
    assert TrainConfig.model_validate_json(given.model_dump_json()) == given


def test_resolved_leaves_out_places_and_cosmetics_alone() -> None:
    everything = set(TrainConfig.model_fields)
    off = {
        "table_decay": 0.1,
        "accumulate_steps": 2,
        "max_grad_norm": 10,
        "monitor": "auc_minus_logloss",
        "init_std": 0.5,
        "dense_eps": 1e-8,
    }
    all_on = config(engine="eager", dense_dtype="bfloat16", **off)
    left_out = everything - set(all_on.resolved()) - {"kernel"}
    assert left_out == {
        "data", "out", "plan", "start", "quiet", "keep_model", "tensorboard",
        "checkpoint_every_seconds", "checkpoint_every_steps", "checkpoint_asynchronous",
        "sharding", "pipeline", "rewrite_in_loader",
    }  # fmt: skip
    assert config().resolved()["schedule"].keys() == {
        "warmup_steps", "decay_start_step", "num_decay_steps",
    }  # fmt: skip
    assert "dense_eps" not in config(dense_optimizer="sgd", dense_eps=1e-8).resolved()
    # As in results from before there were these:
    assert not {*off, "dense_dtype"} & set(config(engine="eager").resolved())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": None}, "neither a plan nor a method was given"),
        ({"method": "hash"}, "method 'hash' needs a budget .*; only 'full'"),
        (
            {"engine": "eager", "table_optimizer": "rowwise_adagrad"},
            "engine 'eager' has no 'rowwise_adagrad'; use engine 'fused'",
        ),
        ({"batch_sise": 3}, "Extra inputs are not permitted"),
        ({"dense_learning_rate": 0}, "greater than 0"),
        ({"schedule": {"warmup_steps": 5, "num_decay_steps": 3}}, "start it at 5 or later"),
    ],
)
def test_what_is_not_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().seed = 1


def test_schedule_is_constant_by_default() -> None:
    schedule = LearningRateSchedule()
    assert [schedule.rate(0.3, step) for step in (1, 10, 10**6)] == [0.3] * 3


def test_schedule_warms_up_stays_decays_and_freezes() -> None:
    schedule = LearningRateSchedule(warmup_steps=4, decay_start_step=6, num_decay_steps=2)
    rates = [schedule.rate(8.0, step) for step in range(1, 11)]
    # 8 t / 4, then 8, then 8 ((2 - 0) / 2)^2 and 8 ((2 - 1) / 2)^2, which it keeps
    assert rates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 2.0, 2.0, 2.0, 2.0]


def test_schedule_without_warm_up_decays_to_the_floor_at_most() -> None:
    schedule = LearningRateSchedule(num_decay_steps=10_000)
    assert schedule.rate(0.1, 5_000) == pytest.approx(0.1 / 4)
    assert schedule.rate(0.1, 9_999) == pytest.approx(1e-7)
    assert schedule.rate(0.1, 10**9) == pytest.approx(1e-7)
    assert schedule.rate(100.0, 10**9) == pytest.approx(1e-6)


def test_a_plan_file_is_named_only_by_what_it_is(tmp_path: Path) -> None:
    data = fake_data(tmp_path / "data")
    manifest = Manifest.load(data)
    full = resolve_plan(config(data=str(data)), manifest)
    full.save(tmp_path / "full.json")
    given = {"data": str(data), "plan": str(tmp_path / "full.json")}
    assert resolve_plan(config(**given), manifest).digest == full.digest
    with pytest.raises(ValueError, match=r"is a plan of \['full'\], but method is 'uniform'"):
        resolve_plan(config(**given, method="uniform", budget_bytes=10**9), manifest)
    with pytest.raises(ValueError, match=r"serves with .* bytes, but budget_bytes is 1,000"):
        resolve_plan(config(**given, budget_bytes=1000), manifest)


def test_full_tables_take_no_budget(tmp_path: Path) -> None:
    base = config(data=str(fake_data(tmp_path / "data")))
    with pytest.raises(ValueError, match="full tables have a size of their own"):
        train_config_for(base, None, "full", "1MB")
