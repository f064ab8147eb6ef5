"""Empty bags after the others; that training needs them is seen in `test_train_sharded.py`."""

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.benchmarks.pipeline import LossModel
from compactrec.data.batch import KjtBatch
from compactrec.embeddings.equal_batches import pad_bags
from tests.cases import CASES
from tests.contract.support import make_batch

CASE = next(case for case in CASES if len(case.plan.features) >= 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_padded_bags_are_the_same_and_empty_ones(weighted: bool) -> None:
    features = make_batch(CASE.plan, "multi", weighted=weighted, seed=3).kjt()
    size = features.stride()
    padded = pad_bags(features, size + 2)
    assert padded.stride() == size + 2
    assert padded.keys() == features.keys()
    assert padded.length_per_key() == features.length_per_key()
    before, after = features.to_dict(), padded.to_dict()
    for key in before:
        assert torch.equal(after[key].values(), before[key].values())
        assert after[key].lengths().tolist() == [*before[key].lengths().tolist(), 0, 0]
        if weighted:
            assert torch.equal(after[key].weights(), before[key].weights())
    assert torch.equal(pad_bags(features, size).lengths(), features.lengths())
    with pytest.raises(ValueError, match=f"have {size} bags, more than the {size - 1} to pad"):
        pad_bags(features, size - 1)


class _Mean(nn.Module):
    """Vectors of the examples less their mean: who else is there would be seen."""

    def __init__(self, tables: EmbeddingBagCollection) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, dense: torch.Tensor, features: object) -> torch.Tensor:
        vectors = self.tables(features).values()
        return (vectors - vectors.mean(0)).sum(1) + dense.sum(1)


def test_the_model_gets_the_vectors_of_the_examples() -> None:
    features = make_batch(CASE.plan, "multi", seed=3).kjt()
    size = features.stride()
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t{i}", embedding_dim=4, num_embeddings=int(ids.values().max()) + 1,
                feature_names=[key],
            )
            for i, (key, ids) in enumerate(features.to_dict().items())
            if ids.values().numel() and int(ids.values().max()) < 10_000
        ]
    )  # fmt: skip
    model = LossModel(_Mean(tables), lambda logits, batch: (logits, logits), padded=[tables])
    dense, labels = torch.randn(size, 2), torch.zeros(size)
    expected, _ = model(KjtBatch(dense, features, labels, size))
    found, _ = model(KjtBatch(dense, pad_bags(features, size + 3), labels, size, size + 3))
    assert torch.equal(found, expected)
    assert tables(pad_bags(features, size + 3)).values().shape[0] == size + 3  # only in a step
