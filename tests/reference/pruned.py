"""Dense sub-tables: blocks of kept rows, each with some of the D columns.

    e(x)_c = E_b[y - t_b][j]   where y is the row of x, b its block and c the j-th column of b
             0                 where x has no row, or c is no column of b

The rows of block b are t_b .. t_b + n_b - 1 with t_b = n_0 + ... + n_{b-1}. The row of x is x, or
the number of kept ids before x, or what a list says.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["embed", "param_count", "rank"]


def rank(index: int, kept: Sequence[int]) -> int | None:
    """How many ids before `index` are kept; None where it is not kept itself."""
    return sum(i < index for i in kept) if index in kept else None


def embed(
    row: int | None, tables: Sequence[Any], columns: Sequence[Sequence[int]], zeros: Any
) -> Any:
    """The vector of a row, filled into `zeros` (D,); `tables[b]` is None where b has no columns."""
    if row is None:
        return zeros
    for table, rows, places in _blocks(tables, columns):
        if row >= rows:
            row -= rows
            continue
        for j, place in enumerate(places):
            zeros[place] = table[row][j]
        return zeros
    return zeros


def _blocks(tables: Sequence[Any], columns: Sequence[Sequence[int]]) -> list[tuple[Any, int, Any]]:
    return [(t, len(t), places) for t, places in zip(tables, columns, strict=True)]


def param_count(rows: Sequence[int], columns: Sequence[Sequence[int]]) -> int:
    """sum n_b d_b."""
    return sum(n * len(places) for n, places in zip(rows, columns, strict=True))
