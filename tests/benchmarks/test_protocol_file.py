"""Protocol files: all of them parse, and no figure is without its source and caveat."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compactrec.benchmarks.config as config_file
import compactrec.benchmarks.protocol_file as protocol_file
from compactrec.benchmarks.choices import parse_choice
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.protocol_file import (
    FOLDER,
    ProtocolFile,
    load_protocol,
    protocol_names,
    read_protocol,
)
from compactrec.benchmarks.protocol_note import Published
from compactrec.models import get_model, model_names
from tests.cases import needs_hash

NAMES = protocol_names()
VALID: dict[str, Any] = {
    "name": "made",
    "title": "A made protocol",
    "sources": ["nobody's repository"],
    "data": {"table": "criteo", "protocol": "dlrm-kaggle", "files": "train.txt"},
    "models": {"dlrm": {"top": [8, 1]}},
    "figures": [
        {
            "source": "a table of nobody's",
            "provenance": "read in that table",
            "caveat": "another split altogether",
            "cells": [{"model": "dlrm", "auc": 0.8}],
        }
    ],
}


def with_figure(**changes: object) -> dict[str, Any]:
    return {**VALID, "figures": [{**VALID["figures"][0], **changes}]}


def with_search(name: str, **models: object) -> dict[str, Any]:
    own = {"models": {"dlrm": {}, "deepfm": {}}, "budgets": ["1/4"]}
    return {**VALID, **own, "searches": {name: {"options": {"epochs": 3}, "models": models}}}


def test_a_search_is_a_method_of_its_models_alone() -> None:
    content = with_search("optembed", dlrm={"alpha": 1e-5, "retrain": "fresh"})
    protocol = ProtocolFile.model_validate(content)
    (text,) = protocol.methods_of("dlrm")
    choice = parse_choice(text)
    assert choice.is_search
    assert choice.options == {"epochs": 3, "alpha": 1e-5, "retrain": "fresh"}
    assert protocol.methods_of("deepfm") == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_a_protocol_with_sources_and_known_models(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert set(protocol.models) <= set(model_names())
    for model in protocol.models:
        config = protocol.config(model, Path("data"), Path("out"))
        assert config.model == model
        figures = list(protocol.published(model))
        assert all(group.source and group.provenance and group.caveat for group, _ in figures)


@needs_hash
@pytest.mark.parametrize("name", NAMES)
def test_methods_of_a_protocol_and_of_its_figures_are_known(name: str) -> None:
    protocol = load_protocol(name)
    named = {cell.method for group in protocol.figures for cell in group.cells}
    assert named <= {"full", *protocol.methods}
    for text in named | set(protocol.methods):
        parse_choice(text)
    for cell in (cell for group in protocol.figures for cell in group.cells):
        assert cell.budget is None or cell.budget in protocol.budgets


@pytest.mark.parametrize("name", NAMES)
def test_nothing_known_from_memory_alone_is_a_figure(name: str) -> None:
    for group in load_protocol(name).figures:
        words = f"{group.source} {group.provenance}".lower()
        assert "memory" not in words
        assert "unverified" not in words


@pytest.mark.parametrize("missing", ["source", "provenance", "caveat"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_figure_without_its_source_or_caveat_is_no_figure(
    missing: str, value: str | None
) -> None:
    figures = {k: v for k, v in VALID["figures"][0].items() if k != missing}
    if value is not None:
        figures[missing] = value
    with pytest.raises(ValueError, match=rf"figures\.0\.{missing}"):
        ProtocolFile.model_validate({**VALID, "figures": [figures]})
    ProtocolFile.model_validate(VALID)
    note = {"method": "full", "budget_bytes": None, "split": "test", "metrics": {"auc": 0.8}}
    note |= {"source": "a", "provenance": "b", "caveat": "c"} | {missing: value or ""}
    with pytest.raises(ValueError, match=missing):
        Published.model_validate(note)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_figure(cells=[{"model": "fm", "auc": 0.8}]), "of model 'fm'.*are \\['dlrm'\\]"),
        (with_figure(cells=[{"model": "dlrm"}]), "needs a number: auc, logloss or accuracy"),
        (
            with_figure(cells=[{"model": "dlrm", "split": "validation", "logloss": 0.4}]),
            "of validation rows only the auc",
        ),
        (with_figure(cells=[{"model": "dlrm", "auc": 0.8, "budget": "1MB"}]), "have no budget|has"),
        (with_figure(cells=[{"model": "dlrm", "auc": 0.8, "method": "hash"}]), "every other one"),
        ({**VALID, "models": {"dlrm": {"topp": [8, 1]}}}, "topp"),
        ({**VALID, "models": {"dlrm": {"seed": 3}}}, r"\['seed'\] are not for a protocol to fix"),
        ({**VALID, "methods": ["hash"]}, "and budgets go together"),
        ({**VALID, "searches": {"optembed": {"models": {"dlrm": {}}}}}, "and budgets go together"),
        (with_search("optembedd", dlrm={}), "no search 'optembedd'|unknown search 'optembedd'"),
        (with_search("optembed", fm={}), r"of 'fm', and there are \['dlrm', 'deepfm'\]"),
        (with_search("optembed", dlrm={"alhpa": 1e-4}), "alhpa"),
        (with_search("optembed", dlrm={"alpha": "much"}), "alpha"),
        (with_search("optembed", dlrm={"train.dim": 4}), "train.dim"),
        ({**VALID, "data": {**VALID["data"], "protocol": "mine"}}, "no protocol 'mine'"),
        ({k: v for k, v in VALID.items() if k != "sources"}, "sources"),
    ],
)
def test_what_is_wrong_is_said(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProtocolFile.model_validate(content)


def test_unknown_names_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no protocol 'criteo'; there are .*dlrm-kaggle"):
        load_protocol("criteo")
    path = tmp_path / "mine.toml"
    path.write_text("title = ")
    with pytest.raises(ValueError, match=r"mine\.toml is not valid TOML"):
        read_protocol(path)
    path.write_text('titel = "x"\n')
    with pytest.raises(ValueError, match=r"mine.toml is no protocol file: titel: .* 'title'; titl"):
        read_protocol(path)


def test_a_model_that_is_not_in_it() -> None:
    with pytest.raises(ValueError, match="'dlrm-kaggle' is about dlrm, got model 'fm'"):
        load_protocol("dlrm-kaggle").config("fm", Path("data"), Path("out"))


def test_files_hold_no_number_beside_the_fields_that_are_checked() -> None:
    """TOML tables that nobody reads would be facts that nobody checks."""
    for name in NAMES:
        content = tomllib.loads((FOLDER / f"{name}.toml").read_text())
        assert set(content) <= set(ProtocolFile.model_fields)


def test_what_a_model_states_of_its_training_is_not_of_the_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"dense_optimizer": "adagrad", "table_eps": 0.5}
    stated = replace(get_model("dlrm"), training=own)
    monkeypatch.setattr(protocol_file, "get_model", lambda name: stated)
    monkeypatch.setattr(config_file, "get_model", lambda name: stated)
    config = ProtocolFile.model_validate(VALID).config("dlrm", Path("data"), Path("out"))
    plain = TrainConfig.model_fields
    assert config.dense_optimizer == plain["dense_optimizer"].default
    assert config.table_eps == plain["table_eps"].default
    changed = ProtocolFile.model_validate({**VALID, "train": {"table_eps": 0.25}})
    assert changed.config("dlrm", Path("data"), Path("out")).table_eps == 0.25
