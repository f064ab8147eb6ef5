"""Judging candidates: each by its own masked forward pass, on as many rows as were asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from compactrec.benchmarks import fitness as fitness_module
from compactrec.benchmarks import search as search_module
from compactrec.benchmarks.fitness import Fitness
from compactrec.benchmarks.metrics import auc
from compactrec.benchmarks.model import click_model
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import search_config
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.embeddings.search import SearchTask
from tests.benchmarks.folder import DENSE, ROWS, SIZES
from tests.benchmarks.toy_search import ToyOptions, ToySupernet, base_config

DIM = 8
NUM_ROWS = 200


pytestmark = pytest.mark.usefixtures("toy")


def auc_of_masked_pass(
    model: nn.Module, supernet: ToySupernet, batch: Batch, mask: Tensor
) -> float:
    """The model's own forward pass, with its embeddings' vectors times ``(F, D)``."""

    def masked(module: nn.Module, inputs: Any, out: KeyedTensor) -> KeyedTensor:
        keys = out.keys()
        return KeyedTensor(keys, [DIM] * len(keys), out.values() * mask.flatten())

    handle = supernet.collection.register_forward_hook(masked)
    model.eval()
    with torch.no_grad():
        logits = model(batch.dense, batch.kjt())
    handle.remove()
    return auc(logits.numpy(), batch.labels.numpy())


@pytest.mark.parametrize(
    ("training", "changes"), [(True, {}), (False, {}), (False, {"model": "deepfm"})]
)
def test_a_score_is_the_auc_of_one_masked_forward_pass(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    training: bool,
    changes: dict[str, Any],
) -> None:
    config = base_config(data, tmp_path, **changes)
    everything = config.features(Manifest.load(data))
    features = tuple(f for f in everything if f.name in SIZES)
    beside = everything[len(features) :]
    task = SearchTask(features, ("C1", "C3"), {}, ToyOptions(), beside=beside)
    torch.manual_seed(0)
    supernet = ToySupernet(task)
    model = click_model(config, supernet, len(DENSE)).train(training)
    torch.manual_seed(3)
    with torch.no_grad():
        for collection in supernet.collections:
            for parameter in collection.parameters():
                parameter.normal_()  # so that what is masked matters
    batch = next(iter(BatchLoader(data, "validation", NUM_ROWS)))
    masks = (torch.rand(11, len(features), DIM) < 0.5).float()
    masks[0], masks[1] = 1.0, 0.0
    monkeypatch.setattr(fitness_module, "_ROWS_AT_ONCE", 4 * NUM_ROWS + 1)  # chunks of 4, 4 and 3
    chunks: list[int] = []
    real = Fitness._logits

    def noting(self: Fitness, of_rows: Tensor, chunk: Tensor) -> Tensor:
        chunks.append(len(chunk))
        return real(self, of_rows, chunk)

    monkeypatch.setattr(Fitness, "_logits", noting)
    found = Fitness(model, supernet, batch)(masks)
    assert model.training == training
    assert chunks == [4, 4, 3]
    expected = [auc_of_masked_pass(model, supernet, batch, mask) for mask in masks]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)
    gaps = np.diff(np.sort(expected))
    assert float(gaps.min()) > 2e-4, "two candidates alike would hide a change of places"


@pytest.mark.parametrize(
    ("asked", "least", "expected"),
    [
        (None, 1_000, ROWS["validation"]),  # the rule asks for more than there are
        (None, 1, 3 * ROWS["train"] // 60),  # a sixtieth of the rows of 1 + 2 epochs
        (None, 90, 90),
        (150, 1_000, 150),
        (9_999, 1_000, ROWS["validation"]),
    ],
)
def test_candidates_are_judged_on_as_many_rows_as_asked(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    least: int,
    expected: int,
) -> None:
    seen: list[int] = []

    class Noting(Fitness):
        def __call__(self, masks: Tensor) -> Tensor:
            seen.append(self.num_rows)
            return super().__call__(masks)

    monkeypatch.setattr(search_module, "Fitness", Noting)
    monkeypatch.setattr(search_module, "_LEAST_FITNESS_ROWS", least)
    options = {} if asked is None else {"fitness_rows": asked}
    search(search_config("toy", options, (9_000,), base_config(data, tmp_path / "s")))
    assert seen == [expected]
