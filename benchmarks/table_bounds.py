"""Bytes that the parts of a table step must move, and what that takes at this machine's rates."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.table_inputs import fresh
from compactrec.embeddings import CompressedEmbeddingBagCollection

__all__ = ["Rates", "bytes_of_parts", "milliseconds"]

GATHERED = ("lookup", "update")
"""Parts that read rows from all over a table; the others read memory from one end to the other."""


class Rates:
    """How fast rows are gathered at random, and how fast memory is copied: bytes both ways.

    Args:
        num_rows: of the table that is gathered from.
        dim: its width.
        count: rows in one go.
    """

    def __init__(self, num_rows: int, dim: int, count: int) -> None:
        self._source = torch.rand(num_rows, dim)
        self._out, self._other = torch.rand(2, count, dim).unbind()
        self._seconds: dict[str, list[float]] = {"gather": [], "copy": []}

    def measure(self) -> None:
        """Once more; call it between what is measured."""
        chosen = torch.randint(0, len(self._source), (len(self._out),))
        start = time.perf_counter()
        torch.index_select(self._source, 0, chosen, out=self._out)
        middle = time.perf_counter()
        self._out.copy_(self._other)
        self._seconds["gather"].append(middle - start)
        self._seconds["copy"].append(time.perf_counter() - middle)

    def bytes_per_second(self) -> dict[str, float]:
        """By ``gather`` and ``copy``, medians of what was measured."""
        moved = 2 * self._out.element_size() * self._out.numel()
        return {kind: moved / statistics.median(seconds) for kind, seconds in self._seconds.items()}


def bytes_of_parts(
    collection: CompressedEmbeddingBagCollection, kjts: Sequence[KeyedJaggedTensor]
) -> dict[str, float]:
    """Bytes by part of a step, the mean over ``kjts``, as the parts are cut today.

    A kernel that combines while it looks up would not write what is looked up. Lookup reads every
    distinct row once and writes what is looked up; combine reads that and writes vectors; its
    backward pass reads their gradient and writes that of what was looked up; the update reads this,
    and reads and writes every distinct row (SGD). Without a combine there are none of its bytes.
    """
    tables: Any = collection.tables
    dims = {table.name: table.dim for table in collection.physical_tables}
    ids = collection.rewrite.ids
    distinct = 0
    for kjt in kjts:
        rows = collection.rewrite(fresh(kjt))
        by_part = dict(zip(rows.keys(), rows.values().split(rows.length_per_key()), strict=True))
        for name, dim in dims.items():
            read = [
                by_part[key]
                for key, table in zip(ids.part_keys, ids.part_tables, strict=True)
                if table == name
            ]
            distinct += dim * torch.cat(read).unique().numel()
    touched, batch = distinct / len(kjts), kjts[0].stride()
    looked_up = batch * sum(tables.part_dims)
    vectors = batch * sum(c.embedding_dim for c in collection.embedding_bag_configs())
    pooled = torch.zeros(batch, sum(tables.part_dims))
    combined = collection.combine(pooled, tables.part_keys, tables.part_dims) is not pooled
    between = 4 * (looked_up + vectors) if combined else 0
    return {
        "lookup": 4 * (touched + looked_up),
        "combine": between,
        "combine_backward": between,
        "update": 4 * (looked_up + 2 * touched),
    }


def milliseconds(moved: Mapping[str, float], rates: Mapping[str, float]) -> dict[str, float]:
    """The least that each part can take where nothing is served by caches."""
    return {
        part: 1e3 * size / rates["gather" if part in GATHERED else "copy"]
        for part, size in moved.items()
    }
