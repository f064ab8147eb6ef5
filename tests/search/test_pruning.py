"""Masks by magnitude and the plans that are made of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, full_plan, size
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.registry import NoOptions
from compactrec.embeddings.search import SearchTask
from compactrec.embeddings.search.pruning import (
    masked,
    masks_at_bytes,
    masks_at_ratio,
    masks_at_threshold,
    masks_keeping,
    num_kept,
    searched_tables,
    sparse_plan,
    sparse_plan_bytes,
    table_bytes_of,
)

FEATURES = (
    Feature(name="a", num_ids=700, dim=8, max_bag=3),
    Feature(name="small", num_ids=5, dim=8),
    Feature(name="b", num_ids=300, dim=8),
    Feature(name="c", num_ids=41, dim=8, pooling="mean", max_bag=2),
)
SEARCHED = ("a", "b", "c")
TASK = SearchTask(FEATURES, SEARCHED, {}, NoOptions())


def tables(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f.name: torch.randn(f.num_ids or 0, f.dim, generator=generator) for f in FEATURES}


values = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=4, max_size=24)


@given(values, st.integers(0, 24), st.integers(0, 24))
def test_masks_are_the_largest_with_ties_in_order_and_nested(
    flat: list[float], few: int, many: int
) -> None:
    few, many = sorted((min(few, len(flat)), min(many, len(flat))))
    cut = len(flat) // 2
    given_tables = {"y": torch.tensor(flat[:cut])[None], "x": torch.tensor(flat[cut:])[:, None]}
    order = sorted(range(len(flat)), key=lambda i: (-abs(flat[i]), i))
    for count in (few, many):
        masks = masks_keeping(given_tables, count)
        assert masks["y"].shape == given_tables["y"].shape
        kept = torch.cat([mask.flatten() for mask in masks.values()])
        assert kept.nonzero()[:, 0].tolist() == sorted(order[:count])
    small, large = masks_keeping(given_tables, few), masks_keeping(given_tables, many)
    assert all(bool((small[k] <= large[k]).all()) for k in small)


@given(st.floats(0, 1), st.floats(0, 1))
def test_ratios_are_exact_and_nested(one: float, other: float) -> None:
    own = searched_tables(TASK, tables())
    total = sum(t.numel() for t in own.values())
    low, high = sorted((one, other))
    more, fewer = masks_at_ratio(own, low), masks_at_ratio(own, high)
    assert abs(num_kept(more) / total - (1 - low)) <= 1 / total
    assert all(bool((fewer[k] <= more[k]).all()) for k in fewer)


def test_ratio_zero_is_the_identity_and_one_drops_all() -> None:
    own = searched_tables(TASK, tables())
    kept = masked(own, masks_at_ratio(own, 0.0))
    assert all(torch.equal(kept[k], own[k]) for k in own)
    assert num_kept(masks_at_ratio(own, 1.0)) == 0
    for ratio in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"dropped values must be in 0 .. 1, got"):
            masks_at_ratio(own, ratio)


def test_a_threshold_keeps_what_reaches_it() -> None:
    own = {"a": torch.tensor([[0.0, -0.5, 0.25], [0.5, -2.0, 0.49]])}
    assert masks_at_threshold(own, 0.5)["a"].tolist() == [[False, True, False], [True, True, False]]
    assert masks_at_threshold(own, 0.0)["a"].all()
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        masks_at_threshold(own, -1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="'a' has values that are not finite; did training"):
        masks_keeping({"b": torch.ones(2, 2), "a": torch.tensor([[1.0, value]])}, 1)


def full_bytes() -> int:
    return size(full_plan(FEATURES)).serving_bytes


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.12])
def test_a_budget_counts_everything_and_is_used(share: float) -> None:
    budget = int(share * full_bytes())
    masks = masks_at_bytes(TASK, tables(), budget)
    taken = size(sparse_plan(TASK, masks)).serving_bytes
    assert taken <= budget
    assert taken > budget - 400, "a table of four values, or a word of a bitmap, is the step"
    assert set(masks) == set(SEARCHED)


@given(st.integers(1, 13), st.integers(1, 70), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_bytes_on_paper_are_those_of_the_plan(
    dim: int, num_ids: int, share: float, numbered: bool, seed: int
) -> None:
    features = (
        Feature(name="x", num_ids=num_ids, dim=dim),
        Feature(name="rest", num_ids=3, dim=dim),
        Feature(name="y", num_ids=9, dim=dim),
    )
    task = SearchTask(features, ("x", "y"), {}, NoOptions())
    own = torch.rand(num_ids, dim, generator=torch.Generator().manual_seed(seed))
    if numbered:
        own = own / torch.arange(1, num_ids + 1)[:, None] ** 3
    masks = masks_at_ratio({"x": own, "y": torch.rand(9, dim)}, share)
    assert sparse_plan_bytes(task, masks) == size(sparse_plan(task, masks)).serving_bytes


def test_masks_of_smaller_budgets_keep_less() -> None:
    kept = [num_kept(masks_at_bytes(TASK, tables(), int(s * full_bytes()))) for s in (0.6, 0.3)]
    assert kept[0] > 1.5 * kept[1] > 0


def test_the_largest_values_are_kept() -> None:
    own = tables()
    masks = masks_at_bytes(TASK, own, int(0.3 * full_bytes()))
    partly = {k: m for k, m in masks.items() if not m.all()}
    assert len(partly) >= 2
    smallest_kept = min(float(own[k][m].abs().min()) for k, m in partly.items() if m.any())
    assert all(float(own[k][~m].abs().max()) <= smallest_kept for k, m in partly.items())


def test_a_feature_whose_lists_cost_more_than_its_table_keeps_the_table() -> None:
    masks = masks_at_bytes(TASK, tables(), full_bytes() - 1)
    assert masks["a"].all() or masks["b"].all()
    assert not all(mask.all() for mask in masks.values())
    methods = {g.features[0]: g.config.method for g in sparse_plan(TASK, masks).groups}
    for name, mask in masks.items():
        assert methods[name] == ("full" if mask.all() else "sparse")
    everything = masks_at_bytes(TASK, tables(), full_bytes())
    assert all(mask.all() for mask in everything.values())


def test_a_budget_below_the_smallest_plan_names_it() -> None:
    nothing = {n: torch.zeros(f.num_ids or 0, f.dim, dtype=torch.bool) for n, f in
               ((f.name, f) for f in TASK.searched_features)}  # fmt: skip
    smallest = size(sparse_plan(TASK, nothing)).serving_bytes
    assert smallest > table_bytes_of(FEATURES[1])
    assert num_kept(masks_at_bytes(TASK, tables(), smallest)) == 0
    with pytest.raises(ValueError, match=f"smallest plan takes {smallest:,} bytes and the budget"):
        masks_at_bytes(TASK, tables(), smallest - 1)


def test_plans_stand_for_the_masked_tables() -> None:
    own = tables()
    masks = masks_at_bytes(TASK, own, int(0.4 * full_bytes()))
    plan = sparse_plan(TASK, masks)
    assert plan.features == FEATURES
    collection = CompressedEmbeddingBagCollection(plan)
    start = masked(own, masks)
    assert torch.equal(start["small"], own["small"])
    place(collection, start)
    for name, table in start.items():
        assert torch.equal(logical_table(collection, name), table)


def test_an_unsearched_table_is_counted_not_pruned() -> None:
    wide = (*FEATURES, Feature(name="more", num_ids=1000, dim=8))
    task = SearchTask(wide, SEARCHED, {}, NoOptions())
    own = tables() | {"more": torch.zeros(1000, 8)}
    budget = int(0.5 * full_bytes())
    same = masks_at_bytes(task, own, budget + table_bytes_of(wide[-1]))
    expected = masks_at_bytes(TASK, tables(), budget)
    assert all(torch.equal(same[k], expected[k]) for k in expected)
