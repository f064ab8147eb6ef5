"""A plan at a budget, for every method: fits, uses the budget, grows with it, refuses in words."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    Plan,
    compress,
    full_plan,
    get_method,
    make_plan,
    size,
)
from compactrec.embeddings.search import search_names
from tests.cases import METHODS

NAMES = [row.method for row in METHODS if get_method(row.method).sized]
COMPRESSING = [name for name in NAMES if name != "full"]
SIZES = (3, 180, 1200, 90_000, 5_000, 700_000, 40)
FEATURES = tuple(Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(SIZES))
FULL_BYTES = size(full_plan(FEATURES)).serving_bytes
each_method = pytest.mark.parametrize("method", COMPRESSING)


def frequencies(features: tuple[Feature, ...]) -> dict[str, np.ndarray]:
    """Counts by falling frequency after id 0, as the project's own preparation numbers ids."""
    found = {}
    for feature in features:
        assert feature.num_ids is not None
        found[feature.name] = (10**7 / np.arange(1, feature.num_ids + 1) ** 1.1).astype(np.int64)
    return found


COUNTS = frequencies(FEATURES)


def plan_at(method: str, budget: int, features: tuple[Feature, ...] = FEATURES) -> Plan:
    counts = COUNTS if features is FEATURES else frequencies(features)
    return make_plan(method, features, budget, counts=counts)


@pytest.mark.parametrize("share", [1.2, 2, 4, 9.7, 15])
@each_method
def test_plans_fit_and_use_the_budget(method: str, share: float) -> None:
    budget = int(FULL_BYTES / share)
    report = size(plan_at(method, budget))
    assert report.serving_bytes <= budget
    assert report.serving_bytes > 0.99 * budget


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "any_order"])
@pytest.mark.parametrize("share", [3, 4, 16, 24])
@each_method
def test_few_features_use_the_budget_too(method: str, share: int, numbered: bool) -> None:
    """A column of one of these tables is a third of the smallest budget."""
    features = tuple(Feature(name=f"C{n}", num_ids=n, dim=32) for n in (11_400, 16_600, 47_200))
    counts = frequencies(features)
    budget = size(full_plan(features)).serving_bytes // share
    if not numbered:
        rng = np.random.default_rng(0)
        counts = {name: rng.permutation(of) for name, of in counts.items()}
        if share >= 16:  # a sixteenth is what a map over the vocabulary takes
            budget += 8 * sum(len(of) for of in counts.values())
    plan = make_plan(method, features, budget, counts=counts)
    assert 0.99 * budget < size(plan).serving_bytes <= budget


@each_method
def test_more_bytes_never_mean_less_table(method: str) -> None:
    found = [size(plan_at(method, FULL_BYTES // share)).table_bytes for share in (15, 8, 4, 2)]
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("method", NAMES)
def test_all_the_bytes_in_the_world_are_not_more_than_full(method: str) -> None:
    plan = plan_at(method, 100 * FULL_BYTES)
    report = size(plan)
    most = size(full_plan(FEATURES)).table_bytes
    if method == "unified":  # as many rows as there are ids and chunks, all of the chunk's width
        most = sum(4 * (f.num_ids or 0) * f.dim for f in FEATURES)
    assert report.table_bytes <= most
    assert report.dense_bytes == 0


@pytest.mark.parametrize("method", NAMES)
def test_small_features_stay_full_and_wide(method: str) -> None:
    plan = plan_at(method, FULL_BYTES)
    for group in plan.groups:
        for feature in plan.group_features(group):
            assert feature.num_ids is not None
            assert feature.num_ids > 200 or group.config.method == "full"
    assert plan.features == FEATURES


@each_method
def test_a_budget_that_cannot_be_met_is_refused(method: str) -> None:
    kept = 64 * (3 + 180 + 40)
    for budget in (100, kept + 100):
        with pytest.raises(
            ValueError, match=rf"^{method}: the budget is {budget:,} bytes, but"
        ) as e:
            plan_at(method, budget)
        found = re.search(r"takes (.*) bytes \((.*) for 3 feature.* 200 .* (.*) for", str(e.value))
        assert found is not None, e.value
        total, full, rest = (int(number.replace(",", "")) for number in found.groups())
        assert total == full + rest > full >= kept
        assert size(plan_at(method, total)).serving_bytes == total
    with pytest.raises(
        ValueError, match=r"raise the budget, or lower that limit \(threshold, .*, o"
    ):
        plan_at(method, 100)
    with pytest.raises(ValueError, match=r"takes [\d,]+ bytes; raise the budget, or choose "):
        make_plan(method, FEATURES, 100, counts=COUNTS, threshold=0)


@each_method
def test_a_plan_for_small_features_only_is_full(method: str) -> None:
    features = FEATURES[:2]
    plan = plan_at(method, 10**6, features)
    assert [group.config.method for group in plan.groups] == ["full", "full"]
    with pytest.raises(
        ValueError, match=r"takes 11,776 bytes \(11,776 for 2 feature.* of at most 200 ids, which"
    ):
        plan_at(method, 1000, features)


@each_method
def test_unknown_options_are_refused(method: str) -> None:
    with pytest.raises(
        ValueError, match=f"{method}: option no_such: there is no such field.* options are: "
    ):
        make_plan(method, FEATURES, FULL_BYTES, counts=COUNTS, options={"no_such": 1})


@each_method
def test_counts_must_fit_the_features(method: str) -> None:
    with pytest.raises(
        ValueError, match=r"counts of feature 'C2' have 5 entries, expected num_ids"
    ):
        make_plan(method, FEATURES, FULL_BYTES, counts=COUNTS | {"C2": np.ones(5, dtype=np.int64)})
    counts = {k: v for k, v in COUNTS.items() if k != "C4"}
    with pytest.raises(ValueError, match=r"counts are missing for 'C4'; give an array for each of"):
        make_plan(method, FEATURES, FULL_BYTES, counts=counts)
    with pytest.raises(
        ValueError,
        match=r"missing for 'C4'; there are some of 'c4', as no feature is called; .* 'C5'$",
    ):
        make_plan(method, FEATURES, FULL_BYTES, counts=counts | {"c4": COUNTS["C4"]})


ONE = Feature(name="a", num_ids=300, dim=8)


def ones_but(value: object, dtype: str | None = None) -> object:
    """Counts of ``ONE``: 7 of each id, and this of id 4."""
    return np.array([7] * 4 + [value] + [7] * 295, dtype=dtype)


@pytest.mark.parametrize(
    ("of_a", "error", "text"),
    [
        (ones_but(-1), ValueError, "whole numbers >= 0, got -1 for id 4"),
        (ones_but(np.nan), ValueError, "whole numbers >= 0, got nan for id 4"),
        (ones_but(np.inf), ValueError, "whole numbers >= 0, got inf for id 4"),
        (ones_but(1e19), ValueError, r"whole numbers >= 0, got 1e\+19 for id 4"),
        ([7.0] * 299 + [2.5], ValueError, "whole numbers >= 0, got 2.5 for id 299"),
        (ones_but("7", "U1"), TypeError, "whole numbers, got an array of <U1"),
        (ones_but({}, "O"), TypeError, "whole numbers, got an array of object"),
        (np.ones((300, 2)), ValueError, r"shape \(300, 2\), expected num_ids = 300"),
        (7, ValueError, r"shape \(\), expected num_ids = 300"),
    ],
)
def test_counts_are_whole_numbers(of_a: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"counts of feature 'a' (have|must be) {text}"):
        make_plan("rare", [ONE], 4_000, counts={"a": of_a})


def test_counts_are_by_name() -> None:
    with pytest.raises(TypeError, match=r"counts must be a mapping .* got ndarray; write \{'a': "):
        make_plan("rare", [ONE], 4_000, counts=ones_but(1))  # type: ignore[arg-type] # the error is what is tested


def test_whole_counts_may_be_floats_or_lists_and_of_more_features() -> None:
    counts = np.arange(300)[::-1]
    plan = make_plan("rare", [ONE], 4_000, counts={"a": counts})
    for same in (counts.astype(np.float32), counts.tolist(), counts.astype(np.uint64)):
        found = make_plan("rare", [ONE], 4_000, counts={"a": same, "b": np.ones(3)})
        assert found.to_json() == plan.to_json()


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'magic': there are full, "):
        make_plan("magic", FEATURES, FULL_BYTES)


@pytest.mark.parametrize("name", search_names())
def test_a_search_in_place_of_a_method_is_told_what_it_makes(name: str) -> None:
    message = (
        f"{name!r} is a search, and searches make plans: run `compactrec search --method {name}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make_plan(name, FEATURES, FULL_BYTES)
    with pytest.raises(ValueError, match=re.escape(message)):
        compress(nn.Embedding(1000, 8), name)


@each_method
def test_plans_at_a_budget_can_be_built(method: str) -> None:
    features = tuple(f.model_copy(update={"dim": 4}) for f in FEATURES)
    budget = size(full_plan(features)).serving_bytes // 2
    plan = make_plan(method, features, budget, counts=COUNTS)
    collection = CompressedEmbeddingBagCollection(plan)
    allocated = [*collection.parameters(), *collection.buffers()]
    assert sum(t.numel() * t.element_size() for t in allocated) <= budget
    assert [c.embedding_dim for c in collection.embedding_bag_configs()] == [4] * len(features)


@each_method
@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=6),
    dims=st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 10, 16]), min_size=6, max_size=6),
    share=st.floats(1.5, 12),
)
def test_any_features_fit_or_are_refused(
    method: str, sizes: list[int], dims: list[int], share: float
) -> None:
    features = tuple(
        Feature(name=f"f{i}", num_ids=n, dim=d)
        for i, (n, d) in enumerate(zip(sizes, dims, strict=False))
    )
    budget = int(size(full_plan(features)).serving_bytes / share)
    try:
        plan = plan_at(method, budget, features)
    except ValueError as error:
        # Refused only where the smallest plan is larger; with that many bytes there is one.
        budget += missing_bytes(str(error))
        plan = plan_at(method, budget, features)
    assert size(plan).serving_bytes <= budget


def missing_bytes(refusal: str) -> int:
    """What a refusal says that the budget lacks."""
    found = re.search(r"budget is ([\d,]+) bytes, but the smallest .* takes ([\d,]+) b", refusal)
    assert found is not None, refusal
    given, needed = (int(number.replace(",", "")) for number in found.groups())
    assert needed > given
    return needed - given


@pytest.mark.parametrize("budget", ["4MB", 4e6, True, None])
def test_a_budget_is_a_whole_number(budget: object) -> None:
    with pytest.raises(TypeError, match="budget_bytes must be a whole number of bytes, got"):
        make_plan("full", [Feature(name="a", num_ids=9, dim=4)], budget)  # type: ignore[arg-type] # the error is what is tested


@pytest.mark.parametrize(("threshold", "text"), [("a", "a whole number"), (-4, "0 or more")])
def test_a_threshold_is_a_whole_number(threshold: object, text: str) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=f"threshold must be {text}.*, got '?{threshold}"
    ):
        make_plan("full", FEATURES, FULL_BYTES, threshold=threshold)  # type: ignore[arg-type] # the error is what is tested


def test_a_budget_may_be_a_numpy_integer() -> None:
    assert make_plan("full", [Feature(name="a", num_ids=9, dim=4)], np.int64(4000))
