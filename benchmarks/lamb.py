"""LAMB: Adam whose step is as long as the weights it is for are large (You et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.benchmarks.moments import moved_moments

__all__ = ["Lamb"]


class Lamb(torch.optim.Optimizer):
    """One step of every tensor, or of every row that was set.

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``, ``r = m' / (sqrt(v') + eps) + wd w``
    with ``m' = m / (1 - b1^t)``, ``v' = v / (1 - b2^t)``, and ``w <- w - lr phi r`` with ``phi =
    |w| / |r|``. Where ``|w|`` or ``|r|`` is 0, ``phi`` is 1: FBGEMM divides plainly, so a row of
    zeros never moves there, and 0 / 0 is NaN. ``t`` counts the steps of the optimizer, as there.
    b1 = 0.9 and b2 = 0.999. Bytes: 8 per weight.

    Args:
        parameters: weights; of two dimensions under ``by_row``.
        lr: learning rate.
        eps: see above.
        weight_decay: ``wd`` above, which is within the length of the step.
        by_row: a norm for every row, and only rows of :meth:`set_rows` take part: the others would
            go on by the whole length of a step in the direction of their last gradient.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        *,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        by_row: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "weight_decay": weight_decay})
        self._by_row = by_row
        self._rows: dict[int, Tensor] = {}

    def set_rows(self, rows: dict[int, Tensor]) -> None:
        """The rows of the next step, without repeats, by the parameter's ``id``."""
        self._rows = rows

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # torch has overloads
        """One step of what has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, self._rows[id(weight)] if self._by_row else ..., group)

    def _update(
        self, weight: nn.Parameter, rows: Tensor | EllipsisType, group: dict[str, Any]
    ) -> None:
        first, second, part1, part2 = moved_moments(self.state[weight], weight, rows)
        w = weight[rows]
        root = (second / part2).sqrt_().add_(group["eps"])
        direction = (first / root).div_(part1).add_(w, alpha=group["weight_decay"])
        weight[rows] -= direction * (group["lr"] * self._trust(w, direction))

    def _trust(self, weight: Tensor, direction: Tensor) -> Tensor:
        """``phi``: one number, or ``(rows, 1)``."""
        dim = 1 if self._by_row else None
        ours, theirs = (
            torch.linalg.vector_norm(x, dim=dim, keepdim=self._by_row) for x in (weight, direction)
        )
        return torch.where((ours > 0) & (theirs > 0), ours / theirs, 1.0)
