"""Rare-id filter: the most frequent V - 1 ids keep a row of their own, all others share row 0."""

from collections.abc import Sequence
from typing import Any

__all__ = ["embed", "kept_ids", "param_count", "row"]


def kept_ids(counts: Sequence[int], num_rows: int) -> list[int]:
    """The V - 1 most frequent ids, most frequent first; ties go to the smaller id."""
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    return order[: num_rows - 1]


def row(index: int, kept: Sequence[int]) -> int:
    """1 + position among the kept ids, or 0 for every other id."""
    return kept.index(index) + 1 if index in kept else 0


def embed(index: int, table: Any, kept: Sequence[int]) -> Any:
    """Row of `table` (V, D)."""
    return table[row(index, kept)]


def param_count(num_rows: int, dim: int) -> int:
    """V D scalars (the id map is auxiliary memory, not a parameter)."""
    return num_rows * dim
