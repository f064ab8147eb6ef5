"""The rare-id filter: which ids keep a row, at what cost."""

import numpy as np
import pytest
import torch

pytest.importorskip("compactrec.embeddings.rare")

from compactrec.embeddings import Feature, Group, Plan, make_plan, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.rare import RareConfig


def rows_of(plan: Plan, name: str) -> list[int]:
    """Physical row of every id of a feature."""
    feature = next(f for f in plan.features if f.name == name)
    config = next(g.config for g in plan.groups if g.features == (name,))
    assert feature.num_ids is not None
    layer = CompressedEmbedding(feature.num_ids, 4, config, name=name, arrays=plan.arrays)
    weight = next(layer.parameters())
    with torch.no_grad():
        weight.copy_(torch.arange(len(weight))[:, None].expand_as(weight))
    return [int(v) for v in layer.materialize()[:, 0]]


def test_rare_ids_share_row_zero() -> None:
    plan = Plan((Feature(name="a", num_ids=6, dim=4),), (Group(("a",), RareConfig(num_rows=3)),))
    assert rows_of(plan, "a") == [0, 1, 2, 0, 0, 0]


def test_budget_keeps_the_most_frequent_over_all_features() -> None:
    features = (Feature(name="a", num_ids=6, dim=4), Feature(name="b", num_ids=5, dim=4))
    counts = {"a": np.array([0, 50, 40, 3, 2, 1]), "b": np.array([9, 45, 2, 1, 0])}
    # Ids by falling count: a1 50, b1 45, a2 40, ... each row costs 16 bytes, row 0 twice.
    for kept, expected in (
        (0, {"a": 1, "b": 1}),
        (1, {"a": 2, "b": 1}),
        (2, {"a": 2, "b": 2}),
        (3, {"a": 3, "b": 2}),
    ):
        groups = [Group((n,), RareConfig(num_rows=expected[n])) for n in ("a", "b")]
        wanted = Plan(features, tuple(groups))
        plan = make_plan("rare", features, size(wanted).serving_bytes, counts=counts, threshold=0)
        assert plan == wanted, kept


def test_ids_in_any_order_get_a_remap_that_is_counted() -> None:
    features = (Feature(name="a", num_ids=6, dim=16),)
    counts = {"a": np.array([7, 1, 50, 3, 2, 40])}
    plan = make_plan("rare", features, 3 * 64 + 8 * 6 + 64, counts=counts, threshold=0)
    (group,) = plan.groups
    assert isinstance(group.config, RareConfig)
    assert group.config.remap is not None
    assert rows_of(plan, "a")[:3] == [0, 0, 1]
    assert rows_of(plan, "a")[5] == 2
    assert size(plan).aux_bytes >= 8 * 6


def test_frequencies_are_needed() -> None:
    with pytest.raises(ValueError, match="rare: training frequencies"):
        make_plan("rare", (Feature(name="a", num_ids=6, dim=4),), 10**6, threshold=0)


def test_refusals() -> None:
    features = (Feature(name="a", num_ids=6, dim=4),)
    with pytest.raises(ValueError, match="rare: num_rows must be at most num_ids = 6 for feature"):
        CompressedEmbeddingBagCollection(Plan(features, (Group(("a",), RareConfig(num_rows=7)),)))
    with pytest.raises(ValueError, match="rare: the plan has no array 'map' of 6 entries"):
        CompressedEmbeddingBagCollection(
            Plan(features, (Group(("a",), RareConfig(num_rows=2, remap="map")),))
        )
