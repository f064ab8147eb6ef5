"""The picture of a plan: what is counted, and that it is drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from compactrec.benchmarks.plan_picture import draw_plan, plan_figures
from compactrec.embeddings import Feature, FullConfig, Group, Plan, get_method, make_plan
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.sparse import sparse_assignment

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


def test_it_is_drawn(tmp_path: Path) -> None:
    plan = Plan((FEATURE,), (Group(("f",), FullConfig()),))
    draw_plan(plan_figures(plan, COUNTS), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
