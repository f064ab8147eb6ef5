"""Training over the processes of torchrun: every process has a part of each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.loop import Done
from compactrec.benchmarks.optimizers import Optimizers, fused_optimizer
from compactrec.benchmarks.penalty import EmbeddingPenalty
from compactrec.benchmarks.pipeline import InputPipeline, LossModel
from compactrec.benchmarks.processes import Processes
from compactrec.data.background import ahead
from compactrec.data.batch import KjtBatch
from compactrec.data.loader import BatchLoader
from compactrec.embeddings import CompressedEmbeddingBagCollection
from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_optimizer import OptimizerNames
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.equal_batches import needs_equal_batches, pad_bags
from compactrec.embeddings.sharding import shard

__all__ = ["ShardedLoop", "loss_of_part"]


class ShardedLoop:
    """Shards a model in place and trains it. The numbers are those of one process, to rounding.

    The loss of a process is the sum over its examples, divided by the examples of *all* processes
    and multiplied by their number, because gradients are averaged over processes.

    Args:
        model: ``(dense, features) -> logits``, with one collection of engine ``sharded``.
        embeddings: that collection.
        config: sharding, optimizers, pipeline.
        processes: this one and the others.
    """

    def __init__(
        self,
        model: nn.Module,
        embeddings: Sequence[CompressedEmbeddingBagCollection],
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        self._processes, self._config = processes, config
        counted = LossModel(model, self._loss, padded=embeddings)  # cuts before the penalty looks
        self._penalty = EmbeddingPenalty(embeddings, config.embedding_decay)
        self._rewrite = embeddings[0].rewrite if config.rewrite_in_loader else None
        self._model = model
        self._trained = shard(
            counted, config.sharding, optimizer=fused_optimizer(config), device=config.device
        )
        self._equal = any(needs_equal_batches(collection) for collection in embeddings)
        self.optimizers = Optimizers(self._trained, embeddings, config)
        self._pipeline: InputPipeline | None = None
        if config.pipeline:
            self._pipeline = InputPipeline(self._trained, self.optimizers, config.device)
        self._position: tuple[int, int] | None = None

    def steps(self, loader: BatchLoader, history: History) -> Iterator[Done]:
        """Train on what is left of the loader's epoch; whoever asks counts in ``history``."""
        epoch, first = loader.epoch, loader.state_dict()["next_batch"]
        batches = self._batches(loader)
        for index in range(first, len(loader)):
            self.optimizers.set_rates(history.step + 1, history.num_reductions)
            loss = self._step(batches)
            num_rows = min(loader.batch_size, loader.num_rows - index * loader.batch_size)
            self._position = (epoch, index + 1)
            yield Done(self._processes.sum([loss])[0] / self._processes.size, num_rows)
        next(batches, None)  # lets the loader end its epoch
        self._position = None

    def pause(self) -> None:
        """Give the model its own forward pass back."""
        if self._pipeline is not None:
            self._pipeline.detach()

    def position(self, loader: BatchLoader) -> dict[str, Any]:
        """The loader's state after the batches that were trained on; more may be on their way."""
        state = loader.state_dict()
        if self._position is not None:
            state["epoch"], state["next_batch"] = self._position
        return state

    def names(self) -> OptimizerNames:
        """Of the optimizers' state; the model is an attribute of what is sharded."""
        return OptimizerNames(self._trained, self.optimizers.stepped, prefix="model.")

    def load(self, folder: CheckpointFolder, weights: TensorSet) -> None:
        """Read weights into the model, each process its own part."""
        self.pause()
        folder.read(weights, self._model.state_dict())

    def _step(self, batches: Iterator[KjtBatch]) -> float:
        if self._pipeline is not None:
            shown = self._pipeline.step(batches)
            assert shown is not None, "a loader ended early"
            return float(shown)
        loss, shown = self._trained(next(batches))
        self.optimizers.zero_grad()
        loss.backward()
        self.optimizers.step()
        return float(shown)

    def _loss(self, logits: Tensor, batch: KjtBatch) -> tuple[Tensor, Tensor]:
        return loss_of_part(logits, batch, self._penalty.take(), self._processes.size)

    def _batches(self, loader: BatchLoader) -> Iterator[KjtBatch]:
        """Batches as the model takes them; with the rewrite done in a thread, where asked for."""
        if self._rewrite is None:
            return self._converted(loader)
        return ahead(self._converted(loader))

    def _converted(self, loader: BatchLoader) -> Iterator[KjtBatch]:
        first = loader.state_dict()["next_batch"]
        for index, batch in enumerate(loader, first):
            num_rows = min(loader.batch_size, loader.num_rows - index * loader.batch_size)
            made = batch.with_kjt(num_rows)
            largest = -(-num_rows // self._processes.size)
            if self._equal and batch.batch_size < largest:
                features = pad_bags(made.features, largest)
                made = replace(made, features=features, num_bags=largest)
            if self._rewrite is not None:
                with torch.no_grad():
                    made = made.rewritten(self._rewrite)
            yield made.to(self._config.device, non_blocking=True)


def loss_of_part(
    logits: Tensor, batch: KjtBatch, penalty: Tensor | float, num_processes: int
) -> tuple[Tensor, Tensor]:
    """What a process backpropagates, and what is shown: its part without the penalty.

    ``batch`` is its part of one of ``batch.num_rows`` examples, ``penalty`` a mean over that part.
    The mean over processes is the loss of the whole batch, however unequal the parts are.
    """
    scale = num_processes / batch.num_rows
    entropy = binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum") * scale
    return entropy + penalty * (batch.labels.shape[0] * scale), entropy.detach()
