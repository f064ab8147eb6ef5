"""Settings that tuning tries."""

from pathlib import Path

import pytest

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.tuning import TRIALS, Setting


@pytest.fixture
def base() -> TrainConfig:
    return TrainConfig(
        data=Path("d"), out=Path("o"), method="full", embedding_decay=0.5, table_learning_rate=0.2
    )


def test_the_first_setting_is_the_base_config(base: TrainConfig) -> None:
    assert next(iter(TRIALS.values())).apply(base) == base


def test_all_settings_differ(base: TrainConfig) -> None:
    assert len({setting.apply(base).model_dump_json() for setting in TRIALS.values()}) == len(
        TRIALS
    )


def test_rates_are_factors_and_the_decay_is_put_in_place(base: TrainConfig) -> None:
    changed = Setting(table_rate=3, dense_rate=0.5, embedding_decay=0.0).apply(base)
    assert changed.table_learning_rate == pytest.approx(0.6)
    assert changed.dense_learning_rate == pytest.approx(base.dense_learning_rate / 2)
    assert changed.embedding_decay == 0.0
