"""Which values of trained tables are kept: by magnitude, over all tables together.

A mask is a bool tensor ``(n, D)``, true where a value is kept. Values are ranked by ``|value|``,
largest first; equal ones in the order of tables, rows and columns, so that of equal values those of
earlier ids stay. The ranking is total: masks are the same every time, and a mask that keeps fewer
values is part of one that keeps more.

In bytes everything counts: the kept values, where they belong, and the full tables of the features
that are not searched.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.plan import AnyPlan, Group, Plan
from compactrec.embeddings.registry import Assignments
from compactrec.embeddings.search.base import BudgetTooSmallError, SearchTask
from compactrec.embeddings.size import size
from compactrec.embeddings.sizing import assignment_bytes
from compactrec.embeddings.sparse import sparse_assignment, sparse_bytes

__all__ = [
    "Masks",
    "largest_within",
    "masked",
    "masks_at_bytes",
    "masks_at_ratio",
    "masks_at_threshold",
    "masks_keeping",
    "num_kept",
    "searched_tables",
    "sparse_plan",
    "sparse_plan_bytes",
    "table_bytes_of",
]

T = TypeVar("T")

Masks = Mapping[str, Tensor]
"""``(num_ids, D)`` bool by feature name; True is kept."""


def searched_tables(task: SearchTask, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tables of the searched features, on the CPU, in the order of the task."""
    return {f.name: tables[f.name].detach().cpu() for f in task.searched_features}


def masks_keeping(tables: Mapping[str, Tensor], num_kept: int) -> dict[str, Tensor]:
    """Keep the ``num_kept`` values of largest magnitude over all tables together."""
    return {name: rank < num_kept for name, rank in _ranks(tables).items()}


def masks_at_ratio(tables: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Drop ``round(ratio * values)`` values; 0 drops none, 1 drops all."""
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the ratio of dropped values must be in 0 .. 1, got {ratio}")
    total = sum(table.numel() for table in tables.values())
    return masks_keeping(tables, total - round(ratio * total))


def masks_at_threshold(tables: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Keep ``|value| >= threshold``."""
    if threshold < 0:
        raise ValueError(f"the threshold must be at least 0, got {threshold}")
    return {
        name: _magnitudes(name, table).view(table.shape) >= threshold
        for name, table in tables.items()
    }


def masks_at_bytes(
    task: SearchTask, tables: Mapping[str, Tensor], budget_bytes: int
) -> dict[str, Tensor]:
    """Keep as many values as :func:`sparse_plan` serves within ``budget_bytes``.

    A feature that would take more bytes with some values than with all keeps all, in a full table.

    Raises:
        ValueError: not even a plan without any searched value fits; names its bytes.
    """
    own = searched_tables(task, tables)
    ranks = _ranks(own)
    full = {f.name: table_bytes_of(f) for f in task.searched_features}

    def at(kept: int) -> dict[str, Tensor]:
        masks = {name: rank < kept for name, rank in ranks.items()}
        return {
            name: mask if _sparse_bytes(mask) < full[name] else torch.ones_like(mask)
            for name, mask in masks.items()
        }

    def estimate(masks: dict[str, Tensor]) -> int:
        return sparse_plan_bytes(task, masks)

    def plan(masks: dict[str, Tensor]) -> Plan:
        return sparse_plan(task, masks)

    total = sum(table.numel() for table in own.values())
    return largest_within(at, estimate, plan, total, budget_bytes)


def largest_within(
    at: Callable[[int], T],
    estimate: Callable[[T], int],
    plan: Callable[[T], AnyPlan],
    high: int,
    budget_bytes: int,
) -> T:
    """What ``at(k)`` gives for the largest ``k`` in ``0 .. high`` found by halving whose plan fits.

    ``estimate`` is the bytes of a plan without making it; where it is off, it is corrected.

    Raises ``ValueError`` naming the smallest possible bytes where ``at(0)`` does not fit.
    """
    limit = budget_bytes
    while True:
        low, top = 0, high
        while low < top:
            middle = (low + top + 1) // 2
            if estimate(at(middle)) <= limit:
                low = middle
            else:
                top = middle - 1
        found = at(low)
        taken = size(plan(found)).serving_bytes
        if taken <= budget_bytes:
            return found
        if low == 0:
            raise BudgetTooSmallError(
                f"the smallest plan takes {taken:,} bytes and the budget is {budget_bytes:,} "
                f"bytes; raise the budget, or let smaller features be searched too: "
                f"train.threshold"
            )
        limit = min(limit, estimate(found)) - 1
        high = low - 1


def masked(tables: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """The tables with dropped values at zero; tables without a mask as they are."""
    return {
        name: table * masks[name].to(table.device) if name in masks else table
        for name, table in tables.items()
    }


def num_kept(masks: Masks) -> int:
    """Kept values over all masks."""
    return sum(int(mask.sum()) for mask in masks.values())


def sparse_plan(task: SearchTask, masks: Masks) -> Plan:
    """Kept values and where they belong; full tables where a mask keeps all, or there is none."""
    groups, arrays = [], dict[str, Tensor]()
    for feature in task.features:
        mask = masks.get(feature.name)
        if mask is None or bool(mask.all()):
            groups.append(Group((feature.name,), FullConfig()))
            continue
        config, own = sparse_assignment(feature, mask)
        arrays |= own
        groups.append(Group((feature.name,), config))
    return Plan(task.features, tuple(groups), arrays)


def sparse_plan_bytes(task: SearchTask, masks: Masks) -> int:
    """Serving bytes of :func:`sparse_plan`, exactly, without making it."""
    return sum(
        table_bytes_of(f) if mask is None or bool(mask.all()) else _sparse_bytes(mask)
        for f, mask in ((f, masks.get(f.name)) for f in task.features)
    )


def table_bytes_of(feature: Feature) -> int:
    """Serving bytes of a feature's full table."""
    return assignment_bytes(Assignments((((feature,), FullConfig()),), {}))


def _sparse_bytes(mask: Tensor) -> int:
    rows = mask.any(1)
    count = int(rows.sum())
    ids: Literal["order", "kept"] = "order" if bool(rows[:count].all()) else "kept"
    return sparse_bytes(mask.shape[0], mask.sum(0).tolist(), count, ids=ids)


def _ranks(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The place of every value in the ranking, 0 for the largest; shapes of the tables."""
    if not tables:
        return {}
    joined = torch.cat([_magnitudes(name, table) for name, table in tables.items()])
    order = joined.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    pieces = rank.split([table.numel() for table in tables.values()])
    return {
        name: piece.view(table.shape)
        for (name, table), piece in zip(tables.items(), pieces, strict=True)
    }


def _magnitudes(name: str, table: Tensor) -> Tensor:
    magnitudes = table.detach().cpu().float().abs().flatten()
    if not bool(magnitudes.isfinite().all()):
        raise ValueError(
            f"the table of feature {name!r} has values that are not finite; did training diverge?"
        )
    return magnitudes
