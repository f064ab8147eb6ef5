"""Logical tables go into a collection and come out again."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    MixedConfig,
    Plan,
)
from compactrec.embeddings.combines import Product, Sum
from compactrec.embeddings.placing import logical_table, place
from tests.cases import CASES, cases_of
from tests.contract.support import build, reference_embeds, weights_of
from tests.methods.base import Case

FEW = 20_000
PLACED = [case for name in ("full", "pruned", "sparse") for case in cases_of(name).cases]


def small(plan: Plan) -> list[Feature]:
    return [f for f in plan.features if f.num_ids is not None and f.num_ids <= FEW]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logical_table_equals_the_reference(case: Case) -> None:
    collection = build(case.plan)
    embeds = reference_embeds(case.plan, weights_of(collection))
    for feature in small(case.plan):
        if feature.name not in embeds:
            with pytest.raises(ValueError, match=r"has \d vectors, a table needs one"):
                logical_table(collection, feature.name)
            continue
        assert feature.num_ids is not None
        embed = embeds[feature.name][1]
        ids = [*range(min(feature.num_ids, 40)), feature.num_ids - 1]
        expected = torch.stack([embed(x) for x in ids]).detach()
        table = logical_table(collection, feature.name)
        assert table.shape == (feature.num_ids, feature.dim)
        assert not table.requires_grad
        torch.testing.assert_close(table[ids].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("case", PLACED, ids=str)
def test_what_is_stored_comes_out_again(case: Case, engine: Any, weighted: bool) -> None:
    collection = build(case.plan, engine=engine, is_weighted=weighted)
    ones = build(case.plan, engine=engine, is_weighted=weighted)
    features = {f.name: f for f in small(case.plan)}
    place(ones, {f.name: torch.ones(f.num_ids or 0, f.dim) for f in features.values()})
    shared = {}  # features of one group have one table
    for group in case.plan.groups:
        first = features.get(group.features[0])
        if first is not None:
            shared |= dict.fromkeys(group.features, torch.rand(first.num_ids or 0, first.dim) + 1)
    place(collection, shared)
    for name, table in shared.items():
        mask = logical_table(ones, name)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(logical_table(collection, name), table * mask)
        place(collection, {name: logical_table(collection, name)})
        assert torch.equal(logical_table(collection, name), table * mask)


def test_ids_past_one_chunk() -> None:
    plan = Plan((Feature(name="a", num_ids=FEW, dim=2),), (Group(("a",), FullConfig()),))
    collection = CompressedEmbeddingBagCollection(plan)
    table = torch.arange(2.0 * FEW).view(FEW, 2)
    place(collection, {"a": table})
    assert torch.equal(logical_table(collection, "a"), table)


def two_features() -> CompressedEmbeddingBagCollection:
    features = (Feature(name="a", num_ids=5, dim=4), Feature(name="b", num_ids=5, dim=4))
    return build(Plan(features, (Group(("a", "b"), FullConfig()),)))


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    collection = two_features()
    before = logical_table(collection, "a")
    table = torch.rand(5, 4)

    def refused(tables: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            place(collection, tables)
        assert torch.equal(logical_table(collection, "a"), before)

    refused({"a": table, "c": table}, "there is no feature 'c'; there are a, b")
    refused({"a": table[:4]}, r"'a' must have shape \(5, 4\), got \(4, 4\)")
    refused({"a": table, "b": table + 1}, "'a' shares entries of its tables between ids")
    place(collection, {"a": table, "b": table})
    assert torch.equal(logical_table(collection, "b"), table)


def test_computed_vectors_are_refused() -> None:
    feature = Feature(name="a", num_ids=5, dim=4)
    narrow = build(Plan((feature,), (Group(("a",), MixedConfig(dims=(2,))),)))
    with pytest.raises(ValueError, match="'a' are computed, not stored: its combine has parameter"):
        place(narrow, {"a": torch.rand(5, 4)})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_and_sums_are_refused(case: Case) -> None:
    """A product is the harder one: of ones it is one, as if a value had only been placed."""
    collection = build(case.plan)
    computed = {
        o.feature
        for o in collection.combine.outputs
        if isinstance(o.combine, (Product, Sum)) and len(o.inputs[0]) > 1
    }
    for feature in small(case.plan):
        if feature.name not in computed or feature.num_ids is None:
            continue
        table = torch.rand(feature.num_ids, feature.dim)
        with pytest.raises(ValueError, match="its combine adds, subtracts or multiplies; values"):
            place(collection, {feature.name: table})
