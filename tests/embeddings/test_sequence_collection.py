"""CompressedEmbeddingCollection: torchrec's interface, one vector per id, in every engine."""

import pytest
import torch
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    CompressedEmbeddingCollection,
    Feature,
    full_plan,
)
from tests.cases import CASES
from tests.contract.support import Batch, assert_near, make_batch, scramble
from tests.methods.base import Case
from tests.swap.models import one_vector_each

SEQUENCES = [case for case in CASES if one_vector_each(case.plan)]


def by_bags_of_one(
    collection: CompressedEmbeddingBagCollection, batch: Batch, name: str
) -> torch.Tensor:
    """Every id of a feature through the collection, the other features empty."""
    ids = [i for bag in batch.bags[name] for i in bag]
    bags = {key: [[i] if key == name else [] for i in ids] for key in batch.bags}
    return collection(Batch(bags, None).kjt())[name]


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("case", SEQUENCES, ids=str)
def test_every_id_has_the_vector_of_its_bag_of_one(case: Case, engine: str) -> None:
    sequences = CompressedEmbeddingCollection(case.plan, engine=engine)  # type: ignore[arg-type] # a name
    scramble(sequences.bags, sequences.plan)
    batch = make_batch(case.plan, "multi")
    found = sequences(batch.kjt())
    assert list(found) == [feature.name for feature in case.plan.features]
    for feature in case.plan.features:
        bags = batch.bags[feature.name]
        vectors = found[feature.name]
        assert vectors.lengths().tolist() == [len(bag) for bag in bags]
        assert_near(vectors.values(), by_bags_of_one(sequences.bags, batch, feature.name))


def test_as_torchrec_with_full_tables() -> None:
    features = [Feature(name=n, num_ids=k, dim=8) for n, k in (("a", 50), ("b", 9), ("c", 300))]
    tables = [
        EmbeddingConfig(
            name=f"t_{f.name}__id",
            embedding_dim=8,
            num_embeddings=f.num_ids or 0,
            feature_names=[f.name],
        )
        for f in features
    ]
    theirs = EmbeddingCollection(tables, need_indices=True)
    ours = CompressedEmbeddingCollection(full_plan(features), need_indices=True)
    ours.load_state_dict(
        {
            key.replace("embeddings.", "bags.tables.embedding_bags."): value
            for key, value in theirs.state_dict().items()
        }
    )
    lengths = torch.tensor([2, 0, 1, 0, 3, 1, 0, 0, 0])
    kjt = KeyedJaggedTensor(
        ["c", "a", "b"], torch.tensor([7, 299, 0, 4, 4, 49, 1]), lengths=lengths
    )
    expected, found = theirs(kjt), ours(kjt)
    assert list(found) == list(expected)
    for key, vectors in expected.items():
        assert torch.equal(found[key].values(), vectors.values())
        assert torch.equal(found[key].lengths(), vectors.lengths())
        assert torch.equal(found[key].weights(), vectors.weights())
    weight = ours.bags.tables.embedding_bags["t_c__id"].weight  # type: ignore[index,union-attr] # a dict of modules
    found["c"].values().sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].nonzero()[:, 0].tolist() == [0, 7, 299]
    assert (ours.embedding_dim(), ours.need_indices()) == (8, True)
    assert [c.num_embeddings for c in ours.embedding_configs()] == [50, 9, 300]
    assert ours.embedding_names_by_table() == theirs.embedding_names_by_table()


def test_an_empty_batch_and_missing_features() -> None:
    features = [Feature(name="a", num_ids=5, dim=4), Feature(name="b", num_ids=5, dim=8)]
    sequences = CompressedEmbeddingCollection(full_plan(features))
    none = torch.zeros(0, dtype=torch.long)
    found = sequences(KeyedJaggedTensor(["a", "b"], none, lengths=torch.zeros(4, dtype=torch.long)))
    assert [tuple(found[key].values().shape) for key in "ab"] == [(0, 4), (0, 8)]
    with pytest.raises(ValueError, match=r"the batch lacks the features \['b'\]; it has \['a'\]"):
        sequences(KeyedJaggedTensor(["a"], none, lengths=none))
    with pytest.raises(ValueError, match="the features have no common width"):
        sequences.embedding_dim()
