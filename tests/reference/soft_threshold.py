"""Learned soft thresholds (PEP: Liu et al., ICLR 2021, arXiv 2101.07577).

    e(x)[j] = sign(E[x, j]) * max(|E[x, j]| - 1 / (1 + exp(-s)), 0)

with s = S[x, j] (a threshold per value), S[x] (per id), S[j] (per column) or S (one for all).
"""

from typing import Any

import torch

__all__ = ["embed", "shrink", "threshold_of"]


def shrink(value: Any, s: Any) -> Any:
    """One value moved towards zero by sigmoid(s), and no further."""
    threshold = 1 / (1 + torch.exp(-s))
    if value > threshold:
        return value - threshold
    if value < -threshold:
        return value + threshold
    return value * 0


def threshold_of(granularity: str, thresholds: Any, index: int, column: int) -> Any:
    """The s of one value; `thresholds` as it is stored, four ids a row for "id"."""
    if granularity == "id_dim":
        return thresholds[index][column]
    if granularity == "id":
        return thresholds[index // 4][index % 4]
    return thresholds[0][column if granularity == "dim" else 0]


def embed(index: int, table: Any, thresholds: Any, granularity: str, dim: int) -> Any:
    """The vector of one id, value by value."""
    return torch.stack(
        [
            shrink(table[index][j], threshold_of(granularity, thresholds, index, j))
            for j in range(dim)
        ]
    )
