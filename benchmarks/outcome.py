"""What is left of a run when it has ended."""

from __future__ import annotations

from pathlib import Path

import torch

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.environment import describe_environment, peak_rss_bytes
from compactrec.benchmarks.history import History
from compactrec.benchmarks.metrics import Metrics
from compactrec.benchmarks.plans import method_of, plan_bytes
from compactrec.benchmarks.result import DataInfo, Result
from compactrec.data.manifest import Manifest
from compactrec.embeddings import AnyPlan
from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_io import copy_atomically, write_tensors
from compactrec.embeddings.checkpointing import CheckpointFolder

__all__ = ["keep_weights", "make_result"]


def make_result(
    config: TrainConfig,
    manifest: Manifest,
    plan: AnyPlan,
    history: History,
    *,
    start: str | None,
    test: Metrics | None,
    total_seconds: float | None,
) -> Result:
    """The result of the weights of the best validation, and of this environment."""
    assert history.best is not None
    return Result(
        method=method_of(config, plan),
        budget_bytes=config.budget_bytes,
        seed=config.seed,
        config=config.resolved(),
        plan=plan.to_json(),
        data=DataInfo(
            name=manifest.name, protocol=manifest.protocol, manifest_sha256=manifest.sha256()
        ),
        bytes=plan_bytes(config, plan),
        validation=history.best.validation,
        test=test,
        best_step=history.best.step,
        num_steps=history.step,
        samples_per_second=history.samples_per_second,
        num_processes=history.num_processes,
        train_seconds=history.train_seconds,
        total_seconds=total_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        history=tuple(history.evaluations),
        environment=describe_environment(torch.get_num_threads()),
        start_sha256=start,
    )


def keep_weights(store: CheckpointFolder, weights: TensorSet, path: Path) -> None:
    """Leave weights of the store's folder in one file; every process must call it."""
    if len(weights.files) == 1:
        copy_atomically(store.path / weights.files[0].name, path)
    elif store.processes.rank == 0:
        write_tensors(path, store.read(weights))
