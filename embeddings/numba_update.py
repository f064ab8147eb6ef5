"""The compiled loops that update tables; ``numba_tables.py`` calls them.

Layouts and results are those of ``numba_layout.py``.
"""

from typing import Any

import numpy as np
from numba import carray

from compactrec.embeddings.numba_jit import jit, share
from compactrec.embeddings.numba_lanes import (
    claim,
    floats,
    integers,
    load1,
    load4,
    load8,
    prefetch,
    prefetch_to_write,
    root,
    small_integers,
    splat4,
    splat8,
    store,
)
from compactrec.embeddings.numba_layout import (
    ADAGRAD,
    ADAM,
    AHEAD,
    DIM,
    FIRST_PART,
    LINE,
    ROWS,
    ROWWISE_ADAGRAD,
    SGD,
    STATE1,
    STATE2,
    WEIGHT,
)
from compactrec.embeddings.numba_vectors import add_scaled, assign_scaled, dot

__all__ = ["update_share"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.float32(1)

SOURCES = "44464890fe67636d"
"""Of what is compiled into these loops from other files; kept code is old when it changes."""


@jit
def _adagrad(w: Any, s: Any, g: Any, dim: Any, rate: Any, eps: Any) -> None:
    """``s += g^2; w -= rate g / (sqrt(s) + eps)``"""
    for k in range(0, dim - 7, 8):
        x = load8(g, k)
        y = load8(s, k) + x * x
        store(s, k, y)
        store(w, k, load8(w, k) - splat8(rate) * x / (root(y) + splat8(eps)))
    if dim & 4:
        k = dim - 4
        a = load4(g, k)
        b = load4(s, k) + a * a
        store(s, k, b)
        store(w, k, load4(w, k) - splat4(rate) * a / (root(b) + splat4(eps)))


@jit
def _adam(
    w: Any, m: Any, v: Any, g: Any, dim: Any, rate: Any, eps: Any, second: Any, b1: Any, b2: Any
) -> None:
    """``m, v`` move towards ``g, g^2``; ``w -= rate m / (sqrt(second v) + eps)``"""
    for k in range(0, dim - 7, 8):
        x = load8(g, k)
        y = load8(m, k) * splat8(b1) + x * splat8(_ONE - b1)
        z = load8(v, k) * splat8(b2) + x * x * splat8(_ONE - b2)
        store(m, k, y)
        store(v, k, z)
        step = splat8(rate) * y / (root(z * splat8(second)) + splat8(eps))
        store(w, k, load8(w, k) - step)
    if dim & 4:
        k = dim - 4
        a = load4(g, k)
        b = load4(m, k) * splat4(b1) + a * splat4(_ONE - b1)
        c = load4(v, k) * splat4(b2) + a * a * splat4(_ONE - b2)
        store(m, k, b)
        store(v, k, c)
        part = splat4(rate) * b / (root(c * splat4(second)) + splat4(eps))
        store(w, k, load4(w, k) - part)


@jit
def _sum(
    tables: Any,
    parts: Any,
    values: Any,
    offsets: Any,
    scales: Any,
    grad: Any,
    stride: Any,
    bags: Any,
    unit: Any,
    slots: Any,
    distinct: Any,
    sums: Any,
) -> Any:
    """Sum the gradients of each row, in the order of ids; how many rows, or ``-1 - i`` of a bad id.

    ``slots`` is a hash table, filled anew, from rows to places in ``distinct`` and ``sums``.
    """
    t, piece, pieces = unit
    dim, rows = tables[t, DIM], tables[t, ROWS]
    ids = offsets[tables[t + 1, FIRST_PART] * bags] - offsets[tables[t, FIRST_PART] * bags]
    size, shift = 4, 62
    while size < 2 * ids:
        size *= 2
        shift -= 1
    direct = rows <= size
    if direct:
        size = rows
    slots[:size] = -1
    count = 0
    for p in range(tables[t, FIRST_PART], tables[t + 1, FIRST_PART]):
        high = offsets[p * bags]
        for b in range(bags):
            low, high = high, offsets[p * bags + b + 1]
            at = grad + 4 * (b * stride + parts[p, 1])
            for k in range(0, dim, LINE):
                prefetch(at, AHEAD * stride + k)
            for i in range(low, high):
                row = values[i]
                if row < 0 or row >= rows:
                    return -1 - i
                mixed = np.uint64(row) * _GOLDEN
                if pieces > 1 and np.int64(mixed >> np.uint64(40)) * pieces >> 24 != piece:
                    continue
                h = row if direct else np.int64(mixed >> np.uint64(shift))
                s = slots[h]
                while s >= 0 and distinct[s] != row:
                    h = (h + 1) & (size - 1)
                    s = slots[h]
                scale = load1(scales, i) if scales else _ONE
                if s < 0:
                    slots[h] = count
                    distinct[count] = row
                    assign_scaled(sums + 4 * count * dim, at, scale, dim)
                    count += 1
                else:
                    add_scaled(sums + 4 * np.int64(s) * dim, at, scale, dim)
    return count


@jit
def _ask_for(kind: Any, tables: Any, t: Any, row: Any, state_dim: Any) -> None:
    """Have the memory of a row brought near: its weights and what the optimizer keeps of it."""
    dim = tables[t, DIM]
    for k in range(0, dim, LINE):
        prefetch_to_write(tables[t, WEIGHT] + 4 * row * dim, k)
    if kind != SGD:
        for k in range(0, state_dim, LINE):
            prefetch_to_write(tables[t, STATE1] + 4 * row * state_dim, k)
    if kind == ADAM:
        for k in range(0, dim, LINE):
            prefetch_to_write(tables[t, STATE2] + 4 * row * dim, k)


@jit
def _update(
    kind: Any,
    tables: Any,
    parts: Any,
    values: Any,
    offsets: Any,
    scales: Any,
    grad: Any,
    stride: Any,
    bags: Any,
    units: Any,
    rates: Any,
    settings: Any,
    slots: Any,
    distinct: Any,
    sums: Any,
) -> Any:
    """One step of the optimizer on every distinct row.

    Args:
        units: table, piece, pieces per line; a piece has the rows with ``hash(row) * pieces``
            in its part of the range, so that threads share a table and no row.
        rates: per table the learning rate (Adam: over ``1 - b1^t``), and ``1 / (1 - b2^t)``.
        settings: eps, weight decay inside the rule, b1, b2.
        slots: int32, and ``distinct``, int64: scratch. ``sums``: address of scratch, floats.
    """
    eps, decay, b1, b2 = settings[0], settings[1], settings[2], settings[3]
    for u in range(units.shape[0]):
        t = units[u, 0]
        unit = (t, units[u, 1], units[u, 2])
        count = _sum(
            tables, parts, values, offsets, scales, grad, stride, bags, unit, slots, distinct, sums
        )
        if count < 0:
            return -1 - count
        dim, rate = tables[t, DIM], rates[t, 0]
        state_dim = 1 if kind == ROWWISE_ADAGRAD else dim
        for s in range(count):
            if s + AHEAD < count:
                _ask_for(kind, tables, t, distinct[s + AHEAD], state_dim)
            row = distinct[s]
            w = tables[t, WEIGHT] + 4 * row * dim
            m = tables[t, STATE1] + 4 * row * state_dim
            g = sums + 4 * s * dim
            if decay:
                add_scaled(g, w, decay, dim)
            if kind == SGD:
                add_scaled(w, g, -rate, dim)
            elif kind == ROWWISE_ADAGRAD:
                square = load1(m, 0) + dot(g, g, dim) / np.float32(dim)
                store(m, 0, square)
                add_scaled(w, g, -rate / (np.sqrt(square) + eps), dim)
            elif kind == ADAGRAD:
                _adagrad(w, m, g, dim, rate, eps)
            else:
                v = tables[t, STATE2] + 4 * row * dim
                _adam(w, m, v, g, dim, rate, eps, rates[t, 1], b1, b2)
    return -1


@share
def update_share(address: Any) -> None:
    """A piece is what :func:`numba_tables.divide` makes: ``results, bounds of units, tables, their
    number, parts, their number, values, their number, offsets, scales, gradient, stride, bags,
    kind, units, rates, settings, scratch``, the latter ``slots, distinct, sums, ids`` per piece."""
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
        first, last = bounds[piece], bounds[piece + 1]
        units = carray(integers(job[16] + 24 * first), (last - first, 3))
        rates = carray(floats(job[17]), (job[5] - 1, 2))
        settings = carray(floats(job[18]), (4,))
        scratch = carray(integers(job[19] + 32 * piece), (4,))
        ids = scratch[3]
        results[piece] = _update(
            job[15], tables, parts, values, offsets, job[11], job[12], job[13], bags, units, rates,
            settings, carray(small_integers(scratch[0]), (max(8, 4 * ids),)),
            carray(integers(scratch[1]), (ids,)), scratch[2],
        )  # fmt: skip
