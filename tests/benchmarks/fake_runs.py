"""Results of runs that never took place: noisy scores of a known truth, so that AUCs are real."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.metrics import evaluate
from compactrec.benchmarks.result import PREDICTIONS_NAME, Bytes, DataInfo, Evaluation, Result
from compactrec.benchmarks.study import Cell, CompareFile, DataNote, RunEntry

__all__ = ["FULL_BYTES", "Recorder", "fake_config", "fake_data", "fake_result", "fake_study"]

FULL_BYTES = 16_000_000
DATA = DataInfo(name="fake clicks", protocol="synthetic", manifest_sha256="ab" * 32)


def fake_config(method: str, budget_bytes: int | None, seed: int) -> dict[str, Any]:
    """A resolved config, as far as the reports look at it."""
    return {
        "method": method, "budget_bytes": budget_bytes, "seed": seed, "model": "dlrm",
        "epochs": 1, "batch_size": 512, "table_learning_rate": 0.02,
    }  # fmt: skip


def fake_result(
    folder: Path,
    method: str,
    budget_bytes: int | None,
    seed: int,
    noise: float,
    *,
    num_rows: int = 4000,
    data: DataInfo = DATA,
) -> Result:
    """Write a result and its predictions; the less `noise`, the better the AUC."""
    truth_rng = np.random.default_rng(99)
    truth = truth_rng.normal(size=num_rows) * 1.5
    labels = (truth_rng.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    rng = np.random.default_rng(zlib.crc32(f"{method} {budget_bytes} {seed}".encode()))
    shift = 1 + 0.01 * rng.normal()
    logits = (truth + shift * noise * truth_rng.normal(size=num_rows)).astype(np.float32)
    metrics = evaluate(logits, labels)
    serving = budget_bytes or FULL_BYTES
    result = Result(
        method=method.split(":")[0], budget_bytes=budget_bytes, seed=seed,
        config=fake_config(method, budget_bytes, seed), plan={}, data=data,
        bytes=Bytes(
            table_bytes=serving - 100, aux_bytes=60, dense_bytes=40, serving_bytes=serving,
            optimizer_bytes=serving, training_bytes=2 * serving, full_serving_bytes=FULL_BYTES,
        ),
        validation=metrics, test=metrics, best_step=90, num_steps=100,
        samples_per_second=40_000.0 + 100 * seed, train_seconds=12.5, peak_rss_bytes=10**9,
        history=(Evaluation(step=90, train_loss=0.5, validation=metrics),),
        environment={
            "commit": "0123456789abcdef", "python": "3.11", "torch": "2.13.0",
            "cpu": "A processor <fast>", "num_threads": 1,
        },
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder)
    save_file({"logits": logits, "labels": labels}, str(folder / PREDICTIONS_NAME))
    return result


class Recorder:
    """A runner that writes a fake result; runs in `failing` raise instead."""

    def __init__(
        self, failing: Callable[[TrainConfig], bool] = lambda _: False, *, best_rate: float = 0.06
    ) -> None:
        self.configs: list[TrainConfig] = []
        self.failing = failing
        self.best_rate = best_rate
        """Of tables; the further from it, the worse the result."""

    def __call__(self, config: TrainConfig) -> Result:
        self.configs.append(config)
        if self.failing(config):
            raise RuntimeError("the loss is NaN at step 3")
        noise = 0.3 if config.budget_bytes is None else 1e5 / config.budget_bytes
        noise += abs(config.table_learning_rate - self.best_rate)
        assert config.method is not None
        return fake_result(
            config.out, config.method, config.budget_bytes, config.seed, noise, num_rows=300
        )


def fake_study(
    folder: Path,
    noises: dict[str, dict[int, float | str]],
    *,
    full_noise: float | None = 0.35,
    num_seeds: int = 3,
    best_auc: float | None = None,
    budgets: dict[int, str] | None = None,
) -> CompareFile:
    """Write a whole comparison: `noises[method][budget_bytes]` is a noise, or why there is none."""
    seeds = tuple(range(num_seeds))
    baselines = {"uniform", "rare", "hash", "full"}
    labels = budgets or {4_000_000: "1/4", 1_000_000: "1/16"}
    wanted: list[tuple[str, int | None, float | str]] = []
    if full_noise is not None:
        wanted.append(("full", None, full_noise))
    for method, by_budget in noises.items():
        wanted += [(method, budget, noise) for budget, noise in by_budget.items()]
    cells = []
    for method, budget, noise in wanted:
        runs = []
        for seed in seeds if not isinstance(noise, str) else ():
            path = f"runs/{method.replace(':', '-')}_{budget}_{seed}"
            fake_result(folder / path, method, budget, seed, float(noise))
            runs.append(RunEntry(seed=seed, path=path, status="done"))
        cell = Cell(
            method=method,
            baseline=method in baselines,
            budget=None if budget is None else labels[budget],
            budget_bytes=budget,
            reason=noise if isinstance(noise, str) else None,
            runs=tuple(runs),
        )
        cells.append(cell)
    file = CompareFile(
        data=DataNote(
            **DATA.model_dump(), num_rows={"train": 80_000, "validation": 4_000, "test": 4_000},
            num_features=26, best_auc=best_auc,
        ),
        seeds=seeds, full_serving_bytes=FULL_BYTES,
        config={"model": "dlrm", "epochs": 1, "batch_size": 512}, cells=tuple(cells),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    file.save(folder)
    return file


def fake_data(
    folder: Path, *, name: str = "fake", num_ids: tuple[int, ...] = (5000, 900, 40)
) -> Path:
    """A data folder with a manifest and vocabularies, and no rows: enough to make plans."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from compactrec.data.manifest import Manifest, SparseFeature, Split

    (folder / "vocabulary").mkdir(parents=True)
    sparse = []
    for i, num in enumerate(num_ids):
        path = f"vocabulary/C{i}.parquet"
        counts = np.maximum(1, 10_000 // np.arange(1, num))
        ids = np.arange(1, num)
        table = pa.table({"token": ids.astype(str), "id": ids, "count": counts})
        pq.write_table(table, folder / path)
        sparse.append(SparseFeature(name=f"C{i}", num_ids=num, vocabulary=path))
    splits = {split: Split(num_rows=0) for split in ("train", "validation", "test")}
    manifest = Manifest(
        name=name, protocol="synthetic", dense=("I1",), sparse=tuple(sparse), splits=splits
    )
    manifest.save(folder)
    return folder
