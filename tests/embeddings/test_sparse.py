"""Single values: what is stored, what it costs, and what is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
    SparseConfig,
    get_method,
    make_plan,
    size,
)
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.sparse import sparse_assignment, sparse_bytes


def plan_of(feature: Feature, config: SparseConfig, arrays: dict[str, torch.Tensor]) -> Plan:
    return Plan((feature,), (Group((feature.name,), config),), arrays)


@settings(max_examples=60, deadline=None)
@given(
    num_ids=st.integers(1, 400),
    dim=st.sampled_from([1, 4, 7, 16, 64]),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_placed_values_come_out_masked_and_cost_what_they_say(
    num_ids: int, dim: int, share: float, seed: int
) -> None:
    feature = Feature(name="f", num_ids=num_ids, dim=dim)
    mask = np.random.default_rng(seed).random((num_ids, dim)) < share
    config, arrays = sparse_assignment(feature, mask)
    plan = plan_of(feature, config, arrays)
    collection = CompressedEmbeddingBagCollection(plan)
    table = torch.rand(num_ids, dim) + 0.5
    place(collection, {"f": table})
    expected = table * torch.from_numpy(mask)
    torch.testing.assert_close(logical_table(collection, "f"), expected, rtol=0, atol=0)
    kept = mask.any(1)
    paper = sparse_bytes(
        num_ids, mask.sum(0).tolist(), int(kept.sum()), ids="kept" if config.kept else "order"
    )
    assert paper == size(plan).serving_bytes
    assert size(plan).table_bytes == 16 * -(-int(mask.sum()) // 4)


def test_places_of_values_are_counted_in_bits() -> None:
    """Published comparisons that count an index of 32 bits for each value pay 16 times that."""
    feature = Feature(name="f", num_ids=100_000, dim=16)
    mask = np.random.default_rng(0).random((100_000, 16)) < 1 / 16
    report = size(plan_of(feature, *sparse_assignment(feature, mask)))
    kept = int(mask.any(1).sum())
    assert report.table_bytes == pytest.approx(4 * int(mask.sum()), abs=16)
    assert report.aux_bytes == pytest.approx(1.25 / 8 * (100_000 + 16 * kept), rel=0.01)


def test_zeros_stay_zeros_in_training() -> None:
    feature = Feature(name="f", num_ids=30, dim=4)
    mask = np.random.default_rng(1).random((30, 4)) < 0.4
    collection = CompressedEmbeddingBagCollection(
        plan_of(feature, *sparse_assignment(feature, mask)), engine="fused"
    )
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    batch = KeyedJaggedTensor(["f"], torch.arange(30), lengths=torch.ones(30, dtype=torch.int32))
    for _ in range(3):
        collection(batch)["f"].sum().backward()
    assert torch.equal(logical_table(collection, "f") != 0, torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": (3, 0), "rows": 2, "mask": "m"}, "a column keeps 0 .. rows = 2 values"),
        ({"values": (1, 0), "rows": 2, "mask": "m"}, "every one of 2 rows keeps a value"),
        ({"values": (1, 1), "rows": 2}, "mask must be given where rows are"),
    ],
)
def test_configs_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseConfig.model_validate(fields)


def test_masks_that_do_not_fit_are_refused() -> None:
    feature = Feature(name="f", num_ids=10, dim=2)
    config = SparseConfig(values=(1, 1), rows=2, mask="m")
    swapped = torch.tensor([3, 0], dtype=torch.uint8)  # two bits in one column, none in the other
    with pytest.raises(ValueError, match=re.escape("has [2, 0] bits set in its columns, but the")):
        plan_of(feature, config, {"m": swapped}).lower()
    with pytest.raises(ValueError, match="counts the values of 2 columns, but feature 'f' has 4"):
        plan_of(Feature(name="f", num_ids=10, dim=4), config, {"m": swapped}).lower()
    with pytest.raises(ValueError, match=r"must be a bool array of shape \(10, 2\), got float64"):
        sparse_assignment(feature, np.ones((10, 2)))


def test_a_plan_at_a_budget_is_refused_in_words() -> None:
    feature = Feature(name="f", num_ids=1000, dim=4)
    with pytest.raises(ValueError, match="sparse: such plans come from a search"):
        make_plan("sparse", (feature,), 4000)


def test_place_refuses_what_it_cannot_write() -> None:
    feature = Feature(name="f", num_ids=6, dim=4)
    full = Plan((feature,), (Group(("f",), FullConfig()),))
    collection = CompressedEmbeddingBagCollection(full)
    with pytest.raises(ValueError, match="there is no feature 'g'; there are f"):
        place(collection, {"g": torch.zeros(6, 4)})
    with pytest.raises(ValueError, match="'f'"):
        place(collection, {"f": torch.zeros(5, 4)})
    config = get_method("mixed").config.model_validate({"dims": (2,)})
    narrow = CompressedEmbeddingBagCollection(Plan((feature,), (Group(("f",), config),)))
    before = {k: v.clone() for k, v in narrow.state_dict().items()}
    with pytest.raises(ValueError, match="has parameters of its own"):
        place(narrow, {"f": torch.ones(6, 4)})
    assert all(torch.equal(before[k], v) for k, v in narrow.state_dict().items())
