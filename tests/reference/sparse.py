"""Single values: a mask says which entries of a table (n, D) there are.

    e(x)_c = v[q(x, c)]  where the mask has (x, c), else 0

q numbers the entries column by column, and within a column by id. The values are stored in four
columns of R = ceil(Q / 4) rows, a quarter of the numbers in each: value q is S[q mod R][q div R].
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["embed", "num_values", "number"]

Mask = Sequence[Sequence[int]]


def num_values(mask: Mask) -> int:
    """Q, the kept values."""
    return sum(sum(row) for row in mask)


def number(mask: Mask, index: int, column: int) -> int:
    """q: entries in columns before, and in this column of ids before."""
    before = sum(row[c] for row in mask for c in range(column))
    return before + sum(mask[i][column] for i in range(index))


def embed(mask: Mask, index: int, stored: Any, zeros: Any) -> Any:
    """The vector of an id, filled into `zeros` (D,); `stored` is S (R, 4)."""
    num_rows = -(-num_values(mask) // 4)
    for column, kept in enumerate(mask[index]):
        if kept:
            q = number(mask, index, column)
            zeros[column] = stored[q % num_rows][q // num_rows]
    return zeros
