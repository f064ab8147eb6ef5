"""Features of several widths, where a model puts vectors side by side."""

from typing import Any, Literal

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    FusedOptimizer,
    full_plan,
    make_plan,
    size,
)
from compactrec.models import get_model
from tests.models.support import EVERY, SEVERAL, WIDTHS, batch, features, parsed, tables


@pytest.mark.parametrize(
    ("name", "options"), [each for each in EVERY if each not in SEVERAL], ids=str
)
def test_several_widths_are_refused_where_vectors_are_multiplied(
    name: str, options: dict[str, Any]
) -> None:
    config = parsed(name, **options)
    embeddings = tables(config.features(features(WIDTHS)))
    with pytest.raises(ValueError, match=r"needs one width .* 4 for C1; 8 for C2"):
        get_model(name).module(embeddings, 2, config)


@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize(("name", "options"), SEVERAL, ids=str)
def test_several_widths_train_over_compressed_tables(
    name: str, options: dict[str, Any], engine: Literal["eager", "fused"], num_dense: int
) -> None:
    torch.manual_seed(1)
    config = parsed(name, **options)
    reads = config.features(features(WIDTHS))
    plan = make_plan("hash", reads, int(size(full_plan(reads)).serving_bytes / 1.5))
    optimizer = FusedOptimizer(name="sgd", learning_rate=0.1) if engine == "fused" else None
    embeddings = CompressedEmbeddingBagCollection(plan, engine=engine, optimizer=optimizer)
    model = get_model(name).module(embeddings, num_dense, config)
    dense, kjt, _ = batch(32, num_dense)
    logits = model(dense, kjt)
    binary_cross_entropy_with_logits(logits, (torch.arange(32) % 2).float()).backward()
    for key, parameter in model.named_parameters():
        if not key.startswith("embeddings."):
            assert parameter.grad is not None, key
            assert bool(parameter.grad.isfinite().all()), key
    assert bool((model(dense, kjt) != logits).any()) == (engine == "fused")


def test_what_dense_columns_become_has_the_widest_width() -> None:
    masknet = get_model("masknet").module(tables(features(WIDTHS)), 2, parsed("masknet"))
    assert masknet.fields.dense_vectors.shape == (2, 12)
    assert masknet.fields.widths == [12, 12, *WIDTHS.values()]
    for name, options in (("dlrm_dcnv2", {}), ("dlrm", {"interaction": "cat"})):
        model = get_model(name).module(tables(features(WIDTHS)), 2, parsed(name, **options))
        assert model.bottom(torch.zeros(1, 2)).shape == (1, 12)


def test_a_norm_of_one_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"makes a vector of width 1 zero, and \['C3'\] have"):
        get_model("masknet").module(
            tables(features({**WIDTHS, "C3": 1})), 0, parsed("masknet", embedding_norm=True)
        )
    get_model("masknet").module(tables(features({**WIDTHS, "C3": 1})), 0, parsed("masknet"))
