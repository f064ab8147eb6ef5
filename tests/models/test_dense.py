"""Dense columns that are not those a model was built for are refused, by every model."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, full_plan
from compactrec.models import get_model, model_names

FEATURES = tuple(Feature(name=name, num_ids=9, dim=8) for name in ("a", "b", "c"))
BATCH = KeyedJaggedTensor(
    keys=["a", "b", "c"],
    values=torch.tensor([1, 2, 3, 4, 5, 6]),
    lengths=torch.ones(6, dtype=torch.int64),
)


def model_of(name: str, num_dense: int) -> torch.nn.Module:
    chosen = get_model(name)
    config = chosen.parse({})
    plan = full_plan(config.features(FEATURES))
    return chosen.module(CompressedEmbeddingBagCollection(plan), num_dense, config).eval()


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("num_dense", [0, 2])
def test_another_number_of_dense_columns_is_an_error(name: str, num_dense: int) -> None:
    model = model_of(name, num_dense)
    assert model(torch.ones(2, num_dense), BATCH).shape == (2,)
    message = rf"dense has shape \(2, 1\), and the model was built with num_dense = {num_dense};"
    with pytest.raises(ValueError, match=message):
        model(torch.ones(2, 1), BATCH)
    with pytest.raises(ValueError, match=r"dense has shape \(2,\)"):
        model(torch.ones(2), BATCH)
