"""torchrec's input pipeline over a sharded model: ids travel while the batch before computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.sparse.jagged_tensor import KeyedTensor

from compactrec.data.batch import KjtBatch, register_pipelineable
from compactrec.embeddings.sharding_plan import quiet_torchrec

__all__ = ["InputPipeline", "LossModel"]

Loss = Callable[[Tensor, KjtBatch], tuple[Tensor, Tensor]]


class LossModel(nn.Module):
    """A click model with its loss: what is sharded as a whole.

    Args:
        model: ``(dense, features) -> logits (B,)``.
        loss: of the logits of a batch: what is backpropagated, and what is shown.
        padded: collections of the model whose bags may be more than there are examples
            (:func:`~compactrec.embeddings.equal_batches.pad_bags`): the model gets the vectors of
            the examples.
    """

    def __init__(self, model: nn.Module, loss: Loss, padded: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._num_examples: int | None = None
        for collection in padded:
            collection.register_forward_hook(self._cut)

    def forward(self, batch: KjtBatch) -> tuple[Tensor, Tensor]:
        """What the loss gives, ``()`` each."""
        if batch.num_bags is not None:
            self._num_examples = batch.labels.shape[0]
        logits = self.model(batch.dense, batch.features)
        self._num_examples = None
        return self._loss(logits, batch)

    def _cut(self, module: nn.Module, args: object, vectors: KeyedTensor) -> KeyedTensor | None:
        if self._num_examples is None:
            return None
        return KeyedTensor(
            vectors.keys(), vectors.length_per_key(), vectors.values()[: self._num_examples]
        )


class _Step:
    """What the pipeline wants of an optimizer."""

    def __init__(self, optimizers: Any) -> None:
        self.zero_grad, self.step = optimizers.zero_grad, optimizers.step


class InputPipeline:
    """Trains on one batch after the other while the next two are on their way.

    The rewrite runs ahead with the exchange of ids, as it holds no parameter.

    Args:
        sharded: a sharded :class:`LossModel`.
        optimizers: ``zero_grad`` and ``step`` for what backward leaves.
        device: of this process.
    """

    def __init__(
        self, sharded: DistributedModelParallel, optimizers: Any, device: torch.device | str
    ) -> None:
        register_pipelineable()
        self._pipeline = TrainPipelineSparseDist(
            sharded, _Step(optimizers), torch.device(device), pipeline_postproc=True
        )

    def step(self, batches: Iterator[KjtBatch]) -> Tensor | None:
        """Train on the next batch; the loss to show, or None when there is no other one.

        ``batches`` must be the same iterator every time; up to two batches more are taken from it.
        """
        try:
            with quiet_torchrec():
                shown: Tensor = self._pipeline.progress(batches)
        except StopIteration:
            return None
        return shown

    @property
    def num_pipelined(self) -> int:
        """Tables' collections and rewrites that run ahead; known after the first step."""
        pipeline = self._pipeline
        return len(pipeline._pipelined_modules) + len(pipeline._pipelined_postprocs)

    def detach(self) -> None:
        """Give the model its own forward pass back; the next step takes it again."""
        self._pipeline.detach()
