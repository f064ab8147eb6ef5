"""How rows of any width are stored in tables whose width is a multiple of 4.

A row of w numbers shares a physical row with others so that the physical width is a multiple of
4: with L = 4 / gcd(w, 4), logical row y is the columns (y mod L) w .. (y mod L + 1) w of physical
row y div L. There are ceil(n / L) physical rows.
"""

import math
from typing import Any

from tests.reference.pooling import stack

__all__ = ["lanes", "packed_shape", "unpack"]


def lanes(width: int) -> int:
    """Logical rows in one physical row."""
    return 4 // math.gcd(width, 4)


def packed_shape(num_rows: int, width: int) -> tuple[int, int]:
    """Shape of the physical table."""
    return -(-num_rows // lanes(width)), width * lanes(width)


def unpack(table: Any, num_rows: int, width: int) -> Any:
    """The logical table (num_rows, width) inside a physical one."""
    if tuple(table.shape) != packed_shape(num_rows, width):
        raise ValueError(f"{tuple(table.shape)} does not hold {num_rows} rows of {width}")
    share = lanes(width)
    return stack(
        [table[y // share][(y % share) * width : (y % share + 1) * width] for y in range(num_rows)]
    )
