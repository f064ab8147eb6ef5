"""Batches as torchrec's layers take them, and those that would be read wrongly."""

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    CompressedEmbeddingCollection,
    Feature,
    full_plan,
)
from compactrec.embeddings.collection import Engine
from tests.cases import CASES
from tests.contract.support import make_batch
from tests.methods.base import Case
from tests.swap.models import one_vector_each

SMALL = [
    case
    for case in CASES
    if all(f.num_ids is not None and f.num_ids < 2**31 for f in case.plan.features)
]
FEATURES = [
    Feature(name="a", num_ids=50, dim=4),
    Feature(name="b", num_ids=9, dim=8, pooling="mean"),
    Feature(name="c", num_ids=70, dim=12),
]
PLAN = full_plan(FEATURES)
KEYS = [feature.name for feature in FEATURES]
IDS = torch.tensor([1, 49, 8, 3, 69, 2, 5])
GOOD = torch.tensor([2, 0, 1, 1, 3, 0])


def narrow(batch: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(batch.keys(), batch.values().int(), lengths=batch.lengths())


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_int32_ids_are_taken(case: Case, engine: Engine) -> None:
    batch = make_batch(case.plan, "multi").kjt()
    bags = CompressedEmbeddingBagCollection(case.plan, engine=engine)
    assert torch.equal(bags(narrow(batch)).values(), bags(batch).values())
    if one_vector_each(case.plan):
        sequences = CompressedEmbeddingCollection(case.plan, engine=engine)
        found, expected = sequences(narrow(batch)), sequences(batch)
        for name, sequence in expected.items():
            assert torch.equal(found[name].values(), sequence.values())


@pytest.mark.parametrize("keys", [KEYS, KEYS[::-1]], ids=["own order", "other order"])
@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([2, 0, 1, 1, 2, 0]), "add up to 6, but it has 7 ids; give the lengths of"),
        (torch.tensor([2, 0, 1, 1, 3, 1]), "add up to 8, but it has 7 ids; give the lengths of"),
        (torch.tensor([3, -1, 1, 1, 3, 0]), "a bag has length -1; an empty bag has length 0"),
        (GOOD[:-1], "has 5 lengths for 3 keys and 2 examples; give one for every .*, 6"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    lengths: Tensor, message: str, engine: Engine, keys: list[str]
) -> None:
    collection = CompressedEmbeddingBagCollection(PLAN, engine=engine)
    batch = KeyedJaggedTensor(keys, IDS % 9, lengths=lengths, stride=2)
    with pytest.raises(ValueError, match=message):
        collection(batch)
    collection(KeyedJaggedTensor(keys, IDS % 9, lengths=GOOD, stride=2))


def test_keys_of_several_batch_sizes_are_refused() -> None:
    batch = KeyedJaggedTensor(KEYS, IDS, lengths=GOOD, stride_per_key_per_rank=[[3], [1], [2]])
    collection = CompressedEmbeddingBagCollection(PLAN)
    with pytest.raises(ValueError, match=r"differ in their number of examples: \[3, 1, 2\]; give"):
        collection(batch)


def test_tables_that_were_not_sharded_say_so() -> None:
    collection = CompressedEmbeddingBagCollection(PLAN, engine="sharded")
    with pytest.raises(ValueError, match=r"allocated by shard\(\), which was not called; call"):
        collection(KeyedJaggedTensor(KEYS, IDS, lengths=GOOD))
