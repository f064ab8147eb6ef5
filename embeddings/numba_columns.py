"""The compiled loops of ``columns.py``: the terms of a program, forwards and backwards.

``terms``, one line each, int64: kind, first column of ``v``, of ``w`` (where there are two) and of
the target, width of ``v``, width of the target, place of the first weight. All other arrays are
addresses of float32 memory: ``pooled (N, stride)``, ``out (N, dim)``, and gradients of their shape.
Rows are taken in blocks that stay in cache; a block's gradients of weights are its own line, so
that their sum does not depend on the number of threads.
"""

from typing import Any

import numpy as np

from compactrec.embeddings.numba_jit import jit
from compactrec.embeddings.numba_lanes import (
    load1,
    load4,
    load8,
    splat4,
    splat8,
    store,
    total,
)

__all__ = ["ADD", "BLOCK", "LANES", "MULTIPLY", "PROJECT", "SUBTRACT", "backward", "forward"]

ADD, SUBTRACT, MULTIPLY, PROJECT = range(4)
BLOCK = 64
"""Rows of a block."""
LANES = "c46943a1bd21d8b1"
"""Of ``numba_lanes.py``: first 16 digits of its sha256. Kept code is old when this file changes."""


@jit
def _clear(out: Any, count: Any) -> None:
    zero = splat8(np.float32(0))
    for k in range(0, count - 7, 8):
        store(out, k, zero)
    for k in range(count & ~7, count):
        store(out, k, np.float32(0))


@jit
def _add(out: Any, x: Any, width: Any) -> None:
    """``out += x``"""
    for k in range(0, width - 7, 8):
        store(out, k, load8(out, k) + load8(x, k))
    done = width & ~7
    if width & 4:
        store(out, done, load4(out, done) + load4(x, done))
        done += 4
    for k in range(done, width):
        store(out, k, load1(out, k) + load1(x, k))


@jit
def _subtract(out: Any, x: Any, width: Any) -> None:
    """``out -= x``"""
    for k in range(0, width - 7, 8):
        store(out, k, load8(out, k) - load8(x, k))
    done = width & ~7
    if width & 4:
        store(out, done, load4(out, done) - load4(x, done))
        done += 4
    for k in range(done, width):
        store(out, k, load1(out, k) - load1(x, k))


@jit
def _multiply(out: Any, x: Any, y: Any, width: Any) -> None:
    """``out += x * y``"""
    for k in range(0, width - 7, 8):
        store(out, k, load8(out, k) + load8(x, k) * load8(y, k))
    done = width & ~7
    if width & 4:
        store(out, done, load4(out, done) + load4(x, done) * load4(y, done))
        done += 4
    for k in range(done, width):
        store(out, k, load1(out, k) + load1(x, k) * load1(y, k))


@jit
def _project(out: Any, x: Any, p: Any, width: Any, dim: Any) -> None:
    """``out += x @ P``, ``P (width, dim)``"""
    for k in range(0, dim - 7, 8):
        y = load8(out, k)
        for i in range(width):
            y = y + splat8(load1(x, i)) * load8(p, i * dim + k)
        store(out, k, y)
    done = dim & ~7
    if dim & 4:
        z = load4(out, done)
        for i in range(width):
            z = z + splat4(load1(x, i)) * load4(p, i * dim + done)
        store(out, done, z)
        done += 4
    for k in range(done, dim):
        s = load1(out, k)
        for i in range(width):
            s += load1(x, i) * load1(p, i * dim + k)
        store(out, k, s)


@jit
def _project_back(gx: Any, gp: Any, g: Any, x: Any, p: Any, width: Any, dim: Any) -> None:
    """``gx += g @ P^T; gP += x^T g``"""
    for i in range(width):
        scale, line = load1(x, i), i * dim
        found = splat8(np.float32(0))
        for k in range(0, dim - 7, 8):
            y = load8(g, k)
            found = found + y * load8(p, line + k)
            store(gp, line + k, load8(gp, line + k) + splat8(scale) * y)
        s = load1(gx, i) + total(found)
        done = dim & ~7
        if dim & 4:
            z = load4(g, done)
            s += total(z * load4(p, line + done))
            store(gp, line + done, load4(gp, line + done) + splat4(scale) * z)
            done += 4
        for k in range(done, dim):
            s += load1(g, k) * load1(p, line + k)
            store(gp, line + k, load1(gp, line + k) + scale * load1(g, k))
        store(gx, i, s)


@jit
def forward(
    terms: Any,
    pooled: Any,
    weights: Any,
    out: Any,
    rows: Any,
    stride: Any,
    total_dim: Any,
    first: Any,
    last: Any,
) -> None:
    """``out``, for the blocks ``first .. last - 1``."""
    for block in range(first, last):
        begin, end = block * BLOCK, min((block + 1) * BLOCK, rows)
        _clear(out + 4 * begin * total_dim, (end - begin) * total_dim)
        for t in range(terms.shape[0]):
            kind, v, w, to, width, dim, place = terms[t]
            for r in range(begin, end):
                x = pooled + 4 * (r * stride + v)
                y = out + 4 * (r * total_dim + to)
                if kind == ADD:
                    _add(y, x, width)
                elif kind == SUBTRACT:
                    _subtract(y, x, width)
                elif kind == MULTIPLY:
                    _multiply(y, x, pooled + 4 * (r * stride + w), width)
                else:
                    _project(y, x, weights + 4 * place, width, dim)


@jit
def backward(
    terms: Any,
    pooled: Any,
    weights: Any,
    gradient: Any,
    of_pooled: Any,
    of_weights: Any,
    rows: Any,
    stride: Any,
    total_dim: Any,
    num_weights: Any,
    first: Any,
    last: Any,
) -> None:
    """``of_pooled`` and, a line for each block, ``of_weights``, for the blocks ``first ..``."""
    for block in range(first, last):
        begin, end = block * BLOCK, min((block + 1) * BLOCK, rows)
        _clear(of_pooled + 4 * begin * stride, (end - begin) * stride)
        own = of_weights + 4 * block * num_weights
        _clear(own, num_weights)
        for t in range(terms.shape[0]):
            kind, v, w, to, width, dim, place = terms[t]
            for r in range(begin, end):
                x, gx = pooled + 4 * (r * stride + v), of_pooled + 4 * (r * stride + v)
                g = gradient + 4 * (r * total_dim + to)
                if kind == ADD:
                    _add(gx, g, width)
                elif kind == SUBTRACT:
                    _subtract(gx, g, width)
                elif kind == MULTIPLY:
                    _multiply(gx, g, pooled + 4 * (r * stride + w), width)
                    _multiply(of_pooled + 4 * (r * stride + w), g, x, width)
                else:
                    _project_back(gx, own + 4 * place, g, x, weights + 4 * place, width, dim)
