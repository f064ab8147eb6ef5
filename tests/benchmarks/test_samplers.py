"""Where the settings of a tuning come from."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from pathlib import Path

import pytest
from pydantic import JsonValue

from compactrec.benchmarks.ranges import Range
from compactrec.benchmarks.samplers import Sampler, SamplerName, make_sampler
from compactrec.benchmarks.space import Settings, Space

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna is an extra of its own"
)
TPE = pytest.param("tpe", marks=needs_optuna)
SPACES = Path(__file__).resolve().parents[2] / "benchmarks" / "spaces"
SPACE = Space(
    ranges={
        "rate": Range(log_uniform=(0.001, 0.1)),
        "layers": Range(integers=(1, 4)),
        "hidden": Range(choices=([8], [8, 4], "none")),
        "dropout": Range(uniform=(0, 0.5)),
    }
)
FIRST: Settings = {"rate": 0.01, "layers": 2, "hidden": [8], "dropout": 0.1}


def auc(settings: Settings) -> float:
    """Best at a rate of 0.03 and no dropout."""
    rate, dropout = settings["rate"], settings["dropout"]
    assert isinstance(rate, float)
    assert isinstance(dropout, float)
    return 0.8 - 0.1 * abs(math.log(rate / 0.03)) - dropout / 10


def drawn(
    name: SamplerName, num: int, seed: int = 5, failing: tuple[int, ...] = ()
) -> list[dict[str, JsonValue]]:
    sampler = make_sampler(name, SPACE, FIRST, seed)
    sampler.tell(auc(FIRST))
    return [asked(sampler, number in failing) for number in range(num)]


def asked(sampler: Sampler, fails: bool) -> dict[str, JsonValue]:
    settings = sampler.ask()
    sampler.tell(None if fails else auc(settings))
    return settings


@pytest.mark.parametrize("name", ["sobol", TPE])
def test_settings_are_in_the_space_and_the_same_again(name: SamplerName) -> None:
    found = drawn(name, 12)
    for settings in found:
        assert list(settings) == list(SPACE.ranges)
        assert all(span.holds(settings[key]) for key, span in SPACE.ranges.items())
        assert isinstance(settings["layers"], int)
    assert drawn(name, 12) == found
    assert drawn(name, 7) == found[:7], "more trials are the same and some more"
    assert drawn(name, 12, seed=6) != found


def test_the_sequence_is_spread_evenly() -> None:
    """Of 16 points each quarter of a range gets four, and each choice its part."""
    found = drawn("sobol", 16)
    quarters = [int(math.log(float(str(s["rate"])) / 0.001, 100) * 4) for s in found]
    assert sorted(quarters) == sorted([0, 1, 2, 3] * 4)
    assert sorted(s["layers"] for s in found if isinstance(s["layers"], int)) == sorted(
        [1, 2, 3, 4] * 4
    )
    assert min(sum(s["hidden"] == c for s in found) for c in ([8], [8, 4], "none")) >= 5


def test_no_setting_comes_twice_and_the_first_never() -> None:
    space = Space(ranges={"rate": Range(choices=(0, 0.1, 0.2)), "layers": Range(integers=(1, 2))})
    sampler = make_sampler("sobol", space, {"rate": 0.0, "layers": 2}, seed=3)
    found = [(s["rate"], s["layers"]) for s in (sampler.ask() for _ in range(5))]
    assert sorted(map(str, found)) == [
        "(0, 1)", "(0.1, 1)", "(0.1, 2)", "(0.2, 1)", "(0.2, 2)",
    ]  # fmt: skip


def test_the_settings_of_the_committed_comparisons_are_a_space() -> None:
    space = Space.load(SPACES / "four.toml")
    first: Settings = {"table_learning_rate": 0.02, "embedding_decay": 0.0}
    space.require(4, first)
    sampler = make_sampler("sobol", space, first, seed=5)
    found = {tuple(sampler.ask().values()) for _ in range(3)}
    assert found == {(0.02, 0.03), (0.06, 0.0), (0.06, 0.03)}


@needs_optuna
def test_tpe_learns_from_results() -> None:
    """And from their order alone: what failed is not taken for a bad one."""
    found = drawn("tpe", 30)
    late = sum(auc(settings) for settings in found[15:]) / 15
    by_chance = sum(auc(settings) for settings in drawn("sobol", 32)) / 32
    assert late > by_chance + 0.05
    assert drawn("tpe", 12, failing=(2, 7)) != drawn("tpe", 12)


@needs_optuna
def test_tpe_begins_with_the_base_config_where_the_space_has_it() -> None:
    inside = make_sampler("tpe", SPACE, FIRST, seed=5)
    inside.tell(0.9)
    (trial,) = inside._study.trials  # type: ignore[attr-defined] # what Optuna was told
    assert (trial.value, trial.params) == (0.9, {**FIRST, "hidden": 0})
    outside = make_sampler("tpe", SPACE, {**FIRST, "rate": 0.5}, seed=5)
    outside.tell(0.9)
    assert outside._study.trials == []  # type: ignore[attr-defined] # what Optuna was told


@needs_optuna
def test_optuna_says_nothing_of_its_own() -> None:
    from optuna import create_study
    from optuna.logging import get_verbosity

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign] # a test
    logger, before = logging.getLogger("optuna"), get_verbosity()
    logger.addHandler(handler)
    try:
        drawn("tpe", 7, failing=(1,))
        assert (said, get_verbosity()) == ([], before)
        create_study()
        assert len(said) == 1, "and others still hear it"
    finally:
        logger.removeHandler(handler)


def test_without_optuna_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    message = r"sampler 'tpe' needs Optuna, .*pip install '.\[tune\]'\", or use sampler 'sobol'"
    with pytest.raises(ValueError, match=message):
        make_sampler("tpe", SPACE, FIRST, seed=0)
    assert make_sampler("sobol", SPACE, FIRST, seed=0).ask()
