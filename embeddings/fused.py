"""FBGEMM's table-batched operator as a kernel of the fused engine.

FBGEMM is told to check no row, so what is in range is what came before it: the rewrite refuses ids
out of range, and a lowering refuses arrays with rows out of range. A collection built with
``check_ids=False`` has the second check only, and nobody looks at the arrays of a state dict that
is loaded. A row out of range reads, and in training writes, another feature's table or memory that
is no table at all.
"""

from collections.abc import Sequence

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from compactrec.embeddings.contract import Table
from compactrec.embeddings.fused_optimizer import FusedOptimizer

__all__ = ["FbgemmKernel"]

_KINDS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


class FbgemmKernel:
    """All tables in one table-batched operator; weights are views into its one buffer.

    Args:
        tables: the physical tables.
        part_tables: for every part its table, the parts of a table side by side.
        optimizer: what the backward pass applies; FBGEMM has no ``adam`` on the CPU.
        device: where the weights live.
    """

    decays_in_rule = False

    def __init__(
        self,
        tables: Sequence[Table],
        part_tables: Sequence[int],
        optimizer: FusedOptimizer,
        device: torch.device,
    ) -> None:
        cuda = device.type == "cuda"
        location = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
        compute = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
        self._names = [table.name for table in tables]
        self._operator = SplitTableBatchedEmbeddingBagsCodegen(
            [(t.num_rows, t.dim, location, compute) for t in tables],
            feature_table_map=list(part_tables),
            optimizer=_KINDS[optimizer.name],
            learning_rate=optimizer.learning_rate,
            eps=optimizer.eps,
            stochastic_rounding=False,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # see above
            device=device,
        )

    def look_up(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sum-pooled rows ``(B, sum of part dims)``."""
        pooled: Tensor = self._operator(values, offsets, weights)
        return pooled

    def weights(self) -> list[Tensor]:
        """Views of the tables."""
        views: list[Tensor] = self._operator.split_embedding_weights()
        return views

    def states(self) -> dict[str, Tensor]:
        """Views by ``<table>.momentum1``; empty for SGD."""
        out = {}
        states = self._operator.split_optimizer_states() or [()] * len(self._names)  # SGD has none
        for name, state in zip(self._names, states, strict=True):
            for i, tensor in enumerate(state):
                if tensor.numel():
                    out[f"{name}.momentum{i + 1}"] = tensor
        return out

    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._operator.get_learning_rate())

    def set_learning_rate(self, learning_rate: float) -> None:
        """For the steps from now on."""
        self._operator.set_learning_rate(learning_rate)
