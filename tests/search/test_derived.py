"""Plans that the contract gets from searches are what searches make, not what they start from."""

import pytest

from compactrec.embeddings import Plan, RoutedPlan, full_plan, size
from compactrec.embeddings.pruned import PrunedConfig
from compactrec.embeddings.search import Derived, search_names
from tests.search.derived import DIM, derived_all

FOUND = dict(derived_all())
"""By name of the variant."""


def pruned(plan: Plan) -> dict[str, PrunedConfig]:
    """Pruned features by the last letter of their names."""
    return {
        group.features[0][-1]: group.config
        for group in plan.groups
        if isinstance(group.config, PrunedConfig)
    }


def rows_of(found: Derived) -> dict[str, int]:
    assert isinstance(found.plan, Plan)
    return {name: sum(config.rows) for name, config in pruned(found.plan).items()}


def widths_of(found: Derived) -> dict[str, list[int]]:
    assert isinstance(found.plan, Plan)
    configs = pruned(found.plan)
    return {name: [len(c) for c in config.columns] for name, config in configs.items()}


def test_every_search_gives_cases_that_are_smaller_than_full() -> None:
    assert {name.split("_")[1] for name in FOUND} == {*search_names()}
    for name, found in FOUND.items():
        for plan in found.plan.plans:
            full = size(full_plan(plan.features)).serving_bytes
            assert size(plan).serving_bytes < 0.8 * full, name


def test_ihas_gives_experts_with_columns_of_their_own() -> None:
    plan = FOUND["derived_ihas_0"].plan
    assert isinstance(plan, RoutedPlan)
    assert (plan.num_clusters, len(plan.plans), plan.router.kind) == (2, 2, "linear")
    first, second = ({n: c.columns for n, c in pruned(p).items()} for p in plan.plans)
    assert first.keys() == second.keys() == {"a", "c"}
    assert all(first[name] != second[name] for name in first)


def test_ihas_gives_shared_tables_with_columns_of_each_cluster() -> None:
    plan = FOUND["derived_ihas_1"].plan
    assert isinstance(plan, RoutedPlan)
    assert (plan.num_clusters, len(plan.plans), plan.router.kind) == (2, 1, "gates")
    assert plan.shared
    assert plan.columns[0] != plan.columns[1]
    assert {"a", "c"} == pruned(plan.plans[0]).keys()


@pytest.mark.parametrize(
    ("name", "rows", "widths"),
    [("derived_optembed_0", True, True), ("derived_optembed_1", True, False),
     ("derived_optembed_2", False, True)],
)  # fmt: skip
def test_optembed_drops_rows_and_columns_by_its_variant(
    name: str, rows: bool, widths: bool
) -> None:
    kept, wide = rows_of(FOUND[name]), widths_of(FOUND[name])
    assert all((0 < kept[f] < n) == rows for f, n in {"a": 60, "c": 31}.items())
    assert ((wide["a"] != wide["c"]) and wide["a"] < [DIM]) == widths
    cut = FOUND[name].notes["cut"]
    assert isinstance(cut, float)
    assert (cut > 0) == (name == "derived_optembed_1"), "whole rows do not fit"


def test_pep_keeps_the_mask_of_a_budget_that_was_reached() -> None:
    notes = FOUND["derived_pep_0"].notes
    assert notes["kept"] == "not zero when training reached the budget"
    assert isinstance(notes["dropped"], float)
    assert 0.5 < notes["dropped"] < 0.95
    assert notes["steps"] != 0


def test_dnis_gives_single_values_blocks_of_all_and_blocks_of_each() -> None:
    plans = [FOUND[f"derived_dnis_{i}"].plan for i in range(3)]
    methods = [{g.config.method for g in plan.plans[0].groups} for plan in plans]
    assert methods == [{"sparse", "full"}, {"pruned", "full"}, {"pruned", "full"}]
    of_all, of_each = (pruned(plan.plans[0]) for plan in plans[1:])
    assert of_all["a"].columns == of_all["c"].columns, "a block has the same columns everywhere"
    assert len(of_each["a"].columns) == len(of_each["c"].columns) == 3
    assert of_each["a"].columns != of_each["c"].columns
