"""torchrec's input pipeline over a sharded model: ids travel while the batch before computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from compactrec.data.batch import KjtBatch, register_pipelineable
from compactrec.embeddings.sharding_plan import quiet_torchrec

__all__ = ["InputPipeline", "LossModel"]

Loss = Callable[[Tensor, KjtBatch], tuple[Tensor, Tensor]]


class LossModel(nn.Module):
    """A click model with its loss: what is sharded as a whole.

    Args:
        model: ``(dense, features) -> logits (B,)``.
        loss: of the logits of a batch: what is backpropagated, and what is shown.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: KjtBatch) -> tuple[Tensor, Tensor]:
        """What the loss gives, ``()`` each."""
        return self._loss(self.model(batch.dense, batch.features), batch)


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
