"""Loops over the floats of a row, for other compiled loops; every width is allowed.

Addresses are of float32 memory, as in ``numba_lanes.py``. Rows of tables have a multiple of 4.
"""

from typing import Any

import numpy as np

from compactrec.embeddings.numba_jit import jit
from compactrec.embeddings.numba_lanes import load1, load4, load8, splat4, splat8, store, total

__all__ = ["add", "add_scaled", "assign_scaled", "clear", "dot", "multiply", "subtract"]


@jit
def clear(out: Any, count: Any) -> None:
    """``out = 0``"""
    zero = splat8(np.float32(0))
    for k in range(0, count - 7, 8):
        store(out, k, zero)
    for k in range(count & ~7, count):
        store(out, k, np.float32(0))


@jit
def assign_scaled(out: Any, x: Any, scale: Any, width: Any) -> None:
    """``out = scale x``"""
    for k in range(0, width - 7, 8):
        store(out, k, load8(x, k) * splat8(scale))
    done = width & ~7
    if width & 4:
        store(out, done, load4(x, done) * splat4(scale))
        done += 4
    for k in range(done, width):
        store(out, k, load1(x, k) * scale)


@jit
def add(out: Any, x: Any, width: Any) -> None:
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
def add_scaled(out: Any, x: Any, scale: Any, width: Any) -> None:
    """``out += scale x``"""
    for k in range(0, width - 7, 8):
        store(out, k, load8(out, k) + splat8(scale) * load8(x, k))
    done = width & ~7
    if width & 4:
        store(out, done, load4(out, done) + splat4(scale) * load4(x, done))
        done += 4
    for k in range(done, width):
        store(out, k, load1(out, k) + scale * load1(x, k))


@jit
def subtract(out: Any, x: Any, width: Any) -> None:
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
def multiply(out: Any, x: Any, y: Any, width: Any) -> None:
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
def dot(x: Any, y: Any, width: Any) -> Any:
    """``sum x y``"""
    found = splat8(np.float32(0))
    for k in range(0, width - 7, 8):
        found = found + load8(x, k) * load8(y, k)
    result = total(found)
    done = width & ~7
    if width & 4:
        result += total(load4(x, done) * load4(y, done))
        done += 4
    for k in range(done, width):
        result += load1(x, k) * load1(y, k)
    return result
