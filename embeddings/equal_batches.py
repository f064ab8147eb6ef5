"""Batches of equal size on every process, which gloo needs where rows of a table are spread.

torchrec gathers the gradients of a row-wise table from all processes, and gloo gathers only what is
equally long: a last batch of which one process has an example more than another one would end
training with "ProcessGroupGloo::allgather: invalid tensor size". Empty bags make up for it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import fx, nn
from torch.nn.functional import pad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.sequence_collection import CompressedEmbeddingCollection

__all__ = ["keep_equal", "needs_equal_batches", "pad_bags"]

_BY_ROWS = {"row_wise", "table_row_wise"}


def needs_equal_batches(collection: CompressedEmbeddingBagCollection) -> bool:
    """Whether every process must train on as many bags: rows are spread, and over gloo.

    Args:
        collection: of a model that was sharded.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or dist.get_backend() != "gloo":
        return False
    tables: Any = collection.tables
    plan = getattr(tables, "module_sharding_plan", {})
    return any(chosen.sharding_type in _BY_ROWS for chosen in plan.values())


def keep_equal(model: nn.Module, collection: CompressedEmbeddingBagCollection) -> None:
    """Let ``collection``, a part of ``model``, train on as many bags in all processes.

    Of sequences the shorter ones are padded, since nobody sees their bags. Elsewhere unequal
    batches raise ``ValueError`` in all processes: what is above the tables is of as many rows. The
    two numbers that are exchanged for it travel while the ids are rewritten and sent.
    """
    modules = model.modules()
    if any(isinstance(m, CompressedEmbeddingCollection) and m.bags is collection for m in modules):
        collection.register_forward_pre_hook(_padded)
        return
    batches = _Batches()
    collection.register_forward_pre_hook(batches.tell)
    collection.register_forward_hook(batches.compare)


def _trains(collection: nn.Module, features: KeyedJaggedTensor) -> bool:
    traced = isinstance(features, fx.Proxy)  # by a pipeline that looks for what to run ahead
    return collection.training and torch.is_grad_enabled() and not traced


def _padded(
    collection: nn.Module, given: tuple[KeyedJaggedTensor, ...]
) -> tuple[KeyedJaggedTensor] | None:
    """With as many bags as the process with most of them."""
    if not _trains(collection, given[0]):
        return None
    largest = torch.tensor(given[0].stride())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return (pad_bags(given[0], int(largest)),)


class _Batches:
    """Of how many bags the batches of all processes are."""

    def __init__(self) -> None:
        self._exchange: dist.Work | None = None

    def tell(self, collection: nn.Module, given: tuple[KeyedJaggedTensor, ...]) -> None:
        """Begin to exchange the largest and the smallest number."""
        if _trains(collection, given[0]):
            self._size = given[0].stride()
            self._ends = torch.tensor([self._size, -self._size])
            self._exchange = dist.all_reduce(self._ends, dist.ReduceOp.MAX, async_op=True)

    def compare(self, collection: nn.Module, given: object, output: object) -> None:
        """End it, and raise where they differ."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.wait()
        largest, smallest = int(self._ends[0]), -int(self._ends[1])
        if largest != smallest:
            raise ValueError(
                f"training batches are of {smallest} to {largest} examples, of {self._size} in "
                f"this process, and where rows of tables are spread over gloo all processes must "
                f"have as many: look up pad_bags(features, {largest}), of "
                f"compactrec.embeddings.equal_batches, and take the first {self._size} rows of the "
                f"vectors; or drop the batch, or shard table_wise"
            )


def pad_bags(features: KeyedJaggedTensor, size: int) -> KeyedJaggedTensor:
    """The same bags of every feature, and empty ones after them: ``size`` in all.

    Values and weights are shared, not copied. Rows of the output beyond the first
    ``features.stride()`` belong to no example: cut them off before what is above the tables.

    Raises:
        ValueError: there are more than ``size`` already.
    """
    more = size - features.stride()
    if more < 0:
        raise ValueError(
            f"features have {features.stride()} bags, more than the {size} to pad them to; give "
            f"the largest batch of all processes"
        )
    lengths = features.lengths().view(len(features.keys()), features.stride())
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=features.values(),
        weights=features.weights_or_none(),
        lengths=pad(lengths, (0, more)).reshape(-1),
        stride=size,
        length_per_key=features.length_per_key(),
    )
