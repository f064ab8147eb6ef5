"""Batches of equal size on every process, which gloo needs where rows of a table are spread.

torchrec gathers the gradients of a row-wise table from all processes, and gloo gathers only what is
equally long: a last batch of which one process has an example more than another one ends training
with "ProcessGroupGloo::allgather: invalid tensor size". Empty bags make up for the difference.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.nn.functional import pad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.collection import CompressedEmbeddingBagCollection

__all__ = ["needs_equal_batches", "pad_bags"]

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
