"""The compiled loops that look rows up; ``numba_tables.py`` calls them.

Layouts and results are those of ``numba_layout.py``.
"""

from typing import Any

import numpy as np
from numba import carray

from compactrec.embeddings.numba_jit import jit, share
from compactrec.embeddings.numba_lanes import (
    claim,
    integers,
    load1,
    prefetch,
    prefetch_to_write,
    splat4,
    store,
)
from compactrec.embeddings.numba_layout import AHEAD, DIM, LINE, ROWS, WEIGHT
from compactrec.embeddings.numba_vectors import add_scaled, assign_scaled, dot

__all__ = ["look_up_share", "weight_gradients"]

_ONE = np.float32(1)

SOURCES = "44464890fe67636d"
"""Of what is compiled into these loops from other files; kept code is old when it changes."""


@jit
def _look_up(
    tables: Any,
    parts: Any,
    values: Any,
    offsets: Any,
    scales: Any,
    out: Any,
    stride: Any,
    bags: Any,
    first: Any,
    last: Any,
) -> Any:
    """Write the sums of bags ``first .. last - 1``; ``scales``: address of weights of ids, or 0."""
    for p in range(parts.shape[0]):
        t = parts[p, 0]
        dim, rows, weight = tables[t, DIM], tables[t, ROWS], tables[t, WEIGHT]
        row_bytes = 4 * dim
        end = offsets[p * bags + last]
        high = offsets[p * bags + first]
        for b in range(first, last):
            low, high = high, offsets[p * bags + b + 1]
            to = out + 4 * (b * stride + parts[p, 1])
            for k in range(0, dim, LINE):
                prefetch_to_write(to, AHEAD * stride + k)
            if low == high:
                for k in range(0, dim, 4):
                    store(to, k, splat4(np.float32(0)))
            for i in range(low, high):
                if i + AHEAD < end:
                    for k in range(0, dim, LINE):
                        prefetch(weight + values[i + AHEAD] * row_bytes, k)
                row = values[i]
                if row < 0 or row >= rows:
                    return i
                scale = load1(scales, i) if scales else _ONE
                if i == low:
                    assign_scaled(to, weight + row * row_bytes, scale, dim)
                else:
                    add_scaled(to, weight + row * row_bytes, scale, dim)
    return -1


@jit
def weight_gradients(
    tables: Any,
    parts: Any,
    values: Any,
    offsets: Any,
    grad: Any,
    stride: Any,
    bags: Any,
    out: Any,
) -> Any:
    """Gradient of the weight of every id: its row times the gradient of its bag."""
    for p in range(parts.shape[0]):
        t = parts[p, 0]
        dim = tables[t, DIM]
        for b in range(bags):
            for i in range(offsets[p * bags + b], offsets[p * bags + b + 1]):
                row = values[i]
                if row < 0 or row >= tables[t, ROWS]:
                    return i
                at = grad + 4 * (b * stride + parts[p, 1])
                store(out, i, dot(tables[t, WEIGHT] + 4 * row * dim, at, dim))
    return -1


@share
def look_up_share(address: Any) -> None:
    """A piece is some bags: ``results, bounds, tables, their number, parts, their number, values,
    their number, offsets, scales, out, stride, bags``."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        results, bounds = integers(job[2]), integers(job[3])
        tables = carray(integers(job[4]), (job[5], 6))
        parts = carray(integers(job[6]), (job[7], 2))
        values, bags = carray(integers(job[8]), (job[9],)), job[14]
        offsets = carray(integers(job[10]), (job[7] * bags + 1,))
        results[piece] = _look_up(
            tables, parts, values, offsets, job[11], job[12], job[13], bags, bounds[piece],
            bounds[piece + 1],
        )  # fmt: skip
