"""What differs between training in one process and in several: one step, and whole predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.penalty import EmbeddingPenalty
from compactrec.benchmarks.processes import Processes
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.embeddings import CompressedEmbeddingBagCollection
from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_optimizer import OptimizerNames
from compactrec.embeddings.checkpointing import CheckpointFolder

__all__ = ["Done", "Loop", "OneProcess", "grouped", "make_loop", "predict"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Done:
    """One step that was made."""

    loss: float
    """Mean over the examples of all processes, before it."""
    num_rows: int
    """Examples of all processes."""


class Loop(Protocol):
    """How a model is trained on the batches of a loader."""

    optimizers: Optimizers

    def steps(self, loader: BatchLoader, history: History) -> Iterator[Done]:
        """Train on what is left of the loader's epoch; whoever asks counts in ``history``."""

    def pause(self) -> None:
        """Called before anything but a step uses the model."""

    def position(self, loader: BatchLoader) -> dict[str, Any]:
        """The loader's state after the batches that were trained on."""

    def names(self) -> OptimizerNames:
        """Of the optimizers' state, by the names that parameters have in the model alone."""

    def load(self, folder: CheckpointFolder, weights: TensorSet) -> None:
        """Read weights into the model; every process must call it."""


class OneProcess:
    """The plain loop.

    Args:
        model: ``(dense, features) -> logits``.
        optimizers: of all that backward leaves.
        penalty: added to the loss.
        config: the device of the model, and batches per step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        penalty: EmbeddingPenalty,
        config: TrainConfig,
    ) -> None:
        self.optimizers = optimizers
        self._model, self._penalty, self._config = model, penalty, config

    def steps(self, loader: BatchLoader, history: History) -> Iterator[Done]:
        """Train on what is left of the loader's epoch; whoever asks counts in ``history``."""
        optimizers = self.optimizers
        for group in grouped(loader, self._config.accumulate_steps):
            optimizers.set_rates(history.step + 1, history.num_reductions)
            optimizers.zero_grad()
            num_rows = sum(batch.batch_size for batch in group)
            losses = [self._backward(batch, batch.batch_size / num_rows) for batch in group]
            optimizers.step()
            yield Done(sum(loss.item() for loss in losses), num_rows)

    def _backward(self, batch: Batch, share: float) -> Tensor:
        """The part of the step's loss that is this batch's, whose gradients are added up."""
        if self._config.device != "cpu":
            batch = batch.to(self._config.device, non_blocking=True)
        logits = self._model(batch.dense, batch.kjt())
        if logits.shape != batch.labels.shape:
            raise ValueError(
                f"model {self._config.model!r} gave logits of shape {tuple(logits.shape)} for "
                f"{batch.batch_size} examples; its forward must give ({batch.batch_size},)"
            )
        loss = binary_cross_entropy_with_logits(logits, batch.labels) * share
        (loss + self._penalty.take() * share).backward()
        return loss.detach()

    def pause(self) -> None:
        """Nothing to do."""

    def position(self, loader: BatchLoader) -> dict[str, Any]:
        """That of the loader."""
        return loader.state_dict()

    def names(self) -> OptimizerNames:
        """Of the optimizers' state."""
        return OptimizerNames(self._model, self.optimizers.stepped)

    def load(self, folder: CheckpointFolder, weights: TensorSet) -> None:
        """Read weights into the model."""
        self._model.load_state_dict(folder.read(weights))


def make_loop(
    model: nn.Module,
    embeddings: Sequence[CompressedEmbeddingBagCollection],
    config: TrainConfig,
    processes: Processes,
) -> Loop:
    """The loop of ``config.engine`` over ``model``, which is sharded in place where it says so."""
    if config.engine == "sharded":
        from compactrec.benchmarks.sharded_loop import ShardedLoop

        return ShardedLoop(model, embeddings, config, processes)
    penalty = EmbeddingPenalty(embeddings, config.embedding_decay)
    return OneProcess(model, Optimizers(model, embeddings, config), penalty, config)


def grouped(loader: BatchLoader, size: int) -> Iterator[list[Batch]]:
    """``size`` batches each, fewer at the end of an epoch; the loader stands behind each group."""
    group: list[Batch] = []
    first = loader.state_dict()["next_batch"]
    for done, batch in enumerate(loader, first + 1):
        group.append(batch)
        if done % size == 0 or done == len(loader):
            yield group
            group = []


def predict(
    model: nn.Module, loader: BatchLoader, device: str, processes: Processes | None = None
) -> tuple[Floats, Floats]:
    """Logits and labels of a whole split, ``(N,)`` float32 each, in the order of the loader.

    Every process has its part of the loader's batches, and gets all rows.
    """
    logits, labels = [], []
    model.eval()
    with torch.no_grad():
        for batch in loader:
            labels.append(batch.labels)
            batch = batch.to(device, non_blocking=True)
            logits.append(model(batch.dense, batch.kjt()).cpu())
    model.train()
    whole = [
        min(loader.batch_size, loader.num_rows - first)
        for first in range(0, loader.num_rows, loader.batch_size)
    ]
    processes = processes or Processes()
    found = [processes.gather_rows(pieces, whole).numpy() for pieces in (logits, labels)]
    return found[0], found[1]
