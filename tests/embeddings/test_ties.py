"""Tied features have the vectors of another one, whatever the method; in plans, bytes and files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrec import KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
    size,
)
from tests.cases import METHODS
from tests.methods.base import Case

FIRST = [method.cases[0] for method in METHODS]


def with_alias(case: Case) -> tuple[Plan, Feature]:
    """The case with a feature more, tied to its first."""
    first = case.plan.features[0]
    alias = first.model_copy(update={"name": "alias"})
    groups = [
        replace(g, features=(*g.features, "alias"), ties={"alias": first.name})
        if first.name in g.features
        else g
        for g in case.plan.groups
    ]
    return Plan((*case.plan.features, alias), tuple(groups), case.plan.arrays), first


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("case", FIRST, ids=str)
def test_the_same_ids_have_the_same_vectors(case: Case, engine: str, tmp_path: Path) -> None:
    plan, first = with_alias(case)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert plan != case.plan
    collection = CompressedEmbeddingBagCollection(plan, engine=engine)  # type: ignore[arg-type] # a name
    everything = [*collection.parameters(), *collection.buffers()]
    assert size(plan).serving_bytes == sum(t.numel() * t.element_size() for t in everything)
    assert size(plan).table_bytes == size(case.plan).table_bytes
    assert size(plan).dense_bytes == size(case.plan).dense_bytes
    ids = torch.arange(min(5, first.num_ids or 5))
    keys = [feature.name for feature in plan.features]
    lengths = [torch.full_like(ids, int(key in (first.name, "alias"))) for key in keys]
    batch = KeyedJaggedTensor(keys, torch.cat([ids, ids]), lengths=torch.cat(lengths))
    vectors = collection(batch)
    assert torch.equal(vectors["alias"], vectors[first.name])


def test_ties_are_checked() -> None:
    with pytest.raises(ValueError, match="'b' cannot be tied to 'c': both must be in the group"):
        Group(("a", "b"), FullConfig(), {"b": "c"})
    features = (Feature(name="a", num_ids=5, dim=4), Feature(name="b", num_ids=6, dim=4))
    plan = Plan(features, (Group(("a", "b"), FullConfig(), {"b": "a"}),))
    with pytest.raises(ValueError, match="tied features must have equal num_ids, dim and max_bag"):
        size(plan)
