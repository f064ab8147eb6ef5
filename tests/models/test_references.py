"""Every model gives the logits of its equations, written out for one example."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models import model_names
from compactrec.models.inputs import linear_key
from tests.models.support import (
    BAGS,
    EVERY,
    SEVERAL,
    SIZES,
    WIDTHS,
    batch,
    build_over,
    features,
    parsed,
)
from tests.reference.models import REFERENCES, Array, Example

BATCH = 5
Bags = list[list[list[int]]]
Weights = list[list[list[float]]]
"""By feature and example."""
each_model = pytest.mark.parametrize(
    ("name", "options"), EVERY, ids=lambda v: str(v).replace(" ", "")
)


def test_every_model_has_a_reference() -> None:
    assert set(REFERENCES) == set(model_names())


def pooled(
    embeddings: EmbeddingBagCollection, key: str, ids: list[int], by: list[float], mean: bool
) -> Array:
    """The weighted sum of the rows of one bag, or their mean."""
    table = embeddings.embedding_bags[f"t_{key}"].weight.detach().double().numpy()
    total = np.zeros(table.shape[1])
    for row, weight in zip(ids, by, strict=True):
        total = total + weight * table[row]
    return total / len(ids) if mean and ids else total


def check(
    model: nn.Module,
    name: str,
    options: dict[str, Any],
    given: tuple[torch.Tensor, KeyedJaggedTensor, Bags],
    by: Weights | None = None,
    mean: bool = False,
) -> None:
    """Compare with the equations; `by` are the weights in the bags."""
    dense, kjt, lists = given
    weights = {k: v.double().numpy() for k, v in model.state_dict().items()}
    resolved = parsed(name, **options).model_dump(mode="json")
    embeddings = model.embeddings
    assert isinstance(embeddings, EmbeddingBagCollection)
    has_linear = any(key.startswith("t_C1_linear") for key in embeddings.embedding_bags)
    by = by or [[[1.0] * len(bag) for bag in feature] for feature in lists]
    expected = []
    for row in range(BATCH):
        bags = {key: (lists[f][row], by[f][row]) for f, key in enumerate(SIZES)}
        vectors = {key: pooled(embeddings, key, *bag, mean) for key, bag in bags.items()}
        first = {
            key: float(pooled(embeddings, linear_key(key), *bag, mean)[0])
            for key, bag in bags.items()
            if has_linear
        }
        example = Example(dense[row].double().numpy(), vectors, first)
        expected.append(REFERENCES[name](example, weights, resolved))
    logits = model(dense, kjt).detach().numpy()
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("num_dense", [0, 3])
@each_model
def test_logits_equal_the_equations(
    name: str, options: dict[str, Any], num_dense: int, bags: str
) -> None:
    model = build_over(features(), name, num_dense, 7, options).eval()
    check(model, name, options, batch(BATCH, num_dense, BAGS[bags]))


@each_model
def test_with_bags_that_are_averaged(name: str, options: dict[str, Any]) -> None:
    model = build_over(features(pooling="mean"), name, 3, 7, options).eval()
    check(model, name, options, batch(BATCH, 3), mean=True)


@each_model
def test_with_bags_that_have_weights(name: str, options: dict[str, Any]) -> None:
    model = build_over(features(), name, 3, 7, options, weighted=True).eval()
    dense, kjt, lists = batch(BATCH, 3)
    generator = np.random.default_rng(8)
    by: Weights = [
        [generator.uniform(-1, 2, len(bag)).tolist() for bag in feature] for feature in lists
    ]
    flat = torch.tensor([w for feature in by for bag in feature for w in bag])
    weighted = KeyedJaggedTensor(kjt.keys(), kjt.values(), flat, kjt.lengths())
    check(model, name, options, (dense, weighted, lists), by)


@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize(("name", "options"), SEVERAL, ids=lambda v: str(v).replace(" ", ""))
def test_with_several_widths(name: str, options: dict[str, Any], num_dense: int) -> None:
    model = build_over(features(WIDTHS), name, num_dense, 7, options).eval()
    assert (
        name == "lr" or len({t.embedding_dim for t in model.embeddings.embedding_bag_configs()}) > 1
    )  # type: ignore[operator, union-attr]  # a collection
    check(model, name, options, batch(BATCH, num_dense))
