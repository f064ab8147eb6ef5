"""The gradient of a validation loss through one step of the weights (DARTS, arXiv 1806.09055).

    W' = W - xi * dL_train(W, a)/dW
    dL_val(W'(a), a)/da = dL_val(W', a)/da - xi * d2L_train(W, a)/(da dW) . dL_val(W', a)/dW'

The product with the second derivative is a central difference along ``v = dL_val(W', a)/dW'``:
``(dL_train(W + r v, a)/da - dL_train(W - r v, a)/da) / (2 r)`` with ``r = radius / ||v||``. It is
exact where ``L_train`` is at most quadratic in ``W``. The step is a plain gradient step, whatever
optimizer moves the weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["hypergradient"]

Loss = Callable[[], Tensor]


def hypergradient(
    train: Loss,
    validation: Loss,
    architecture: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    xi: float,
    radius: float = 0.01,
) -> list[Tensor]:
    """The gradient for every tensor of ``architecture``; ``xi = 0`` is first order.

    Args:
        train: the training loss at the present values; called three times, where ``xi > 0``.
        validation: the validation loss at the present values; called once.
        architecture: leaves that are searched.
        weights: leaves that a training step moves. They are moved and put back bit by bit, also
            when a loss raises. No ``.grad`` is touched.
        xi: length of the weights' step, at least 0.
        radius: length of the finite difference.

    Costs one backward pass, four where ``xi > 0``, and a copy of the weights.
    """
    if xi < 0 or radius <= 0:
        raise ValueError(
            f"hypergradient: xi must be at least 0 and radius above 0, got {xi}, {radius}"
        )
    if xi == 0:
        return _gradients(validation(), architecture)
    kept = [weight.detach().clone() for weight in weights]
    try:
        step = _gradients(train(), weights)
        _set(weights, kept, step, -xi)
        both = _gradients(validation(), [*architecture, *weights])
        direct, ahead = both[: len(architecture)], both[len(architecture) :]
        norm = float(sum(v.double().square().sum() for v in ahead)) ** 0.5
        if norm == 0.0:
            return direct
        r = radius / norm
        _set(weights, kept, ahead, r)
        right = _gradients(train(), architecture)
        _set(weights, kept, ahead, -r)
        left = _gradients(train(), architecture)
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
    return [d - xi * (p - m) / (2 * r) for d, p, m in zip(direct, right, left, strict=True)]


def _gradients(loss: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """Gradients that are zero where the loss does not depend on a tensor."""
    found = torch.autograd.grad(loss, list(of), allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]


def _set(
    weights: Sequence[Tensor], values: Sequence[Tensor], along: Sequence[Tensor], length: float
) -> None:
    """``weights <- values + length * along``"""
    with torch.no_grad():
        for weight, value, direction in zip(weights, values, along, strict=True):
            weight.copy_(value).add_(direction, alpha=length)
