"""First-order weights in a search: full tables in every plan, in its bytes and in its start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import search_config
from compactrec.benchmarks.search_result import FoundPlan, SearchResult
from compactrec.benchmarks.train import train
from compactrec.data.manifest import Manifest
from compactrec.embeddings import RoutedPlan, full_plan, load_plan, size
from compactrec.embeddings.search import search_names
from tests.benchmarks.folder import SIZES
from tests.benchmarks.toy_search import base_config

WEIGHTS = [f"{name}_linear" for name in SIZES]
FLOATS = sum(4 * -(-n // 4) for n in SIZES.values())
"""Of their tables: a weight per id, four to a row."""
BUDGET = 6_500
CLUSTERED = {"compared": "vectors", "router_buckets": 64, "num_clusters": 2}
"""Two clusters of this data."""

ROUTED: dict[str, dict[str, Any]] = {
    f"ihas {tables} {router}": {"tables": tables, "router": router, "budget": budget, **CLUSTERED}
    for tables, router, budget in (
        ("separate", "linear", 16_000),
        ("separate", "gates", 27_000),
        ("shared", "linear", 9_000),
        ("shared", "gates", 20_000),
    )
}
CASES: dict[str, dict[str, Any]] = {name: {} for name in search_names()} | ROUTED


def found_by(
    name: str, data: Path, out: Path, budgets: tuple[int, ...] = (BUDGET,), **options: Any
) -> SearchResult:
    base = base_config(data, out, model="deepfm")
    return search(search_config(name, options, budgets, base))


@pytest.mark.parametrize("case", CASES)
def test_every_search_leaves_them_whole(case: str, data: Path, tmp_path: Path) -> None:
    options = dict(CASES[case])
    budget = options.pop("budget", BUDGET)
    (found,) = found_by(case.split()[0], data, tmp_path / "s", (budget,), **options).found
    assert found.plan is not None, found.reason
    plan = load_plan(tmp_path / "s" / found.plan)
    assert [f.name for f in plan.features] == [*SIZES, *WEIGHTS]
    for part in plan.plans:
        methods = {name: g.config.method for g in part.groups for name in g.features}
        assert {methods[name] for name in WEIGHTS} == {"full"}
        assert methods["C3"] != "full"
    assert size(plan).serving_bytes == found.serving_bytes <= budget
    assert isinstance(plan, RoutedPlan) == (case in ROUTED)
    result = train(of_plan(found, data, tmp_path))
    assert result.bytes.serving_bytes == found.serving_bytes
    assert result.tested.auc > 0.55


def of_plan(found: FoundPlan, data: Path, tmp_path: Path) -> Any:
    """The config that trains what was found, from its start if it has one."""
    folder = tmp_path / "s"
    return base_config(
        data, tmp_path / "run", model="deepfm", method=None, plan=folder / (found.plan or ""),
        start=None if found.start is None else folder / found.start, table_learning_rate=0.05,
        epochs=3 if found.epochs is None else found.epochs,
    )  # fmt: skip


def test_several_sets_of_tables_have_one_each(data: Path, tmp_path: Path) -> None:
    """The budget has the weights of both clusters taken off, and no more."""
    options = {**ROUTED["ihas separate linear"]}
    budget = options.pop("budget")
    (found,) = found_by("ihas", data, tmp_path / "s", (budget,), **options).found
    plan = load_plan(tmp_path / "s" / (found.plan or ""))
    assert isinstance(plan, RoutedPlan)
    assert (len(plan.plans), plan.shared) == (plan.num_clusters, False)
    assert plan.num_clusters == 2
    bare = sum(t.num_bytes for part in plan.plans for t in named_tables(part))
    assert bare == 2 * 4 * FLOATS
    column = 4 * SIZES["C3"]
    assert budget - column <= (found.serving_bytes or 0) <= budget


def named_tables(plan: Any) -> list[Any]:
    """Tables of the weights."""
    return [
        table
        for group, lowered in zip(plan.groups, plan.lower(), strict=True)
        for table in lowered.tables
        if set(group.features) <= set(WEIGHTS)
    ]


@pytest.mark.usefixtures("toy")
def test_a_budget_that_they_fill_is_an_outcome(data: Path, tmp_path: Path) -> None:
    weights = base_config(data, tmp_path, model="deepfm").features(Manifest.load(data))[3:]
    taken = size(full_plan(weights)).serving_bytes
    assert taken > 4 * FLOATS
    budgets = (BUDGET, taken + 40, taken)
    first, second, third = found_by("toy", data, tmp_path / "s", budgets).found
    assert first.plan is not None
    beside = f"{taken:,} bytes of first-order weights, which stay full"
    assert "smallest plan takes" in (second.reason or "")
    assert (second.reason or "").endswith(f"; and beside it {beside}")
    assert third.reason == f"toy: {taken:,} bytes do not hold {beside}"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("retrain", "same"), [("ticket", True), ("finetune", False), ("fresh", None)]
)
def test_they_start_where_the_rest_of_the_model_does(
    data: Path, tmp_path: Path, retrain: str, same: bool | None
) -> None:
    """``same``: as before the first step; trained; or there is no start at all."""
    (found,) = found_by("toy", data, tmp_path / "s", retrain=retrain, epochs=1).found
    assert (found.start is None) == (same is None)
    if found.start is None:
        return
    start = load_file(str(tmp_path / "s" / found.start))
    places = [key for key in start if "_linear__id.weight" in key]
    assert len(places) == len(WEIGHTS)
    std = base_config(data, tmp_path, model="deepfm").features(Manifest.load(data))[-1].init_std
    assert std is not None
    spread = torch.cat([start[key].flatten() for key in places]).std().item()
    assert (spread < 2 * std) == same
    moved = [start[key].abs().max().item() > 10 * std for key in places]
    assert all(moved) == (not same)
