"""Whole columns of whole blocks: the structured way to prune what a search over blocks has learned.

The score of a column in a block is the mean of ``|value|`` over the block's rows (of all features
that share the block). Columns are kept by score over all blocks together, largest first, ties in
the order of blocks and columns. A block then is a dense table of its kept columns, behind layout
``pruned``. In bytes everything counts, the map from ids to rows and unsearched features included.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.kept import Ids
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.pruned import pruned_assignment, pruned_bytes
from compactrec.embeddings.search.base import SearchTask
from compactrec.embeddings.search.pruning import (
    Masks,
    largest_within,
    searched_tables,
    table_bytes_of,
)

__all__ = ["BlockColumns"]

Kept = dict[str, NDArray[np.bool_]]
"""``(L, D)`` by searched feature: the columns that each of its blocks keeps."""


class BlockColumns:
    """Columns of blocks, ranked.

    Args:
        task: what is searched.
        tables: logical tables of at least the searched features.
        block_of: ``(num_ids,)`` block of every id, by searched feature.
        shared: blocks of one number are one block over all features; otherwise each feature has
            its own.
    """

    def __init__(
        self,
        task: SearchTask,
        tables: Mapping[str, Tensor],
        block_of: Mapping[str, NDArray[np.int64]],
        *,
        shared: bool,
    ) -> None:
        self.task = task
        self.block_of = block_of
        own = {name: table.double().abs() for name, table in searched_tables(task, tables).items()}
        num_blocks = 1 + max(int(blocks.max()) for blocks in block_of.values())
        sums = {n: _sums(table, block_of[n], num_blocks) for n, table in own.items()}
        self.rows = {n: np.bincount(block_of[n], minlength=num_blocks) for n in own}
        groups = [[*own]] if shared else [[name] for name in own]
        self._groups = groups
        self.scores = np.stack(
            [
                sum(sums[n] for n in names)
                / np.maximum(sum(self.rows[n] for n in names), 1)[:, None]
                for names in groups
            ]
        )  # (groups, L, D)
        if not np.isfinite(self.scores).all():
            raise ValueError("the tables have values that are not finite; did training diverge?")
        order = np.argsort(-self.scores.reshape(-1), kind="stable")
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size)
        self._rank = rank.reshape(self.scores.shape)

    def keeping(self, num_columns: int) -> Kept:
        """The ``num_columns`` columns of the best scores."""
        return self._by_feature(self._rank < num_columns)

    def at_threshold(self, threshold: float) -> Kept:
        """Columns whose score exceeds the threshold."""
        return self._by_feature(self.scores > threshold)

    def at_ratio(self, ratio: float) -> Kept:
        """The most columns that hold at most ``1 - ratio`` of all values."""
        total = sum(blocks.size for blocks in self.block_of.values()) * self.task.dim
        low, high = 0, self.scores.size
        while low < high:
            middle = (low + high + 1) // 2
            if self._values(self.keeping(middle)) <= round((1 - ratio) * total):
                low = middle
            else:
                high = middle - 1
        return self.keeping(low)

    def at_bytes(self, budget_bytes: int) -> Kept:
        """The most columns whose :meth:`plan` is served within ``budget_bytes``; what is left over
        goes to the next ones that still fit.

        A feature that would take more bytes with some columns than with all keeps all. Raises
        ``ValueError`` naming the smallest possible bytes.
        """
        full = {f.name: (f, table_bytes_of(f)) for f in self.task.searched_features}

        def completed(columns: NDArray[np.bool_]) -> Kept:
            kept = self._by_feature(columns)
            for name, (feature, num_bytes) in full.items():
                if self._pruned_bytes(feature, kept[name]) >= num_bytes:
                    kept[name] = np.ones_like(kept[name])
            return kept

        def best(num_columns: int) -> NDArray[np.bool_]:
            return self._rank < num_columns

        chosen = largest_within(
            best,
            lambda columns: self.plan_bytes(completed(columns)),
            lambda columns: self.plan(completed(columns)),
            self.scores.size,
            budget_bytes,
        )
        for rank in range(int(chosen.sum()), self.scores.size):
            more = chosen | (self._rank == rank)
            if self.plan_bytes(completed(more)) <= budget_bytes:
                chosen = more
        return completed(chosen)

    def masks(self, kept: Kept) -> Masks:
        """The same as single values: ``(num_ids, D)`` bool by feature."""
        return {n: torch.from_numpy(columns[self.block_of[n]]) for n, columns in kept.items()}

    def plan(self, kept: Kept) -> Plan:
        """``pruned`` for the searched features, ``full`` for what keeps all, or is not searched."""
        groups: list[Group] = []
        arrays: dict[str, Tensor] = {}
        for feature in self.task.features:
            columns = kept.get(feature.name)
            if columns is None or self._is_full(feature.name, columns):
                groups.append(Group((feature.name,), FullConfig()))
                continue
            numbers = [np.flatnonzero(c).tolist() for c in columns]
            block_of = self.block_of[feature.name]
            config, own = pruned_assignment(feature, None, numbers, block_of=block_of)
            arrays |= own
            groups.append(Group((feature.name,), config))
        return Plan(self.task.features, tuple(groups), arrays)

    def plan_bytes(self, kept: Kept) -> int:
        """Serving bytes of :meth:`plan`, exactly, without making it."""
        return sum(
            table_bytes_of(f)
            if columns is None or self._is_full(f.name, columns)
            else self._pruned_bytes(f, columns)
            for f, columns in ((f, kept.get(f.name)) for f in self.task.features)
        )

    def _is_full(self, name: str, columns: NDArray[np.bool_]) -> bool:
        return bool(columns[self.rows[name] > 0].all())

    def _values(self, kept: Kept) -> int:
        return sum(int((self.rows[n] * columns.sum(1)).sum()) for n, columns in kept.items())

    def _pruned_bytes(self, feature: Feature, columns: NDArray[np.bool_]) -> int:
        assert feature.num_ids is not None
        rows, dims = self.rows[feature.name], columns.sum(1)
        block_of = self.block_of[feature.name]
        has_row = dims[block_of] > 0
        of_kept = block_of[has_row]
        ids: Ids = "order" if bool(has_row[: len(of_kept)].all()) else "kept"
        if bool((np.diff(of_kept) < 0).any()):
            ids = "remap"
        return pruned_bytes(feature.num_ids, rows.tolist(), dims.tolist(), ids=ids)

    def _by_feature(self, columns: NDArray[np.bool_]) -> Kept:
        return {
            n: of.copy() for names, of in zip(self._groups, columns, strict=True) for n in names
        }


def _sums(table: Tensor, block_of: NDArray[np.int64], num_blocks: int) -> NDArray[np.float64]:
    """``(L, D)``: the rows of each block added up."""
    sums = torch.zeros(num_blocks, table.shape[1], dtype=torch.float64)
    found: NDArray[np.float64] = sums.index_add_(0, torch.from_numpy(block_of), table).numpy()
    return found
