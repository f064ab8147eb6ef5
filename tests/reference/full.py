"""Full table: e(id) = E[id], one row per id (the upper reference of every comparison)."""

from typing import Any

__all__ = ["embed", "param_count"]


def embed(index: int, table: Any) -> Any:
    """Row `index` of `table` (n, D)."""
    return table[index]


def param_count(num_ids: int, dim: int) -> int:
    """n D scalars."""
    return num_ids * dim
