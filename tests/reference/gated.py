"""DNIS while it searches: e(x) = alpha[g(x)] * E[rank of x], element by element."""

from collections.abc import Sequence
from typing import Any

__all__ = ["block", "embed", "gate", "nearest_change", "order", "rank"]


def order(counts: Sequence[int]) -> list[int]:
    """Ids, most frequent first; of equal ones the smaller id."""
    return sorted(range(len(counts)), key=lambda i: (-counts[i], i))


def rank(index: int, counts: Sequence[int]) -> int:
    """The place of an id in the order."""
    return order(counts).index(index)


def block(place: int, rows: Sequence[int]) -> int:
    """The number of block ends that are at most the place."""
    ends = [sum(rows[: b + 1]) for b in range(len(rows))]
    return sum(end <= place for end in ends)


def gate(alpha: Any, normalize: bool) -> Any:
    """A block's gate: as it is, or divided by its sum and multiplied by its width."""
    return alpha * len(alpha) / alpha.sum() if normalize else alpha


def embed(place: int, tables: Sequence[Any], alpha: Any, rows: Sequence[int], norm: bool) -> Any:
    """The row at a place in the order, behind the gate of its block."""
    b = block(place, rows)
    return tables[b][place - sum(rows[:b])] * gate(alpha[b], norm)


def nearest_change(ranked: Sequence[int], cut: int) -> int:
    """The place nearest to `cut` at which a new frequency begins (the earlier of two)."""
    places = [0, *(p for p in range(1, len(ranked)) if ranked[p] != ranked[p - 1]), len(ranked)]
    return min(places, key=lambda p: (abs(p - cut), p))
