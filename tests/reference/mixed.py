"""Mixed-dimension embeddings (Ginart et al., ISIT 2021, arXiv 1909.11810).

The layer: blocks b = 0..K of n_b rows and width d_b <= D, tables E_b (n_b, d_b) and bias-free
projections P_b (d_b, D), the identity where d_b = D. With offsets t_b = n_0 + ... + n_{b-1}:

    e(x) = E_b[x - t_b] P_b        for the one b with t_b <= x < t_{b+1}

Field-wise: a feature is one block. Block-wise: x = remap[id], the id's rank by frequency.

Widths by popularity: d_b = lambda p_b^alpha with p_b the average popularity of one row, q_b / n_b
for q_b look-ups a sample; lambda = D max(p)^-alpha for a given base width D, so that the most
popular block gets D; or the largest lambda whose exact cost is within a budget.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

__all__ = [
    "KAGGLE_WIDTHS",
    "embed",
    "equipartition",
    "mixed_dims",
    "param_count",
    "real_widths",
    "reference_mixed_dims",
    "round_width",
]


_LISTS = {
    (16, 0.3): "3,3,1,1,4,9,1,3,16,1,2,1,2,8,1,1,11,2,2,15,1,9,10,1,6,1",
    (16, 0.2): "5,6,1,1,6,11,3,5,16,2,4,1,4,10,3,1,13,4,4,15,1,11,12,2,8,2",
    (64, 0.2): "19,22,3,4,25,42,12,22,64,8,14,3,16,41,12,4,50,14,17,60,3,45,46,6,31,7",
    (64, 0.3): "10,13,1,1,16,34,5,13,64,3,7,1,8,33,5,1,45,7,9,59,1,37,39,2,22,3",
    (400, 0.2): "116,139,20,27,159,264,76,137,400,51,88,21,99,258,73,22,314,89,107,378,21,280,"
    "290,40,196,46",
}
KAGGLE_WIDTHS = {at: [int(d) for d in widths.split(",")] for at, widths in _LISTS.items()}
"""Widths of the Kaggle tables by (D, alpha), from a run of the published code."""


def embed(index: int, tables: Sequence[Any], projections: Sequence[Any | None]) -> Any:
    """Vector of global row `index` (an id, or remap[id] for the block-wise layer)."""
    offset = 0
    for table, projection in zip(tables, projections, strict=True):
        if index < offset + len(table):
            row = table[index - offset]
            return row if projection is None else row @ projection
        offset += len(table)
    raise IndexError(f"row {index} of {offset}")


def param_count(rows: Sequence[int], widths: Sequence[int], dim: int) -> int:
    """sum n_b d_b + D sum of d_b over the blocks with d_b < D."""
    tables = sum(n * d for n, d in zip(rows, widths, strict=True))
    return tables + dim * sum(d for d in widths if d < dim)


def round_width(d: float, dim: int, rounding: str, multiple: int = 1, min_dim: int = 1) -> int:
    """One rounding mode applied to a real width clipped to [1, D], then clipped to [min_dim, D].

    The base width itself is kept as it is, whatever the mode: the most popular block has width D.
    "nearest": halves to even. "pow2": 2^round(log2 d) of the real width, halves of the exponent
    to even. "packed": the nearest of 1, 2, 4, 8, 12, ... "multiple": m max(1, round(d / m)).
    "floor", "ceil".
    """
    if d >= dim:
        return dim
    d = max(d, 1.0)
    if rounding == "nearest":
        width = round(d)
    elif rounding == "pow2":
        width = 2 ** round(math.log2(d))
    elif rounding == "packed":
        width = 4 * round(d / 4) if d >= 3 else (1 if d <= 1.5 else 2)
    elif rounding == "multiple":
        width = multiple * max(1, round(d / multiple))
    elif rounding == "floor":
        width = math.floor(d)
    elif rounding == "ceil":
        width = math.ceil(d)
    else:
        raise ValueError(f"unknown rounding {rounding!r}")
    return min(max(width, min_dim), dim)


def real_widths(
    rows: Sequence[int], alpha: float, dim: int, lookups: Sequence[float] | None = None
) -> list[float]:
    """d_b = D (p_b / max p)^alpha with p_b = q_b / n_b, before clipping and rounding.

    A block whose popularity equals the largest gets exactly D, not D to the last float bit.
    """
    lookups = [1.0] * len(rows) if lookups is None else lookups
    popularity = [q / n for n, q in zip(rows, lookups, strict=True)]
    top = max(popularity)
    return [float(dim) if p == top else dim * (p / top) ** alpha for p in popularity]


def mixed_dims(
    rows: Sequence[int],
    alpha: float = 0.3,
    base_dim: int | None = None,
    lookups: Sequence[float] | None = None,
    rounding: str = "nearest",
    multiple: int = 1,
    min_dim: int = 1,
) -> list[int]:
    """The corrected rule for a given base width: formula, clip to [1, D], round, clip again."""
    assert base_dim is not None
    return [
        round_width(d, base_dim, rounding, multiple, min_dim)
        for d in real_widths(rows, alpha, base_dim, lookups)
    ]


def reference_mixed_dims(
    rows: Sequence[int],
    alpha: float,
    d0: int | None = None,
    budget: float | None = None,
    round_pow2: bool = False,
    lookups: Sequence[float] | None = None,
) -> list[float]:
    """What the published code computes, in float32, with its faults (for golden numbers only).

    It takes lambda from the smallest *raw* table even when `lookups` reorders the effective
    sizes, never clips at d0, rounds the base width too, and returns floats under `round_pow2`.
    """
    sizes = torch.tensor(rows, dtype=torch.long)
    order = torch.argsort(sizes)
    k = torch.ones(len(rows)) if lookups is None else torch.tensor(lookups, dtype=torch.float32)
    effective = sizes[order].float() / k[order]
    if d0 is not None:
        scale = d0 * effective[0] ** alpha
    elif budget is not None:
        scale = budget / torch.sum(effective ** (1 - alpha))
    else:
        raise ValueError("neither d0 nor budget")
    widths = scale * effective ** (-alpha)
    widths = torch.clamp(widths, min=1.0)
    if d0 is not None:
        widths[0] = d0
    widths = torch.round(widths)
    if round_pow2:
        widths = 2 ** torch.round(torch.log2(widths))
    restored = torch.empty_like(widths)
    restored[order] = widths
    return [float(d) if round_pow2 else int(d) for d in restored]


def equipartition(freq: Sequence[int], num_blocks: int) -> tuple[list[int], list[int]]:
    """Blocks of equal frequency mass: (end of each block, remap) with remap[id] = rank.

    Ids are ranked by falling frequency, ties by smaller id. Block b of K + 1 ends after the first
    row at which the running sum reaches (b + 1) / (K + 1) of the total; the last block ends at n,
    so rows never seen are in it. A row heavier than one share fills its block alone; blocks that
    would be empty are dropped, so the ends strictly increase.
    """
    order = sorted(range(len(freq)), key=lambda i: (-freq[i], i))
    remap = [0] * len(freq)
    for rank, i in enumerate(order):
        remap[i] = rank
    total, ends = sum(freq), []
    for block in range(num_blocks - 1):
        running = 0
        for rank, i in enumerate(order):
            running += freq[i]
            if running * num_blocks >= (block + 1) * total:
                ends.append(rank + 1)
                break
    return sorted({*ends, len(freq)}), remap
