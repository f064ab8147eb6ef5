"""The entrants of the benchmark of models are the same model, and learn."""

import math

import pytest
import torch
from torch import nn

from compactrec.benchmarks.bench_models import MODELS, build, names_of
from compactrec.benchmarks.model_peers import DEEPCTR, FUXICTR, deepctr_model, fuxictr_model
from compactrec.benchmarks.table_inputs import click_batches
from compactrec.benchmarks.training_entrants import Constant
from compactrec.embeddings import Feature
from compactrec.models.registry import get_model

FEATURES = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate((307, 11, 1009, 43))
)
BATCH = click_batches(FEATURES, 64, 1, 0)[0]
TABLES = {f.num_ids for f in FEATURES}


def layer_weights(model: nn.Module) -> int:
    """Numbers in what has no row for every id, nor is one alone: constants differ."""
    return sum(
        p.numel()
        for p in model.parameters()
        if p.requires_grad and p.shape[0] not in TABLES and p.numel() > 1
    )


@pytest.mark.parametrize("model", MODELS)
def test_entrants_are_one_model(model: str) -> None:
    entry = get_model(model)
    config = entry.parse(MODELS[model])
    ours = layer_weights(entry.module(Constant(config.features(FEATURES)), 0, config))
    if model in FUXICTR:
        assert layer_weights(fuxictr_model(model, FEATURES)) == ours
    if model in DEEPCTR:
        assert layer_weights(deepctr_model(model, FEATURES)) == ours
    assert model in FUXICTR or model in DEEPCTR


@pytest.mark.parametrize("model", MODELS)
def test_every_entrant_learns(model: str) -> None:
    for name in names_of(model):
        torch.manual_seed(0)
        step, table_bytes = build(name, model, FEATURES)
        assert (table_bytes == 0) == (name == "dense_part")
        losses = [step(BATCH) for _ in range(40)]
        assert all(math.isfinite(loss) for loss in losses)
        if name != "dense_part":
            assert losses[-1] < losses[0] - 0.005, name
