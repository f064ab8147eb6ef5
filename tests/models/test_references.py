"""Every model gives the logits of its equations, written out for one example."""

from typing import Any

import numpy as np
import pytest
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.models import model_names
from compactrec.models.inputs import linear_key
from tests.models.support import BAGS, EVERY, SIZES, batch, build, parsed
from tests.reference.models import REFERENCES, Array, Example


def test_every_model_has_a_reference() -> None:
    assert set(REFERENCES) == set(model_names())


def pooled(embeddings: EmbeddingBagCollection, key: str, ids: list[int]) -> Array:
    """The sum of the rows of one bag."""
    table = embeddings.embedding_bags[f"t_{key}"].weight.detach().double().numpy()
    total = np.zeros(table.shape[1])
    for row in ids:
        total = total + table[row]
    return total


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: str(v).replace(" ", ""))
def test_logits_equal_the_equations(
    name: str, options: dict[str, Any], num_dense: int, bags: str
) -> None:
    model = build(name, num_dense, seed=7, **options).eval()
    dense, kjt, lists = batch(5, num_dense, BAGS[bags])
    weights = {k: v.double().numpy() for k, v in model.state_dict().items()}
    resolved = parsed(name, **options).model_dump(mode="json")
    embeddings = model.embeddings
    assert isinstance(embeddings, EmbeddingBagCollection)
    has_linear = any(key.startswith("t_C1_linear") for key in embeddings.embedding_bags)
    expected = []
    for row in range(5):
        ids = {key: lists[f][row] for f, key in enumerate(SIZES)}
        vectors = {key: pooled(embeddings, key, bag) for key, bag in ids.items()}
        first = {
            key: float(pooled(embeddings, linear_key(key), bag)[0])
            for key, bag in ids.items()
            if has_linear
        }
        example = Example(dense[row].double().numpy(), vectors, first)
        expected.append(REFERENCES[name](example, weights, resolved))
    logits = model(dense, kjt).detach().numpy()
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
