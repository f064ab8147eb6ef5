"""Pooling of one feature's bags: y = pool over i in bag of w_i * e(id_i).

e is the *whole* per-id embedding, after composition and projection, so nothing here depends on
whether a method commutes with pooling. An empty bag is the zero vector in every mode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["concat", "pool", "stack"]


def stack(rows: Sequence[Any]) -> Any:
    """Stack vectors of either library along a new first axis."""
    return torch.stack(list(rows)) if isinstance(rows[0], torch.Tensor) else np.stack(rows)


def concat(rows: Sequence[Any]) -> Any:
    """Join vectors of either library end to end."""
    return torch.cat(list(rows)) if isinstance(rows[0], torch.Tensor) else np.concatenate(rows)


def pool(
    embed: Callable[[int], Any],
    bags: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]] | None = None,
    mode: str = "sum",
    *,
    dim: int,
) -> Any:
    """Pool `embed(id)` over each bag; shape (num_bags, dim), float64.

    mode "sum": sum of w e(id). "mean": the same divided by the number of ids in the bag (not by
    the sum of the weights). "max": elementwise maximum of w e(id).
    """
    pooled: list[Any] = []
    for index, bag in enumerate(bags):
        rows = [embed(i) for i in bag]
        if weights is not None:
            rows = [w * row for w, row in zip(weights[index], rows, strict=True)]
        if not rows:
            pooled.append(None)
        elif mode == "max":
            all_rows = stack(rows)
            top = all_rows.max(0)
            pooled.append(top.values if isinstance(all_rows, torch.Tensor) else top)
        elif mode in ("sum", "mean"):
            total = rows[0]
            for row in rows[1:]:
                total = total + row
            pooled.append(total / len(rows) if mode == "mean" else total)
        else:
            raise ValueError(f"unknown mode {mode!r}")
    filled = [row for row in pooled if row is not None]
    if filled and isinstance(filled[0], torch.Tensor):
        zero: Any = torch.zeros(dim, dtype=filled[0].dtype)
    else:
        zero = np.zeros(dim)
    return stack([zero if row is None else row for row in pooled])
