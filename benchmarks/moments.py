"""Adam's two moments, of a whole tensor or of some of its rows."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BETAS", "moved_moments"]

BETAS = 0.9, 0.999


def moved_moments(
    state: dict[str, Any], weight: nn.Parameter, rows: Tensor | EllipsisType
) -> tuple[Tensor, Tensor, float, float]:
    """Count a step in ``state`` and move the moments of ``rows`` towards ``g`` and ``g^2``.

    Returns them, ``m <- b1 m + (1 - b1) g`` and ``v <- b2 v + (1 - b2) g^2``, and what their bias
    correction divides by, ``1 - b1^t`` and ``1 - b2^t``; ``t`` counts the steps of the optimizer,
    not those of a row. Bytes: 8 per weight.
    """
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg_sq"] = torch.zeros_like(weight)
    state["step"] += 1
    assert weight.grad is not None
    (beta1, beta2), step = BETAS, float(state["step"])
    g = weight.grad[rows]
    first = state["exp_avg"][rows].lerp_(g, 1 - beta1)
    second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
    state["exp_avg"][rows], state["exp_avg_sq"][rows] = first, second
    return first, second, 1 - beta1**step, 1 - beta2**step
