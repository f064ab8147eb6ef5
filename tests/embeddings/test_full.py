"""The full table: totals, equality with plain tables, refusals."""

import pytest
import torch
from torch import nn

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
    full_plan,
    make_plan,
    size,
)
from tests.contract.support import build, make_batch
from tests.reference.kaggle import KAGGLE_SIZES

KAGGLE = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(KAGGLE_SIZES, start=1)
)


def test_kaggle_total() -> None:
    report = size(full_plan(KAGGLE))
    assert report.table_bytes == 4 * 540_201_232
    assert report.dense_bytes == 0
    assert make_plan("full", KAGGLE, report.serving_bytes, threshold=0) == full_plan(KAGGLE)


def test_a_budget_below_the_tables_is_refused() -> None:
    needed = size(full_plan(KAGGLE)).serving_bytes
    for budget in (needed // 2, needed - 1):
        with pytest.raises(
            ValueError,
            match=rf"full: the budget is {budget:,} bytes, but the smallest plan takes {needed:,} "
            "bytes; raise the budget, or choose a method that compresses",
        ):
            make_plan("full", KAGGLE, budget, threshold=0)


def test_equals_plain_embedding_bags() -> None:
    features = tuple(
        Feature(name=name, num_ids=n, dim=d, max_bag=4, pooling=pooling)
        for name, n, d, pooling in (("a", 9, 4, "sum"), ("b", 30, 8, "mean"), ("c", 17, 3, "sum"))
    )
    collection = build(full_plan(features))
    batch = make_batch(collection.plan, "multi")
    out = collection(batch.kjt())
    state = collection.state_dict()
    for feature in features:
        weight = state[f"tables.embedding_bags.t_{feature.name}__id.weight"].reshape(-1)
        table = weight[: feature.num_ids * feature.dim].view(feature.num_ids, feature.dim)
        if feature.dim % 4:  # packed, row after row, then padding: the same order in memory
            assert weight.numel() == 20 * 3
        plain = nn.EmbeddingBag.from_pretrained(table, mode=feature.pooling)
        bags = batch.bags[feature.name]
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
        torch.testing.assert_close(out[feature.name], plain(ids, offsets))


def test_unlike_features_cannot_share_a_table() -> None:
    features = (Feature(name="a", num_ids=9, dim=4), Feature(name="b", num_ids=8, dim=4))
    plan = Plan(features, (Group(("a", "b"), FullConfig()),))
    with pytest.raises(ValueError, match=r"'a' has \(9, 4\) and 'b' has \(8, 4\); put them in two"):
        CompressedEmbeddingBagCollection(plan)


def test_open_vocabulary_is_refused() -> None:
    plan = Plan((Feature(name="a", dim=4),), (Group(("a",), FullConfig()),))
    with pytest.raises(ValueError, match="feature 'a' has an open vocabulary, but this method ne"):
        CompressedEmbeddingBagCollection(plan)
    with pytest.raises(ValueError, match="full: feature 'a' has an open vocabulary, but this"):
        make_plan("full", plan.features, 10**6)
