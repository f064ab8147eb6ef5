"""Adam and AMSGrad for tables: on the rows of a batch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.benchmarks.moments import BETAS, moved_moments

__all__ = ["LazyAdam"]


class LazyAdam(torch.optim.Optimizer):
    """Adam on the rows of a batch: the moments and weights of all other rows stay.

    For a row of the batch ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2`` and
    ``w <- w - lr m' / (sqrt(v') + eps)`` with ``m' = m / (1 - b1^t)``, ``v' = v / (1 - b2^t)``. The
    ``t`` of the bias correction counts the steps of the optimizer, not those of the row, as in
    ``torch.optim.SparseAdam`` (where ``eps`` is added to ``sqrt(v)``). With every row in every
    batch this is ``torch.optim.Adam``. Bytes: 8 per weight.

    With ``amsgrad`` the largest ``v`` that a row has had stands for ``v`` in its step, as in
    ``torch.optim.Adam(amsgrad=True)``. Bytes: 12 per weight.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, eps: float, *, amsgrad: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "betas": BETAS})
        self._amsgrad = amsgrad
        self._rows: dict[int, Tensor] = {}

    def set_rows(self, rows: dict[int, Tensor]) -> None:
        """The rows of the next step, without repeats, by the parameter's ``id``."""
        self._rows = rows

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # torch has overloads
        """One step on the rows that were set."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, self._rows[id(weight)], group)

    def _update(self, weight: nn.Parameter, rows: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        first, second, part1, part2 = moved_moments(state, weight, rows)
        if self._amsgrad:
            if "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = torch.zeros_like(weight)
            largest = state["max_exp_avg_sq"]
            second = torch.maximum(largest[rows], second)
            largest[rows] = second
        root = (second / part2).sqrt_().add_(group["eps"])
        weight[rows] -= first / root * (group["lr"] / part1)
