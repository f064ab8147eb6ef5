"""Dense sub-tables: which columns each block of a feature's rows keeps.

Columns are ranked by the mean magnitude of their values over the rows of a block, largest first,
and kept from the front; with a budget, what is left over is used up by the next ones that fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.pruned import pruned_assignment, pruned_bytes
from compactrec.embeddings.search.base import SearchTask
from compactrec.embeddings.search.blocks import FeatureBlocks
from compactrec.embeddings.search.pruning import largest_within, table_bytes_of
from compactrec.embeddings.size import size

__all__ = ["block_columns"]

Column = tuple[str, int, int]
"""Feature, block, column."""


@dataclass(frozen=True)
class _Columns:
    """The mean magnitude of every column of every block, and the blocks of ids."""

    ranked: list[Column]
    """Largest mean first."""
    means: list[float]
    block_of: dict[str, NDArray[np.int64]]
    rows: dict[str, tuple[int, ...]]


def block_columns(
    task: SearchTask,
    tables: Mapping[str, Tensor],
    blocks: Mapping[str, FeatureBlocks],
    *,
    budget_bytes: int | None = None,
    ratio: float | None = None,
    threshold: float | None = None,
) -> tuple[Plan, dict[str, Tensor]]:
    """The plan and the masks of the columns that are kept: as many as fit the budget, else as the
    threshold on block means or the ratio of dropped columns says.

    Raises ``ValueError`` naming the smallest possible bytes where the budget is too small.
    """
    columns = _columns(tables, blocks)
    features = {f.name: f for f in task.searched_features}
    rest = sum(table_bytes_of(f) for f in task.features if f.name not in features)

    def at(kept: int) -> dict[str, list[list[int]]]:
        chosen: dict[str, list[list[int]]] = {
            name: [[] for _ in columns.rows[name]] for name in features
        }
        for name, block, column in columns.ranked[:kept]:
            chosen[name][block].append(column)
        return chosen

    def estimate(chosen: dict[str, list[list[int]]]) -> int:
        total = rest
        for name, of_blocks in chosen.items():
            dims = [len(c) for c in of_blocks]
            total += pruned_bytes(len(tables[name]), columns.rows[name], dims, ids="order")
        return total

    def plan(chosen: dict[str, list[list[int]]]) -> Plan:
        groups, arrays = [], dict[str, Tensor]()
        for feature in task.features:
            if feature.name not in chosen:
                groups.append(Group((feature.name,), FullConfig()))
                continue
            block_of = columns.block_of[feature.name]
            of_blocks = chosen[feature.name]
            config, own = pruned_assignment(feature, None, of_blocks, block_of=block_of)
            arrays |= own
            groups.append(Group((feature.name,), config))
        return Plan(task.features, tuple(groups), arrays)

    num_columns = len(columns.ranked)
    if budget_bytes is not None:
        chosen = largest_within(at, estimate, plan, num_columns, budget_bytes)
        chosen = _filled(chosen, columns.ranked, estimate, plan, budget_bytes)
    elif threshold is not None:
        chosen = at(sum(mean >= threshold for mean in columns.means))
    else:
        chosen = at(num_columns - round((ratio or 0.0) * num_columns))
    masks = {}
    for name, of_blocks in chosen.items():
        by_block = torch.zeros(len(of_blocks), task.dim, dtype=torch.bool)
        for block, kept in enumerate(of_blocks):
            by_block[block, kept] = True
        masks[name] = by_block[torch.from_numpy(columns.block_of[name])]
    return plan(chosen), masks


def _filled(
    chosen: dict[str, list[list[int]]],
    ranked: list[Column],
    estimate: Callable[[dict[str, list[list[int]]]], int],
    plan: Callable[[dict[str, list[list[int]]]], Plan],
    budget_bytes: int,
) -> dict[str, list[list[int]]]:
    """Use up what is left: the next columns that still fit, largest means first."""
    spare = budget_bytes - size(plan(chosen)).serving_bytes
    filled = {name: [list(columns) for columns in blocks] for name, blocks in chosen.items()}
    before = estimate(filled)
    for name, block, column in ranked:
        if column in filled[name][block]:
            continue
        filled[name][block].append(column)
        if estimate(filled) - before > spare:
            filled[name][block].remove(column)
    return filled if size(plan(filled)).serving_bytes <= budget_bytes else chosen


def _columns(tables: Mapping[str, Tensor], blocks: Mapping[str, FeatureBlocks]) -> _Columns:
    scored: list[tuple[float, Column]] = []
    block_of: dict[str, NDArray[np.int64]] = {}
    for name, table in tables.items():
        mine = blocks[name]
        rank = np.arange(len(table)) if mine.rank is None else mine.rank
        block = np.searchsorted(np.cumsum(mine.rows), rank, side="right")
        block_of[name] = block
        sums = torch.zeros(len(mine.rows), table.shape[1], dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(block), table.abs().double())
        counts = torch.tensor(mine.rows, dtype=torch.float64).clamp(min=1)
        means = sums / counts[:, None]
        scored += [
            (float(means[b, c]), (name, b, c))
            for b, n in enumerate(mine.rows)
            if n
            for c in range(table.shape[1])
        ]
    scored.sort(key=lambda item: -item[0])
    rows = {name: blocks[name].rows for name in tables}
    return _Columns([c for _, c in scored], [mean for mean, _ in scored], block_of, rows)
