"""Widths by chance: e(x) = E[x] P, E (n, d), P (d, D), no P where d = D; d uniform in 1 .. D.

The first m ids may be one column wider: e(x) = E_0[x] P_0 for x < m, else E_1[x - m] P_1.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["embed", "param_count"]


def embed(index: int, tables: Sequence[Any], projections: Sequence[Any | None]) -> Any:
    """Row times its projection; the row itself where there is none."""
    for table, projection in zip(tables, projections, strict=True):
        if index < len(table):
            return table[index] if projection is None else table[index] @ projection
        index -= len(table)
    raise IndexError(index)


def param_count(rows: Sequence[int], widths: Sequence[int], dim: int) -> int:
    """n d + d D summed over the tables, and n D where d = D."""
    return sum(n * d + (d * dim if d < dim else 0) for n, d in zip(rows, widths, strict=True))
