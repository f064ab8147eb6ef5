"""The picture of a plan: what is counted, and that it is drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from compactrec.benchmarks.plan_picture import draw_plan, plan_figures
from compactrec.embeddings import (
    Feature,
    FullConfig,
    Group,
    Plan,
    RoutedPlan,
    get_method,
    make_plan,
    size,
)
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.routers import LinearRouterConfig
from compactrec.embeddings.sparse import sparse_assignment
from tests.models.routed import linear_arrays, routed_plan

NUM_IDS, DIM = 1000, 8
FEATURE = Feature(name="f", num_ids=NUM_IDS, dim=DIM)
COUNTS = {"f": np.arange(NUM_IDS)}  # the last id is the most frequent
RANKED = np.arange(NUM_IDS)[::-1]
ENDS = (0, 10, 50, 200, 500, 1000)


def widths(plan: Plan) -> tuple[float, ...]:
    (figures,) = plan_figures(plan, COUNTS)
    assert figures.full_bytes == 4 * NUM_IDS * DIM
    return figures.widths


def by_range(per_id: np.ndarray) -> list[float]:
    ranked = per_id[RANKED]
    return [float(ranked[a:b].mean()) for a, b in itertools.pairwise(ENDS)]


def test_single_values_are_counted_by_id() -> None:
    mask = np.random.default_rng(0).random((NUM_IDS, DIM)) < np.linspace(0, 1, NUM_IDS)[:, None]
    config, arrays = sparse_assignment(FEATURE, mask)
    assert widths(Plan((FEATURE,), (Group(("f",), config),), arrays)) == pytest.approx(
        by_range(mask.sum(1).astype(float))
    )


def test_rows_and_columns_are_counted_by_id() -> None:
    keep = np.arange(NUM_IDS) % 3 == 0
    block = (np.arange(NUM_IDS) > 700).astype(np.int64)
    config, arrays = pruned_assignment(FEATURE, keep, [[1], [0, 2, 3, 4, 7]], block_of=block)
    expected = by_range(np.where(keep, np.where(block == 1, 5.0, 1.0), 0.0))
    plan = Plan((FEATURE,), (Group(("f",), config),), arrays)
    assert widths(plan) == pytest.approx(expected)
    (figures,) = plan_figures(plan, COUNTS)
    assert figures.kept_ids == keep.sum()


def test_narrow_tables_and_shared_rows() -> None:
    assert widths(Plan((FEATURE,), (Group(("f",), FullConfig()),))) == (DIM,) * 5
    mixed = get_method("mixed").config.model_validate({"dims": (3,)})
    assert widths(Plan((FEATURE,), (Group(("f",), mixed),))) == (3,) * 5
    rare = make_plan("uniform", (FEATURE,), 9_000, threshold=0)
    (figures,) = plan_figures(rare, COUNTS)
    assert figures.num_bytes <= 9_000


def routed(columns: list[tuple[int, ...]], dropped: int) -> RoutedPlan:
    """One expert for each choice of columns; the first of them drops the most frequent ids."""
    plans = []
    for k, of in enumerate(columns):
        keep = np.arange(NUM_IDS) < NUM_IDS - (dropped if k == 0 else 0)
        config, arrays = pruned_assignment(FEATURE, keep, [of])
        plans.append(Plan((FEATURE,), (Group(("f",), config),), arrays))
    router = LinearRouterConfig(num_clusters=len(columns), searched=("f",), num_buckets=4)
    return RoutedPlan(tuple(plans), router, linear_arrays(len(columns), 4))


def test_copies_behind_a_router_add_up_in_bytes_and_are_averaged_in_width() -> None:
    plan = routed([(0, 1), (2, 3, 4), (0, 1, 2, 3, 4, 5, 7)], dropped=50)
    (figures,) = plan_figures(plan, COUNTS)
    alone = [plan_figures(part, COUNTS)[0] for part in plan.plans]
    assert figures.widths == pytest.approx((10 / 3, 10 / 3, 4, 4, 4))
    assert figures.mean_width == pytest.approx(4)
    assert (figures.kept_ids, figures.num_models) == (NUM_IDS, 3)
    assert figures.num_bytes == sum(f.num_bytes for f in alone)
    assert figures.num_bytes == size(plan).serving_bytes - size(plan).routing_bytes
    assert figures.full_bytes == 4 * NUM_IDS * DIM, "of one model, to compare with"
    assert [f.kept_ids for f in alone] == [NUM_IDS - 50, NUM_IDS, NUM_IDS]
    assert {f.num_models for f in alone} == {1}


def test_features_of_copies_stay_apart(tmp_path: Path) -> None:
    plan = routed_plan()
    counts = {f.name: np.arange(f.num_ids or 0) for f in plan.features}
    found = {f.feature: f for f in plan_figures(plan, counts)}
    assert [*found] == [f.name for f in plan.features]
    assert {name: f.mean_width for name, f in found.items()} == pytest.approx(
        {"a": (3 + 0 + 2) / 3, "b": 8.0, "c": (1 + 8 + 0) / 3}
    )
    total = size(plan)
    assert sum(f.num_bytes for f in found.values()) == total.serving_bytes - total.routing_bytes
    draw_plan(tuple(found.values()), tmp_path / "plan.png", serving_bytes=total.serving_bytes)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_drawn(tmp_path: Path) -> None:
    plan = Plan((FEATURE,), (Group(("f",), FullConfig()),))
    draw_plan(plan_figures(plan, COUNTS), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
