"""Widths of the mixed-dimension method: the popularity rule, its rounding and its budget."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compactrec.embeddings.packing import num_lanes

__all__ = [
    "Rounding",
    "equipartition",
    "fill",
    "mixed_scalars",
    "next_width",
    "popularity_dims",
    "widenable",
]

Rounding = Literal["nearest", "packed", "pow2", "multiple", "floor", "ceil"]


def popularity_dims(
    popularity: Sequence[float],
    alpha: float,
    base_dim: int,
    *,
    scale: float | None = None,
    rounding: Rounding = "nearest",
    multiple: int = 4,
    min_dim: int = 1,
) -> list[int]:
    """``d_b = lambda * p_b^alpha``, clipped to ``[min_dim, base_dim]`` and rounded.

    Args:
        popularity: average lookups per row of every block, ``p_b > 0``.
        alpha: temperature; 0 gives equal widths, 1 widths in proportion to popularity.
        base_dim: the logical width D.
        scale: lambda; by default ``D * max(p)^-alpha``, so that the most popular block gets D.
        rounding: see :func:`round_dim`.
    """
    if alpha < 0 or any(p <= 0 for p in popularity):
        raise ValueError(
            f"mixed: alpha must be >= 0 and every popularity > 0, got alpha {alpha} and a smallest "
            f"popularity of {min(popularity)}"
        )
    if rounding == "multiple" and (base_dim % multiple or multiple < 1):
        raise ValueError(f"mixed: base width {base_dim} must be a multiple of {multiple}")
    most = max(popularity)
    factor = base_dim if scale is None else scale * most**alpha
    dims = []
    for p in popularity:
        real = min(float(base_dim), max(float(min_dim), factor * (p / most) ** alpha))
        # The widest keeps the base width, also where that is no power of two.
        rounded = base_dim if real >= base_dim else round_dim(real, rounding, multiple)
        dims.append(max(min_dim, min(base_dim, rounded)))
    return dims


def round_dim(real: float, rounding: Rounding, multiple: int = 4) -> int:
    """Round a width: to the nearest integer, a power of two, a multiple, down or up.

    ``packed``: 1, 2 or a multiple of 4, the widths that are read without waste.
    """
    if rounding == "packed":
        return min(
            (1, 2) if real < 3 else (4 * max(1, round(real / 4)),), key=lambda d: abs(d - real)
        )
    if rounding == "pow2":
        return int(2 ** round(math.log2(real)))
    if rounding == "multiple":
        return multiple * max(1, round(real / multiple))
    if rounding == "floor":
        return max(1, math.floor(real + 1e-9))
    if rounding == "ceil":
        return math.ceil(real - 1e-9)
    return max(1, round(real))


def mixed_scalars(rows: Sequence[int], dims: Sequence[int], base_dim: int) -> int:
    """``sum n_b d_b + D * sum_{d_b < D} d_b``, rows padded as they are stored."""
    tables = sum(
        math.ceil(n / num_lanes(d)) * num_lanes(d) * d for n, d in zip(rows, dims, strict=True)
    )
    return tables + base_dim * sum(d for d in dims if d < base_dim)


def fill(
    dims: Sequence[int],
    limits: Sequence[int],
    rows: Sequence[int],
    popularity: Sequence[float],
    spare: int,
    step: Callable[[int], int],
) -> list[int]:
    """Spend ``spare`` scalars: widen blocks, most popular first, never past a more popular one.

    ``step`` gives the width that follows one.
    """
    out = list(dims)
    spare -= 64 * len(out)  # the integer state of a packed block differs from a plain one's
    moved = True
    while moved:
        moved = False
        for i, wider in widenable(out, limits, popularity, step):
            now = mixed_scalars([rows[i]], [out[i]], limits[i])
            cost = mixed_scalars([rows[i]], [wider], limits[i]) - now
            if cost <= spare:
                out[i] = wider
                spare -= cost
                moved = True
    return out


def widenable(
    dims: Sequence[int],
    limits: Sequence[int],
    popularity: Sequence[float],
    step: Callable[[int], int],
) -> Iterator[tuple[int, int]]:
    """Blocks that may be wider, most popular first, and how wide: never past a more popular one,
    unless that has its feature's whole width.

    Looks at ``dims`` as it goes, so that these may change on the way.
    """
    above = max(limits)
    for i in sorted(range(len(dims)), key=lambda i: -popularity[i]):
        wider = min(step(dims[i]), limits[i])
        if dims[i] < wider <= above:
            yield i, wider
        if dims[i] < limits[i]:
            above = dims[i]


def next_width(dim: int, rounding: Rounding, multiple: int) -> int:
    """The width that follows ``dim`` in a rounding."""
    if rounding == "pow2" or (rounding == "packed" and dim < 4):
        return int(2 ** (math.floor(math.log2(dim)) + 1))
    if rounding == "packed":
        return 4 * (dim // 4 + 1)
    return dim + (multiple if rounding == "multiple" else 1)


def equipartition(
    frequency: NDArray[np.int64], num_blocks: int
) -> tuple[list[int], NDArray[np.int64] | None]:
    """Cut rows, most frequent first, into runs of equal total frequency.

    Ties keep the order of ids. Where ids from 1 on are in order of frequency, id 0 stays in front,
    however frequent: at most one row is wider than it should be, and no remap is needed. A cut
    falls at the first row where the cumulative frequency reaches ``(b + 1) / num_blocks`` of the
    total; rows never seen go to the last block; empty blocks are dropped.

    Returns:
        Rows per block, and the map id -> rank, None where ids are numbered that way already.
    """
    if num_blocks < 1 or len(frequency) < 1:
        raise ValueError(f"need num_blocks >= 1 and rows, got {num_blocks} and {len(frequency)}")
    remap, ranked = None, frequency
    if np.any(np.diff(frequency[1:]) > 0):
        order = np.argsort(-frequency, kind="stable")
        ranked = frequency[order]
        remap = np.empty_like(order)
        remap[order] = np.arange(len(order))
    cumulative = np.cumsum(ranked)
    targets = cumulative[-1] * np.arange(1, num_blocks)
    ends = np.searchsorted(cumulative * num_blocks, targets, side="left") + 1
    cuts = np.unique(np.concatenate([ends, [len(frequency)]]))
    rows = np.diff(np.concatenate([[0], cuts]))
    return rows.tolist(), remap
