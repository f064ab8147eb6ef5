"""What compositional embeddings cost: published totals, budgets, what is skipped."""

import pytest

pytest.importorskip("compactrec.embeddings.compositional")

from compactrec.embeddings import (
    Feature,
    FullConfig,
    Group,
    MethodConfig,
    Plan,
    full_plan,
    make_plan,
    size,
)
from compactrec.embeddings.compositional import CompositionalConfig as Config
from compactrec.embeddings.compositional_sizing import row_moduli
from tests.reference.kaggle import KAGGLE_SIZES

KAGGLE = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(KAGGLE_SIZES, start=1)
)


@pytest.mark.parametrize(
    ("collisions", "threshold", "rows", "scalars"),
    [
        (2, 1, 16_881_348, 270_101_568),
        (3, 1, 11_254_279, 180_068_464),
        (4, 1, 8_440_758, 135_052_128),
        (4, 20, 8_440_774, 135_052_384),
        (4, 200, 8_440_878, 135_054_048),
        (4, 2000, 8_443_096, 135_089_536),
        (4, 20000, 8_476_228, 135_619_648),
        (5, 1, 6_752_655, 108_042_480),
        (6, 1, 5_627_264, 90_036_224),
        (7, 1, 4_823_420, 77_174_720),
        (60, 1, 564_285, 9_028_560),
        (60, 200, 564_002, 9_024_032),
    ],
)
def test_kaggle_totals(collisions: int, threshold: int, rows: int, scalars: int) -> None:
    """The published totals split up every table above the threshold, also where that costs rows."""

    def config(num_ids: int) -> MethodConfig:
        if num_ids <= threshold:
            return FullConfig()
        return Config(moduli=(collisions, -(-num_ids // collisions)))

    plan = Plan(KAGGLE, tuple(Group((f.name,), config(f.num_ids or 0)) for f in KAGGLE))
    report = size(plan)
    assert sum(group.num_rows for group in report.groups) == rows
    assert report.table_bytes == 4 * scalars


def test_what_would_not_shrink_is_skipped() -> None:
    expected = {(3, 2): None, (5, 4): None, (6, 5): None, (6, 2): (3, 2), (100, 100): None}
    for (num_ids, big_rows), moduli in expected.items():
        found = row_moduli(num_ids, big_rows, 2, "quotient_remainder", "remainder")
        assert found == moduli, (num_ids, big_rows)


@pytest.mark.parametrize(
    ("hidden", "functions"), [(16, 56_576), (32, 111_488), (64, 221_312), (128, 440_960)]
)
def test_kaggle_path_totals(hidden: int, functions: int) -> None:
    groups = tuple(
        Group(
            (f.name,),
            Config(moduli=(4, -(-(f.num_ids or 0) // 4)), operation="path", hidden_dim=hidden),
        )
        for f in KAGGLE
        if (f.num_ids or 0) > 16
    )
    few = [f for f in KAGGLE if (f.num_ids or 0) <= 16]  # there the digits would change places
    names = {name for group in groups for name in group.features}
    report = size(Plan(tuple(f for f in KAGGLE if f.name in names), groups))
    left = sum(-(-(f.num_ids or 0) // 4) * 16 for f in few)
    one_hot = 4 * 4 * len(groups)  # the fixed rows that choose a function
    assert report.table_bytes // 4 == 135_050_464 - left + one_hot
    assert report.dense_bytes // 4 == functions // 26 * len(groups)


@pytest.mark.parametrize("operation", ["product", "sum", "concat", "path"])
@pytest.mark.parametrize("family", ["quotient_remainder", "mixed_radix", "chinese_remainder"])
@pytest.mark.parametrize("share", [2, 4, 16, 60])
def test_budgets_are_met(family: str, operation: str, share: int) -> None:
    features = tuple(Feature(name=f"f{n}", num_ids=n, dim=16) for n in (30, 1000, 40_000, 900_000))
    budget = 64 * 941_030 // share
    options = {"family": family, "operation": operation, "hidden_dim": 8}
    plan = make_plan("compositional", features, budget, options=options)
    assert 0.99 * budget <= size(plan).serving_bytes <= budget
    for group, row in zip(plan.groups, size(plan).groups, strict=True):
        if group.config.method == "compositional":
            assert row.full_bytes is not None
            assert row.table_bytes + row.dense_bytes < row.full_bytes


@pytest.mark.parametrize("family", ["quotient_remainder", "chinese_remainder"])
@pytest.mark.parametrize("num_ids", [250, 1000, 3000])
def test_functions_count_when_a_feature_is_skipped(num_ids: int, family: str) -> None:
    """Path functions can outweigh the rows they save; such a feature keeps its full table."""
    features = (Feature(name="a", num_ids=num_ids, dim=16),)
    full = size(full_plan(features)).serving_bytes
    options = {"operation": "path", "family": family}
    report = size(make_plan("compositional", features, full, options=options))
    assert report.table_bytes + report.dense_bytes <= 64 * num_ids
