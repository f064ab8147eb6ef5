"""A training step beside the loader: rows per second, and the loader's share of the time."""

from __future__ import annotations

from pathlib import Path

from compactrec.benchmarks import bench_loader
from compactrec.data.synthetic import make_synthetic
from compactrec.data.teacher import SyntheticConfig


def test_training_beside_the_loader(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "data", 1500, config=SyntheticConfig(scale=0.0001))
    found = bench_loader.training(tmp_path / "data", 256, 1)
    assert set(found) == {"no_prefetch", "prefetch"}
    for figures in found.values():
        assert figures["rows_per_second"] > 0
        assert 0 < figures["loader_share_of_time"] < 1
