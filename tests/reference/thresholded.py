"""The row gate of OptEmbed (Lyu et al., CIKM 2022, arXiv 2208.04482), its derivative spelled out.

A row is kept where its norm is above the threshold of its feature: S(||E[x]||_p - t) E[x] with
S(u) = 1 for u > 0, else 0. Backward, S' is 2 - 4|u| up to |u| = 0.4, 0.4 up to |u| = 1, then 0.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["Step", "embed", "slope", "threshold_gradient"]


def slope(u: float) -> float:
    """S'(u), piece by piece."""
    distance = abs(u)
    if distance <= 0.4:
        return 2 - 4 * distance
    if distance <= 1:
        return 0.4
    return 0.0


class Step(torch.autograd.Function):
    """S and the derivative that stands in for its own."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.tensor(1.0 if float(u) > 0 else 0.0, dtype=u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return gradient * slope(float(u))


def embed(index: int, table: Any, dim: int, threshold: Tensor, norm: int) -> Tensor:
    """Vector of one id: its row, or zeros where the norm is not above the threshold."""
    row = table[index][:dim]
    size = row.abs().sum() if norm == 1 else torch.sqrt((row * row).sum())
    gate: Tensor = Step.apply(size - threshold.squeeze())  # type: ignore[no-untyped-call]
    return gate * row


def threshold_gradient(row: list[float], threshold: float, upstream: list[float]) -> float:
    """dL/dt of one id under norm 1: -S'(||row||_1 - t) * <upstream, row>."""
    size = sum(abs(value) for value in row)
    product = sum(a * b for a, b in zip(row, upstream, strict=True))
    return -slope(size - threshold) * product
