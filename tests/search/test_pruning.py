"""Which values stay: a total order, nested, and never over the bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrec.embeddings import size
from compactrec.embeddings.search.pruning import (
    masked,
    masks_at_bytes,
    masks_at_ratio,
    masks_at_threshold,
    masks_keeping,
    num_kept,
    sparse_plan,
)
from tests.search.support import FEATURES, SEARCHED, make_task


def tables(seed: int = 0, ties: bool = False) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = {f.name: torch.randn(f.num_ids or 0, f.dim, generator=g) for f in FEATURES}
    return {k: t.round() if ties else t for k, t in made.items()}


def searched(seed: int = 0, ties: bool = False) -> dict[str, torch.Tensor]:
    return {k: t for k, t in tables(seed, ties).items() if k in SEARCHED}


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0, 1), more=st.floats(0, 1), ties=st.booleans(), seed=st.integers(0, 99))
def test_ratios_are_exact_and_nested(ratio: float, more: float, ties: bool, seed: int) -> None:
    own = searched(seed, ties)
    total = sum(t.numel() for t in own.values())
    low, high = sorted((ratio, more))
    fewer, all_of = masks_at_ratio(own, high), masks_at_ratio(own, low)
    assert num_kept(all_of) == total - round(low * total)
    assert all(bool((fewer[k] <= all_of[k]).all()) for k in own)
    again = masks_at_ratio(own, low)
    assert all(torch.equal(again[k], all_of[k]) for k in own)
    if 0 < num_kept(fewer) < total:
        smallest = min(float(own[k][fewer[k]].abs().min()) for k in own if fewer[k].any())
        largest = max(float(own[k][~fewer[k]].abs().max()) for k in own if not fewer[k].all())
        assert smallest >= largest


def test_a_ratio_of_0_is_the_identity_and_1_drops_all() -> None:
    own = searched()
    kept = masked(own, masks_at_ratio(own, 0.0))
    assert all(torch.equal(kept[k], own[k]) for k in own)
    assert num_kept(masks_at_ratio(own, 1.0)) == 0


def test_thresholds_keep_what_reaches_them() -> None:
    own = searched(ties=True)
    masks = masks_at_threshold(own, 1.0)
    assert all(torch.equal(masks[k], own[k].abs() >= 1) for k in own)
    assert all(bool(m.all()) for m in masks_at_threshold(own, 0.0).values())
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        masks_at_threshold(own, -1)


@settings(max_examples=25, deadline=None)
@given(budget=st.integers(1_300, 4_000), seed=st.integers(0, 99))
def test_bytes_are_never_exceeded_and_used_up(budget: int, seed: int) -> None:
    task = make_task("dnis")
    all_tables = tables(seed)
    masks = masks_at_bytes(task, all_tables, budget)
    assert set(masks) == set(SEARCHED)
    taken = size(sparse_plan(task, masks)).serving_bytes
    assert taken <= budget
    kept = num_kept(masks)
    total = sum(all_tables[k].numel() for k in SEARCHED)
    if not any(bool(m.all()) for m in masks.values()):
        more = sparse_plan(task, masks_keeping(searched(seed), min(kept + 8, total)))
        assert size(more).serving_bytes > budget - 64


def test_a_budget_below_the_smallest_plan_names_its_bytes() -> None:
    with pytest.raises(ValueError, match=r"the smallest plan takes \d+ bytes and the budget is 50"):
        masks_at_bytes(make_task("dnis"), tables(), 50)


def test_values_that_are_not_finite_are_refused() -> None:
    own = searched()
    own["a"][3, 2] = float("nan")
    with pytest.raises(ValueError, match="feature 'a' has values that are not finite; did tr"):
        masks_at_ratio(own, 0.5)


def test_unsearched_features_stay_full() -> None:
    plan = sparse_plan(make_task("dnis"), masks_at_ratio(searched(), 0.5))
    methods = {name: g.config.method for g in plan.groups for name in g.features}
    assert methods == {"a": "sparse", "b": "full", "c": "sparse"}
