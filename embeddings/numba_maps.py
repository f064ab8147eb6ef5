"""The compiled loops of ``compiled_maps.py``: the maps of a rewrite, and the check of its ids.

``streams``, one line each, int64: kind, first id of ``values``, number of ids, first place of
``out``, three parameters, address of the first number of its array, how many numbers it has.
Division is by multiplication: ``m = min(2^64 div d, 2^64 - 1)`` gives ``x div d`` or one less, for
all ``0 <= x < 2^63``.
"""

from typing import Any

import numpy as np
from numba import carray

from compactrec.embeddings.numba_jit import jit, share
from compactrec.embeddings.numba_lanes import (
    claim,
    high,
    integers,
    load1,
    ones,
    small_integers,
    store,
)

__all__ = [
    "CLIP",
    "DIGIT",
    "HASH",
    "IDENTITY",
    "KEEP",
    "LINE",
    "LOOK_UP",
    "RANK",
    "REMAP",
    "check_share",
    "map_share",
    "place_share",
    "route_share",
]

IDENTITY, DIGIT, HASH, KEEP, CLIP, LOOK_UP, REMAP, RANK = range(8)
LINE = 9
"""Numbers of a stream's line."""
SOURCES = "44464890fe67636d"
"""Of what is compiled into these loops from other files; kept code is old when it changes."""

_ADD = np.uint64(0x9E3779B97F4A7C15)
_MUL1, _MUL2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S1, _S27, _S30, _S31 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31)


@jit
def _modulo(x: Any, d: Any, m: Any) -> Any:
    r = x - high(x, m) * d
    return r - d if r >= d else r


@jit
def _divided(x: Any, d: Any, m: Any) -> Any:
    q = high(x, m)
    return q + 1 if x - q * d >= d else q


@jit
def _magic(d: Any) -> Any:
    """``min(2^64 div d, 2^64 - 1)`` as int64, for ``d >= 1``."""
    if d == 1:
        return np.int64(-1)
    top = np.uint64(0xFFFFFFFFFFFFFFFF)
    q = top // np.uint64(d)
    return np.int64(q + np.uint64(1) if top - q * np.uint64(d) + _S1 == np.uint64(d) else q)


@jit
def _hash(x: Any, salt: Any) -> Any:
    """``h(x; s)`` before its modulus, see ``hashing.py``."""
    y = np.uint64(x ^ salt) + _ADD
    y = (y ^ (y >> _S30)) * _MUL1
    y = (y ^ (y >> _S27)) * _MUL2
    return np.int64((y ^ (y >> _S31)) >> _S1)


@jit
def _digits(x: Any, out: Any, divisor: Any, modulus: Any) -> None:
    m, n = _magic(divisor), _magic(modulus)
    if divisor == 1:
        for i in range(x.shape[0]):
            out[i] = _modulo(x[i], modulus, n)
    else:
        for i in range(x.shape[0]):
            out[i] = _modulo(_divided(x[i], divisor, m), modulus, n)


@jit
def _hashes(x: Any, out: Any, salt: Any, modulus: Any) -> None:
    m = _magic(modulus)
    for i in range(x.shape[0]):
        out[i] = _modulo(_hash(x[i], salt), modulus, m)


@jit
def _looked_up(x: Any, out: Any, rows: Any) -> Any:
    for i in range(x.shape[0]):
        if x[i] < 0 or x[i] >= rows.shape[0]:
            return i
        out[i] = rows[x[i]]
    return -1


@jit
def _remapped(x: Any, out: Any, rows: Any, dropped: Any) -> Any:
    for i in range(x.shape[0]):
        if x[i] < 0 or x[i] >= rows.shape[0]:
            return i
        row = np.int64(rows[x[i]])
        out[i] = dropped if row < 0 else row
    return -1


@jit
def _ranked(x: Any, out: Any, index: Any, dropped: Any, num_words: Any) -> Any:
    """See ``bitmap.py``."""
    for i in range(x.shape[0]):
        bit = x[i]
        if bit < 0 or bit >> 6 >= num_words:
            return i
        place = bit >> 6
        word, rank = index[place], index[num_words + (bit >> 8)]
        below = ones(word & ((np.int64(1) << (bit & 63)) - 1))
        known = (rank >> 24) + (((rank << 8) >> ((place & 3) << 3)) & 255) + below
        out[i] = known if (word >> (bit & 63)) & 1 else dropped
    return -1


@jit
def _map(line: Any, x: Any, out: Any) -> Any:
    kind, a, b, array, size = line[0], line[4], line[5], line[7], line[8]
    if kind == DIGIT:
        _digits(x, out, a, b)
    elif kind == HASH:
        _hashes(x, out, a, b)
    elif kind == KEEP:
        for i in range(x.shape[0]):
            out[i] = x[i] if x[i] < a else 0
    elif kind == CLIP:
        for i in range(x.shape[0]):
            out[i] = min(x[i], a)
    elif kind == LOOK_UP:
        return _looked_up(x, out, carray(integers(array), (size,)))
    elif kind == REMAP:
        return _remapped(x, out, carray(small_integers(array), (size,)), a)
    elif kind == RANK:
        return _ranked(x, out, carray(integers(array), (size,)), a, b)
    else:
        for i in range(x.shape[0]):
            out[i] = x[i]
    return -1


@share
def map_share(address: Any) -> None:
    """A piece is a stream: ``results, streams, values, out``. A result is -1, or the place among
    the stream's ids of one that its array does not have."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        line = carray(integers(job[3] + 8 * LINE * piece), (LINE,))
        x = carray(integers(job[4] + 8 * line[1]), (line[2],))
        out = carray(integers(job[5] + 8 * line[3]), (line[2],))
        carray(integers(job[2]), (job[1],))[piece] = _map(line, x, out)


@share
def check_share(address: Any) -> None:
    """A piece is a feature: ``results, starts, bounds, values``. A result is not 0 where an id is
    not in ``0 .. bound``."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        starts, bound = integers(job[3]), integers(job[4])[piece]
        first = starts[piece]
        x = carray(integers(job[5] + 8 * first), (starts[piece + 1] - first,))
        bad = np.int64(0)
        for i in range(x.shape[0]):
            bad |= x[i] | (bound - x[i])  # negative where one of them is
        carray(integers(job[2]), (job[1],))[piece] = bad < 0


@jit
def _route(
    line: Any, blocks: Any, x: Any, lengths: Any, parts: Any, rows: Any, grid: Any, counts: Any
) -> None:
    """Where each id goes, how many a bag of a part has, and a part."""
    i = 0
    for b in range(grid.shape[1]):
        end = i + (lengths[b] if lengths.shape[0] else 1)
        while i < end:
            k = line[4] - 1
            while k > line[3] and x[i] < blocks[k, 0]:
                k -= 1
            local, lanes = x[i] - blocks[k, 0], blocks[k, 2]
            part, row = blocks[k, 1], local
            if local < 0:  # an id that nobody has checked
                part = -1
            elif part >= 0 and lanes > 1:
                row = _divided(local, lanes, blocks[k, 3])
                part += local - row * lanes
            parts[i], rows[i] = part, row
            if part >= 0:
                grid[part, b] += 1
                counts[part] += 1
            i += 1


@share
def route_share(address: Any) -> None:
    """A piece is a stream of blocks: ``streams, blocks, their number, bags, ids, lengths or 0,
    parts, rows, grid of lengths (parts, bags), counts of parts, their number``.

    ``streams``, int64: first id, number of ids, number, first block, last block + 1. ``blocks``:
    first row, first part or -1, lanes, 2^64 div lanes."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        line = carray(integers(job[2] + 40 * piece), (5,))
        bags, first, count = job[5], line[0], line[1]
        lengths = carray(integers(job[7] + 8 * bags * piece), (bags if job[7] else 0,))
        _route(
            line, carray(integers(job[3]), (job[4], 4)),
            carray(integers(job[6] + 8 * first), (count,)), lengths,
            carray(integers(job[8] + 8 * first), (count,)),
            carray(integers(job[9] + 8 * first), (count,)),
            carray(integers(job[10]), (job[12], bags)), carray(integers(job[11]), (job[12],)),
        )  # fmt: skip


@share
def place_share(address: Any) -> None:
    """A piece is a stream: ``streams, parts, rows, next place of each part, out, weights or 0,
    weights out``. Ids keep their order within a part."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        line = carray(integers(job[2] + 40 * piece), (5,))
        parts, rows, places = integers(job[3]), integers(job[4]), integers(job[5])
        out = integers(job[6])
        for i in range(line[0], line[0] + line[1]):
            part = parts[i]
            if part >= 0:
                to = places[part]
                places[part] = to + 1
                out[to] = rows[i]
                if job[7]:
                    store(job[8], to, load1(job[7], i))
