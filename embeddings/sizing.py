"""What methods need to size themselves: bytes on paper and the largest setting that fits."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from compactrec.embeddings.contract import Lowered
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.registry import Assignments, lower
from compactrec.embeddings.rewrite import Rewrite

__all__ = [
    "BudgetTooSmall",
    "assignment_bytes",
    "aux_bytes",
    "dense_bytes",
    "full_bytes",
    "largest",
    "largest_step",
    "proportional_rows",
    "table_bytes",
]

T = TypeVar("T")


class BudgetTooSmall(ValueError):
    """A method has no plan as small as it was asked for."""

    def __init__(self, smallest_bytes: int, advice: str) -> None:
        super().__init__(f"the smallest plan takes {smallest_bytes:,} bytes; {advice}")
        self.smallest_bytes = smallest_bytes
        self.advice = advice


def full_bytes(feature: Feature) -> int:
    """Bytes of a feature's full table, padding included, integer state not.

    Raises ``ValueError`` for an open vocabulary, which has no full table.
    """
    if feature.num_ids is None:
        raise ValueError(f"feature {feature.name!r} has an open vocabulary: it has no full table")
    from compactrec.embeddings.packing import num_lanes

    lanes = num_lanes(feature.dim)
    return 4 * feature.dim * lanes * math.ceil(feature.num_ids / lanes)


def table_bytes(lowered: Sequence[Lowered]) -> int:
    """Bytes of all physical tables."""
    return sum(table.num_bytes for part in lowered for table in part.tables)


def dense_bytes(lowered: Sequence[Lowered]) -> int:
    """Bytes of all combines' parameters; a combine that tied features share counts once."""
    parameters = {
        id(parameter): parameter
        for part in lowered
        for output in part.outputs
        for parameter in output.combine.parameters()
    }
    return sum(p.numel() * p.element_size() for p in parameters.values())


def aux_bytes(features: Sequence[Feature], lowered: Sequence[Lowered]) -> int:
    """Bytes of the rewrite's integer state: salts, digits, remaps, pointers, bounds."""
    streams = [stream for part in lowered for stream in part.streams]
    rewrite = Rewrite(features, streams)
    return sum(b.numel() * b.element_size() for b in rewrite.buffers())


def assignment_bytes(assignments: Assignments) -> int:
    """Serving bytes of what a method assigned: tables, integer state and dense parts."""
    arrays = {name: array.to("meta") for name, array in assignments.arrays.items()}
    with torch.device("meta"):
        lowered = [lower(config, group, arrays) for group, config in assignments.groups]
    features = [feature for group, _ in assignments.groups for feature in group]
    return table_bytes(lowered) + dense_bytes(lowered) + aux_bytes(features, lowered)


def largest(
    assign: Callable[[int], Assignments], low: int, high: int, budget_bytes: int
) -> Assignments:
    """What :func:`largest_step` finds."""
    return assign(largest_step(assign, low, high, budget_bytes))


def largest_step(
    assign: Callable[[int], Assignments], low: int, high: int, budget_bytes: int
) -> int:
    """The largest ``k`` in ``low .. high`` for which ``assign(k)`` fits; bytes must grow with it.

    Raises :class:`BudgetTooSmall` when ``assign(low)`` does not fit.
    """
    smallest = assignment_bytes(assign(low))
    if smallest > budget_bytes:
        raise BudgetTooSmall(smallest, "choose another method")
    while low < high:
        middle = (low + high + 1) // 2
        if assignment_bytes(assign(middle)) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def proportional_rows(vocabularies: Sequence[int], total_rows: int) -> list[int]:
    """Rows per feature in proportion to its vocabulary: never more, and at least one.

    Non-decreasing in ``total_rows`` for every feature.
    """
    total = sum(vocabularies)
    return [min(n, max(1, (n * total_rows) // total)) for n in vocabularies]
