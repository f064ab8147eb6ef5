"""An epoch beside the loader: rows per second, and where its time goes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks import bench_loader
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.plans import resolve_plan
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.data.synthetic import make_synthetic
from compactrec.data.teacher import SyntheticConfig

PARTS = ["loader", "features", "forward", "backward", "rest"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_synthetic(tmp_path / "data", 1500, config=SyntheticConfig(scale=0.0001))
    return tmp_path / "data"


def test_training_beside_the_loader(data: Path) -> None:
    found = bench_loader.training(data, 256, 1)
    assert set(found) == {"no_prefetch", "prefetch"}
    for figures in found.values():
        speed, shares = figures["rows_per_second"], figures["shares_of_time"]
        assert isinstance(speed, int)
        assert speed > 0
        assert isinstance(shares, dict)
        assert list(shares) == PARTS
        assert all(0 < share < 1 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1, abs=0.001)


def test_an_epoch_trains(data: Path) -> None:
    """As a loop that times nothing."""
    config = TrainConfig(data=data, out=data, method="full", batch_size=256, engine="eager")
    manifest = Manifest.load(data)
    model, embeddings = build_model(config, resolve_plan(config, manifest), len(manifest.dense))
    other, tables = copy.deepcopy((model, embeddings))
    start = copy.deepcopy(model.state_dict())
    spent = bench_loader.epoch(
        iter(BatchLoader(data, "train", 256)), model, Optimizers(model, embeddings, config)
    )
    assert list(spent) == [*PARTS, "all"]
    optimizers = Optimizers(other, tables, config)
    for batch in BatchLoader(data, "train", 256):
        optimizers.zero_grad()
        loss = binary_cross_entropy_with_logits(other(batch.dense, batch.kjt()), batch.labels)
        loss.backward()
        optimizers.step()
    for name, weight in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
        assert not torch.equal(start[name], weight) or "embedding_bags" not in name, name
