"""The compiled loops of ``columns.py``: the terms of a program, forwards and backwards.

``terms``, one line each, int64: kind, first column of ``v``, of ``w`` (where there are two) and of
the target, width of ``v``, width of the target, place of the first weight. All other arrays are
addresses of float32 memory: ``pooled (N, stride)``, ``out (N, dim)``, and gradients of their shape.
Rows are taken in strips that stay in the first cache. Gradients of weights are summed by blocks of
rows, a line for each, so that their sum does not depend on the number of threads.
"""

from typing import Any

from numba import carray

from compactrec.embeddings.numba_jit import jit, share
from compactrec.embeddings.numba_lanes import (
    claim,
    integers,
    load1,
    load4,
    load8,
    prefetch,
    prefetch_to_write,
    splat4,
    splat8,
    store,
)
from compactrec.embeddings.numba_vectors import add, add_scaled, clear, multiply, subtract

__all__ = [
    "ADD",
    "BLOCK",
    "MULTIPLY",
    "PROJECT",
    "SUBTRACT",
    "backward_share",
    "forward_share",
    "transpose",
]

ADD, SUBTRACT, MULTIPLY, PROJECT = range(4)
BLOCK, STRIP = 64, 8
"""Rows of a block, and of a strip: as many as a tile has."""
SOURCES = "44464890fe67636d"
"""Of what is compiled into these loops from other files; kept code is old when it changes."""


@jit
def _tile8(out: Any, wide: Any, x: Any, stride: Any, p: Any, dim: Any, inner: Any) -> None:
    """8 rows and 8 columns of :func:`_project`."""
    a, b = load8(out, 0), load8(out, wide)
    c, d = load8(out, 2 * wide), load8(out, 3 * wide)
    e, f = load8(out, 4 * wide), load8(out, 5 * wide)
    g, h = load8(out, 6 * wide), load8(out, 7 * wide)
    for i in range(inner):
        q = load8(p, i * dim)
        a, b = a + splat8(load1(x, i)) * q, b + splat8(load1(x, stride + i)) * q
        c = c + splat8(load1(x, 2 * stride + i)) * q
        d = d + splat8(load1(x, 3 * stride + i)) * q
        e = e + splat8(load1(x, 4 * stride + i)) * q
        f = f + splat8(load1(x, 5 * stride + i)) * q
        g = g + splat8(load1(x, 6 * stride + i)) * q
        h = h + splat8(load1(x, 7 * stride + i)) * q
    store(out, 0, a)
    store(out, wide, b)
    store(out, 2 * wide, c)
    store(out, 3 * wide, d)
    store(out, 4 * wide, e)
    store(out, 5 * wide, f)
    store(out, 6 * wide, g)
    store(out, 7 * wide, h)


@jit
def _tile4(out: Any, wide: Any, x: Any, stride: Any, p: Any, dim: Any, inner: Any) -> None:
    """8 rows and 4 columns of :func:`_project`."""
    a, b = load4(out, 0), load4(out, wide)
    c, d = load4(out, 2 * wide), load4(out, 3 * wide)
    e, f = load4(out, 4 * wide), load4(out, 5 * wide)
    g, h = load4(out, 6 * wide), load4(out, 7 * wide)
    for i in range(inner):
        q = load4(p, i * dim)
        a, b = a + splat4(load1(x, i)) * q, b + splat4(load1(x, stride + i)) * q
        c = c + splat4(load1(x, 2 * stride + i)) * q
        d = d + splat4(load1(x, 3 * stride + i)) * q
        e = e + splat4(load1(x, 4 * stride + i)) * q
        f = f + splat4(load1(x, 5 * stride + i)) * q
        g = g + splat4(load1(x, 6 * stride + i)) * q
        h = h + splat4(load1(x, 7 * stride + i)) * q
    store(out, 0, a)
    store(out, wide, b)
    store(out, 2 * wide, c)
    store(out, 3 * wide, d)
    store(out, 4 * wide, e)
    store(out, 5 * wide, f)
    store(out, 6 * wide, g)
    store(out, 7 * wide, h)


@jit
def _project(
    out: Any, wide: Any, x: Any, stride: Any, p: Any, rows: Any, inner: Any, dim: Any
) -> None:
    """``out += x @ P``, ``P (inner, dim)``, for ``rows`` rows: in tiles as far as they go."""
    done = 0
    if rows == STRIP:
        for k in range(0, dim - 7, 8):
            _tile8(out + 4 * k, wide, x, stride, p + 4 * k, dim, inner)
        done = dim & ~7
        if dim & 4:
            _tile4(out + 4 * done, wide, x, stride, p + 4 * done, dim, inner)
            done += 4
    if done < dim:
        for r in range(rows):
            for k in range(done, dim):
                s = load1(out, r * wide + k)
                for i in range(inner):
                    s += load1(x, r * stride + i) * load1(p, i * dim + k)
                store(out, r * wide + k, s)


@jit
def _outer_tile(out: Any, dim: Any, x: Any, stride: Any, g: Any, wide: Any, rows: Any) -> None:
    """4 rows and 16 columns of :func:`_outer`."""
    a, b, c, d = load8(out, 0), load8(out, dim), load8(out, 2 * dim), load8(out, 3 * dim)
    e, f = load8(out, 8), load8(out, dim + 8)
    u, v = load8(out, 2 * dim + 8), load8(out, 3 * dim + 8)
    for r in range(rows):
        at, p, q = r * stride, load8(g, r * wide), load8(g, r * wide + 8)
        s = splat8(load1(x, at))
        a, e = a + s * p, e + s * q
        s = splat8(load1(x, at + 1))
        b, f = b + s * p, f + s * q
        s = splat8(load1(x, at + 2))
        c, u = c + s * p, u + s * q
        s = splat8(load1(x, at + 3))
        d, v = d + s * p, v + s * q
    store(out, 0, a)
    store(out, dim, b)
    store(out, 2 * dim, c)
    store(out, 3 * dim, d)
    store(out, 8, e)
    store(out, dim + 8, f)
    store(out, 2 * dim + 8, u)
    store(out, 3 * dim + 8, v)


@jit
def _outer(
    out: Any, x: Any, stride: Any, g: Any, wide: Any, rows: Any, inner: Any, dim: Any
) -> None:
    """``out += x^T @ g``, ``out (inner, dim)``, over ``rows`` rows."""
    for i in range(0, inner - 3, 4):
        for k in range(0, dim - 15, 16):
            _outer_tile(out + 4 * (i * dim + k), dim, x + 4 * i, stride, g + 4 * k, wide, rows)
    for i in range(inner):
        done = 0 if i >= inner & ~3 else dim & ~15
        if done < dim:
            for r in range(rows):
                add_scaled(
                    out + 4 * (i * dim + done), g + 4 * (r * wide + done),
                    load1(x, r * stride + i), dim - done,
                )  # fmt: skip


@jit
def transpose(terms: Any, weights: Any, out: Any) -> None:
    """``out``: each ``P (inner, dim)`` of ``weights`` as ``(dim, inner)``, in its place."""
    for t in range(terms.shape[0]):
        if terms[t, 0] == PROJECT:
            inner, dim, place = terms[t, 4], terms[t, 5], terms[t, 6]
            for i in range(inner):
                for k in range(dim):
                    out[place + k * inner + i] = weights[place + i * dim + k]


@jit
def _ask_for(address: Any, count: Any) -> None:
    """Floats that will be read."""
    for k in range(0, count, 16):
        prefetch(address, k)


@jit
def _ask_to_write(address: Any, count: Any) -> None:
    """Floats that will be written."""
    for k in range(0, count, 16):
        prefetch_to_write(address, k)


@jit
def _forward(
    terms: Any, pooled: Any, weights: Any, out: Any, rows: Any, stride: Any, wide: Any
) -> None:
    """``out``, for ``rows`` rows; memory of the rows after them is asked for."""
    _ask_for(pooled + 4 * rows * stride, rows * stride)
    _ask_to_write(out + 4 * rows * wide, rows * wide)
    clear(out, rows * wide)
    for t in range(terms.shape[0]):
        kind, v, w, to, width, dim, place = terms[t]
        x, y = pooled + 4 * v, out + 4 * to
        if kind == PROJECT:
            _project(y, wide, x, stride, weights + 4 * place, rows, width, dim)
            continue
        for r in range(rows):
            if kind == ADD:
                add(y + 4 * r * wide, x + 4 * r * stride, width)
            elif kind == SUBTRACT:
                subtract(y + 4 * r * wide, x + 4 * r * stride, width)
            else:
                z = pooled + 4 * (r * stride + w)
                multiply(y + 4 * r * wide, x + 4 * r * stride, z, width)


@jit
def _backward(
    terms: Any,
    pooled: Any,
    transposed: Any,
    gradient: Any,
    of_pooled: Any,
    of_weights: Any,
    rows: Any,
    stride: Any,
    wide: Any,
) -> None:
    """``of_pooled`` and, added to what is there, ``of_weights``, for ``rows`` rows."""
    _ask_for(pooled + 4 * rows * stride, rows * stride)
    _ask_for(gradient + 4 * rows * wide, rows * wide)
    _ask_to_write(of_pooled + 4 * rows * stride, rows * stride)
    clear(of_pooled, rows * stride)
    for t in range(terms.shape[0]):
        kind, v, w, to, width, dim, place = terms[t]
        x, gx, g = pooled + 4 * v, of_pooled + 4 * v, gradient + 4 * to
        if kind == PROJECT:
            _project(gx, stride, g, wide, transposed + 4 * place, rows, dim, width)
            _outer(of_weights + 4 * place, x, stride, g, wide, rows, width, dim)
            continue
        for r in range(rows):
            i, k = 4 * r * stride, 4 * r * wide
            if kind == ADD:
                add(gx + i, g + k, width)
            elif kind == SUBTRACT:
                subtract(gx + i, g + k, width)
            else:
                multiply(gx + i, g + k, pooled + 4 * w + i, width)
                multiply(of_pooled + 4 * w + i, g + k, x + i, width)


@share
def forward_share(address: Any) -> None:
    """A piece is some rows: ``bounds, terms, their number, pooled, weights, out, stride, dim``."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        bounds, terms = integers(job[2]), carray(integers(job[3]), (job[4], 7))
        stride, dim = job[8], job[9]
        for first in range(bounds[piece], bounds[piece + 1], STRIP):
            _forward(
                terms, job[5] + 4 * first * stride, job[6], job[7] + 4 * first * dim,
                min(STRIP, bounds[piece + 1] - first), stride, dim,
            )  # fmt: skip


@share
def backward_share(address: Any) -> None:
    """A piece is some blocks: ``bounds, terms, their number, pooled, transposed, gradient, of
    pooled, of weights, their number, rows, stride, dim``; a block's gradients of weights are its
    own line."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        bounds, terms = integers(job[2]), carray(integers(job[3]), (job[4], 7))
        rows, stride, dim = job[11], job[12], job[13]
        for block in range(bounds[piece], bounds[piece + 1]):
            own = job[9] + 4 * block * job[10]
            clear(own, job[10])
            last = min((block + 1) * BLOCK, rows)
            for first in range(block * BLOCK, last, STRIP):
                _backward(
                    terms, job[5] + 4 * first * stride, job[6], job[7] + 4 * first * dim,
                    job[8] + 4 * first * stride, own, min(STRIP, last - first), stride, dim,
                )  # fmt: skip
