"""Figures and hyper-parameters of every protocol file, against a second text of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compactrec.benchmarks.budgets import parse_budget
from compactrec.benchmarks.choices import parse_search
from compactrec.benchmarks.protocol_file import ProtocolFile, load_protocol, protocol_names
from compactrec.data.protocol import get_protocol
from compactrec.models import get_model
from tests.benchmarks.protocol_facts import (
    FIGURES,
    KAGGLE_ROWS,
    OF_LOGS,
    SEARCHES,
    SETTINGS,
    UNTOLD,
    Figure,
)

NAMES = protocol_names()


def test_no_protocol_is_left_out() -> None:
    assert set(FIGURES) == set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_the_published_one(name: str) -> None:
    found: list[Figure] = [
        (c.model, c.method, c.budget, c.split, c.auc, c.logloss, c.accuracy)
        for group in load_protocol(name).figures
        for c in group.cells
    ]
    assert Counter(found) == Counter(FIGURES[name])


def fixed(protocol: ProtocolFile, model: str) -> dict[str, Any]:
    """All that a protocol fixes for a model, flat."""
    config = protocol.config(model, Path("data"), Path("out"))
    schedule = config.schedule.model_dump()
    options = get_model(model).parse(config.model_options).model_dump(mode="json")
    return {
        **config.model_dump(), **{f"schedule.{k}": v for k, v in schedule.items()}, **options,
        "rows": protocol.data.rows, "num_ids": protocol.data.num_ids, "metric": protocol.metric,
        "methods": protocol.methods, "seeds": protocol.seeds,
        "budgets": tuple(parse_budget(text).num_bytes for text in protocol.budgets),
        "rules.min_count": get_protocol(protocol.data.protocol).min_count,
    }  # fmt: skip


def _flat(fields: Mapping[str, Any]) -> set[str]:
    return {
        f"{name}.{inner}" if isinstance(value, Mapping) else name
        for name, value in fields.items()
        for inner in (value if isinstance(value, Mapping) else [""])
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_the_published_one(name: str) -> None:
    protocol, settings = load_protocol(name), SETTINGS[name]
    assert set(settings) <= {"*", *protocol.models}
    for model in protocol.models:
        own = set(protocol.models[model])
        told = {**settings["*"], **settings.get(model, {})}
        if name in OF_LOGS:
            told = {k: v for k, v in told.items() if k not in own}
        found = fixed(protocol, model)
        assert {k: found.get(k, "absent") for k in told} == told, model
        named = _flat(protocol.train) | own
        if name in OF_LOGS:
            named -= own
        assert named - set(told) <= {"engine", *UNTOLD.get(name, ())}, model


@pytest.mark.parametrize("name", NAMES)
def test_every_search_is_the_published_one(name: str) -> None:
    found = {
        model: parse_search(text).options
        for model in load_protocol(name).models
        for text in load_protocol(name).methods_of(model)
        if load_protocol(name).searches
    }
    assert found == {
        model: {"epochs": 30, "patience": 1, "threshold_learning_rate": rate, "alpha": alpha}
        for model, (rate, alpha) in SEARCHES.get(name, {}).items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_the_splits_are_all_rows(name: str) -> None:
    data = load_protocol(name).data
    if "45,840,617" in data.files or "Kaggle's train.txt" in data.files:
        assert sum(data.rows.values()) == KAGGLE_ROWS
    if "40,428,967" in data.files:
        assert sum(data.rows.values()) == 40_428_967
