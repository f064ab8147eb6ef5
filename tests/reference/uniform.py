"""Uniform smaller width: e(id) = E[id] P with E (n, r), P (r, D), r < D; no P where r = D.

The mixed-dimension layer with a single block: a low-rank factorisation of the full table.
"""

from typing import Any

__all__ = ["embed", "param_count", "wider_first"]


def embed(index: int, table: Any, projection: Any | None) -> Any:
    """Row times the projection (r, D); the row itself where there is none."""
    return table[index] if projection is None else table[index] @ projection


def param_count(num_ids: int, width: int, dim: int) -> int:
    """n r + r D, and n D where r = D."""
    return num_ids * width + (width * dim if width < dim else 0)


def wider_first(index: int, tables: tuple[Any, Any], projections: tuple[Any | None, Any]) -> Any:
    """The first len(tables[0]) ids one column wider, with a projection of their own."""
    first = len(tables[0])
    if index < first:
        return embed(index, tables[0], projections[0])
    return embed(index - first, tables[1], projections[1])
