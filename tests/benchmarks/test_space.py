"""Spaces that tuning chooses from: what may stand in one, and where its ends are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.ranges import Range
from compactrec.benchmarks.space import TUNABLE, Space, settings_text, with_settings
from compactrec.models import get_model, model_names

HERE = Path(".")


def config(**fields: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": HERE, "out": HERE, "method": "full", **fields})


def space(tmp_path: Path, text: str) -> Space:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return Space.load(path)


@pytest.mark.parametrize("model", model_names())
def test_the_shipped_space_fits_every_model(model: str) -> None:
    base = config(model=model, dense_learning_rate=0.004)
    found = Space.default().resolve(base)
    assert found.ranges["dense_learning_rate"].log_uniform == (0.0004, 0.04)
    table = base.table_learning_rate
    rates = found.ranges["table_learning_rate"].log_uniform
    assert rates == pytest.approx((table / 10, table * 10))
    has_dropout = "dropout" in get_model(model).config.model_fields
    assert ("dropout" in found.ranges) == has_dropout
    assert with_settings(base, found.settings_of(base)).resolved() == base.resolved()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has nothing to tune; write a line such as table_learning_rate = { log_unif"),
        ("a = [", "space.toml is not valid TOML"),
        ("table_eps = 3", "table_eps must say what it is chosen from, such as table_eps = { ch"),
        ("table_eps = {}", "table_eps: give one of choices, uniform, log_uniform, integers, times"),
        (
            "table_eps = { choices = [1, 2], times = [1, 2] }",
            "table_eps: give one of .*, got choices and times",
        ),
        ("table_eps = { normal = [1, 2] }", "table_eps.normal is not known; there are choices"),
        ("table_eps = { uniform = [2, 2] }", r"uniform goes from a lower to .* got \[2, 2\]"),
        ("table_eps = { uniform = [3, 2] }", r"uniform goes from a lower to .* got \[3, 2\]"),
        ("table_eps = { uniform = [0, inf] }", r"uniform goes from a lower .* got \[0, inf\]"),
        ("table_eps = { uniform = [1] }", "table_eps.uniform.1: Field required"),
        ("table_eps = { log_uniform = [0, 1] }", "log_uniform needs numbers above 0.*use choices"),
        ("table_eps = { times = [-1, 1] }", "times needs numbers above 0, got"),
        ("batch_size = { integers = [1, 2.5] }", "batch_size.integers.1: Input should be a valid"),
        ("table_eps = { choices = [1] }", r"choices must be two or more different .* got \[1\]"),
        ("table_eps = { choices = [1, 2, 1] }", r"two or more different values, got \[1, 2, 1\]"),
    ],
)
def test_a_file_that_is_no_space_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        space(tmp_path, text)
    assert str(error.value).removeprefix("space ").startswith(str(tmp_path / "space.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = { choices = [1, 2] }", "'speed' is neither a field .* of model 'dlrm'; fields"),
        ("table_decai = { choices = [1, 2] }", r"'dlrm' \(nearest are 'table_decay', .*\); fields"),
        ("hidden = { choices = [[4], [8]] }", "'hidden' is neither .* options are bottom, top"),
        ("embedding_decay = { times = [0.1, 10] }", "embedding_decay: times multiplies what .* 0"),
        ("batch_size = { integers = [0, 9] }", "batch_size cannot be 0: Input should be greater"),
        ("batch_size = { uniform = [1, 9] }", "batch_size cannot be 2.1: Input should be a val"),
        ('table_optimizer = { choices = ["sgd", "lion"] }', "table_optimizer cannot be 'lion': I"),
        ('table_optimizer = { choices = ["sgd", "lamb"] }', "cannot be 'lamb': engine 'fused' has"),
        ("top = { choices = [[8, 1], [8, -1]] }", r"top cannot be \[8, -1\]: model dlrm: option"),
        ("cin = { choices = [[4], [8]], optional = true }", "'dlrm' has none of cin; nothing"),
    ],
)
def test_what_does_not_fit_the_training_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^space .*space.toml: .*{message}"):
        space(tmp_path, text).resolve(config())


@pytest.mark.parametrize("name", sorted(TrainConfig.model_fields.keys() - set(TUNABLE)))
def test_what_a_comparison_holds_equal_is_not_for_tuning(name: str) -> None:
    with pytest.raises(ValueError, match=f"space: '{name}' is not for tuning.*choose among batch"):
        Space(ranges={name: Range(choices=(1, 2))}).resolve(config())


def test_an_option_that_changes_the_tables_is_refused() -> None:
    wide = Space(ranges={"wide": Range(choices=(False, True))})
    with pytest.raises(ValueError, match="wide: it decides which tables the model has, so plans"):
        wide.resolve(config(model="autoint"))


def test_options_of_the_model_go_where_they_belong() -> None:
    base = config(model="dcnv2", dropout=0.1, hidden=[8])
    found = with_settings(base, {"dropout": 0.3, "table_learning_rate": 0.5})
    assert found.model_options == {**base.model_options, "dropout": 0.3}
    assert found.table_learning_rate == 0.5
    options = Space(ranges={"dropout": Range(uniform=(0, 0.5))})
    assert options.settings_of(base) == {"dropout": 0.1}
    assert settings_text({"a": 0.1 + 0.2, "b": [8, 4]}) == "a 0.3, b [8, 4]"


@given(st.floats(0, 1, exclude_max=True))
def test_points_become_values_within_the_ends(point: float) -> None:
    rates = Range(log_uniform=(0.0021, 0.2))
    value = rates.at(point)
    assert isinstance(value, float)
    assert 0.0021 <= value <= 0.2
    assert value == pytest.approx(0.0021 * (0.2 / 0.0021) ** point, rel=0.006)
    assert float(f"{value:.3g}") == value
    assert 2.0049 <= float(str(Range(uniform=(2.0049, 2.0051)).at(point))) <= 2.0051
    assert Range(uniform=(-1, 3)).at(point) == pytest.approx(-1 + 4 * point, abs=0.006)
    assert Range(integers=(2, 4)).at(point) == 2 + int(3 * point)
    assert Range(choices=("a", "b")).at(point) == ("b" if point >= 0.5 else "a")


@pytest.mark.parametrize(
    ("span", "value", "end"),
    [
        (Range(log_uniform=(0.01, 1)), 0.012, "low"),
        (Range(log_uniform=(0.01, 1)), 0.013, None),
        (Range(log_uniform=(0.01, 1)), 0.79, None),
        (Range(log_uniform=(0.01, 1)), 0.8, "high"),
        (Range(log_uniform=(0.01, 1)), 0.0, "low"),
        (Range(uniform=(0, 10)), 9.4, None),
        (Range(uniform=(0, 10)), 9.5, "high"),
        (Range(uniform=(0, 10)), 12, "high"),
        (Range(integers=(0, 100)), 1, None),
        (Range(integers=(0, 100)), 0, "low"),
        (Range(choices=(3, 1, 2)), 3, "high"),
        (Range(choices=(3, 1, 2)), 2, None),
        (Range(choices=("a", "b")), "a", None),
        (Range(choices=(True, False)), True, None),
        (Range(uniform=(0, 10)), None, None),
    ],
)
def test_values_at_an_end(span: Range, value: float | None, end: str | None) -> None:
    assert span.end_of(value) == end


def test_an_end_that_cannot_be_passed_is_no_edge() -> None:
    ranges = {
        "table_learning_rate": Range(log_uniform=(0.002, 0.2)),
        "embedding_decay": Range(choices=(0.0, 0.01, 0.1)),
        "dropout": Range(uniform=(0, 0.5)),
        "cross_layers": Range(integers=(1, 4)),
    }
    found = Space(ranges=ranges).resolve(config(model="dcnv2"))
    names = list(ranges)
    low = dict(zip(names, (0.002, 0.0, 0.0, 1), strict=True))
    high = dict(zip(names, (0.2, 0.1, 0.5, 4), strict=True))
    within = dict(zip(names, (0.02, 0.01, 0.2, 2), strict=True))
    base = config(model="dcnv2")
    assert found.edges(base, high) == tuple(names)
    assert found.edges(base, within) == ()
    assert "embedding_decay" not in found.edges(base, low)
    assert "dropout" not in found.edges(base, low)
    assert found.edges(base, low)[0] == "table_learning_rate"


def test_fewer_settings_than_trials_are_refused() -> None:
    ranges = {
        "table_learning_rate": Range(choices=(0.02, 0.06)),
        "table_decay": Range(choices=(0, 1)),
    }
    four = Space(ranges=ranges)
    four.require(4, {"table_learning_rate": 0.02, "table_decay": 0})
    four.require(5, {"table_learning_rate": 0.03, "table_decay": 0})  # the base is one more
    message = "5 trials, and the space has 4 settings, the base config's one of them; ask for 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        four.require(5, {"table_learning_rate": 0.02, "table_decay": 0})
    Space(ranges={**ranges, "table_eps": Range(uniform=(0, 1))}).require(
        99, {"table_learning_rate": 0.02, "table_decay": 0, "table_eps": 0.5}
    )
