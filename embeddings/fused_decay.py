"""Weight decay in the fused engine, around a kernel's own update.

What follows is for FBGEMM, whose CPU kernels have none. Numba's have a coupled decay in their rule
and need this under the dense modes only, for the rows that no batch holds.

(They take a weight decay and ignore it: under SGD, Adagrad and row-wise Adagrad alike.) SGD and
``dense_decoupled`` scale rows between the lookup and FBGEMM's own update: exact, as the backward
pass of a sum reads no weight. Adagrad with a coupled decay needs ``g + wd w`` inside its
accumulator, and FBGEMM never shows ``g``: there the operator only looks up, and the update is made
here, with gradients summed per row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compactrec.embeddings.decay import LazyDecay, LazyKind, check_decay
from compactrec.embeddings.fused_optimizer import FusedOptimizer

__all__ = ["FusedDecay", "Lookup"]


@dataclass(frozen=True)
class Lookup:
    """What one batch asks of the tables; parts of a table lie side by side."""

    values: Tensor
    lengths: Tensor
    weights: Tensor | None
    num_bags: int
    part_tables: tuple[int, ...]
    part_dims: tuple[int, ...]

    def counts(self) -> list[int]:
        """Ids per part."""
        found: list[int] = self.lengths.view(-1, self.num_bags).sum(1).tolist()
        return found

    def rows(self, num_tables: int) -> list[Tensor]:
        """The rows read of every table, repeats included."""
        sizes = [0] * num_tables
        for table, count in zip(self.part_tables, self.counts(), strict=True):
            sizes[table] += count
        return list(self.values.split(sizes))

    def gradients(self, num_tables: int, grad: Tensor) -> list[Tensor]:
        """Gradient of every entry of :meth:`rows`, ``(ids, dim)`` per table."""
        counts = self.counts()
        found: list[list[Tensor]] = [[] for _ in range(num_tables)]
        lengths = self.lengths.view(-1, self.num_bags)
        bags = torch.arange(self.num_bags, device=grad.device)
        columns = grad.split(list(self.part_dims), dim=1)
        scales = None if self.weights is None else self.weights.split(counts)
        for i, table in enumerate(self.part_tables):
            piece = columns[i][bags.repeat_interleave(lengths[i], output_size=counts[i])]
            found[table].append(piece if scales is None else piece * scales[i][:, None])
        return [torch.cat(pieces) for pieces in found]


class FusedDecay:
    """The decay of all tables of a fused collection.

    Args:
        optimizer: rule, decay and mode.
        weights: per table ``(rows, dim)``, changed in place, with a version counter of their own.
        states: the optimizer's accumulators; none for SGD.
        trained: which of the tables decay; the others are constants, and stay.
        in_rule: the operator's own update has ``g + wd w`` in it, except under SGD.
    """

    def __init__(
        self,
        optimizer: FusedOptimizer,
        weights: Sequence[Tensor],
        states: Sequence[Tensor],
        trained: Sequence[int],
        *,
        in_rule: bool = False,
    ) -> None:
        self.rate = optimizer.learning_rate
        self._optimizer = optimizer
        self._num_tables, self._trained = len(weights), list(trained)
        self._weights = self._of_trained(weights)
        self._states = self._of_trained(states) if states else []
        coupled = optimizer.decay_mode != "dense_decoupled"
        self._replays = coupled and optimizer.name != "sgd"
        self._own_update = self._replays and not in_rule
        self.lazy: LazyDecay | None = None
        if optimizer.decay_mode != "touched_rows":
            kind: LazyKind = "factor"
            if self._replays and optimizer.name in ("adagrad", "rowwise_adagrad"):
                kind = optimizer.name
            self.lazy = LazyDecay(
                kind, optimizer.weight_decay, optimizer.eps, self._weights, self._states
            )
        self._probe = torch.zeros(0, requires_grad=True)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps from now on."""
        check_decay(rate, self._optimizer.weight_decay)
        self.rate = rate

    def look_up(self, operator: Callable[[], Tensor], lookup: Lookup) -> Tensor:
        """What ``operator`` gives for rows that are up to date; its backward pass decays them."""
        rows = self._of_trained(lookup.rows(self._num_tables))
        if self.lazy is not None:
            with torch.no_grad():
                self.lazy.catch_up(rows)
        if not torch.is_grad_enabled():
            return operator()
        if self._own_update:
            if lookup.weights is not None and lookup.weights.requires_grad:
                raise ValueError(
                    f"under {self._optimizer.name!r} with a {self._optimizer.decay_mode!r} weight "
                    f"decay the fused engine gives no gradient to the weights of ids; detach "
                    f"them, or use engine='eager'"
                )
            pooled: Tensor = _OwnUpdate.apply(
                self._probe, operator, lambda grad: self._update(rows, lookup, grad)
            )
            return pooled
        pooled = operator()
        before = self._step_past if self._replays else self._shrink
        pooled.register_hook(lambda grad: before(rows))
        return pooled

    def _of_trained(self, per_table: Sequence[Tensor]) -> list[Tensor]:
        return [per_table[i] for i in self._trained]

    @torch.no_grad()
    def _shrink(self, rows: list[Tensor]) -> None:
        """``w (1 - lr wd)``, right before the operator's update."""
        if self.lazy is not None:
            self.lazy.end_step(self.rate)
            self.lazy.catch_up(rows)
            return
        factor = 1 - self.rate * self._optimizer.weight_decay
        for weight, chosen in zip(self._weights, rows, strict=True):
            weight[chosen] = weight[chosen] * factor  # a repeated row gets the same value twice

    @torch.no_grad()
    def _step_past(self, rows: list[Tensor]) -> None:
        """Right before an update that has the decay in it: ``rows`` have had this step."""
        assert self.lazy is not None
        self.lazy.catch_up(rows)
        self.lazy.end_step(self.rate)
        self.lazy.mark(rows)

    @torch.no_grad()
    def _update(self, rows: list[Tensor], lookup: Lookup, grad: Tensor) -> None:
        """Adagrad with ``g + wd w``, on the rows of the batch."""
        if self.lazy is not None:
            self.lazy.catch_up(rows)
        gradients = self._of_trained(lookup.gradients(self._num_tables, grad))
        for weight, state, chosen, pieces in zip(
            self._weights, self._states, rows, gradients, strict=True
        ):
            unique, inverse = chosen.unique(return_inverse=True)
            old = weight[unique]
            g = torch.zeros_like(old).index_add_(0, inverse, pieces)
            g += self._optimizer.weight_decay * old
            square = g.square()
            if self._optimizer.name == "rowwise_adagrad":
                square = square.mean(1)
            accumulated = state[unique] + square
            state[unique] = accumulated
            scale = self.rate / (accumulated.sqrt() + self._optimizer.eps)
            weight[unique] = old - g * (scale if scale.dim() == 2 else scale[:, None])
        if self.lazy is not None:
            self.lazy.end_step(self.rate)
            self.lazy.mark(rows)


class _OwnUpdate(torch.autograd.Function):
    """A lookup whose backward pass calls back with the gradient of what was pooled."""

    @staticmethod
    def forward(
        ctx: Any,
        probe: Tensor,
        operator: Callable[[], Tensor],
        update: Callable[[Tensor], None],
    ) -> Tensor:
        ctx.update = update
        return operator()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.update(grad)
        return None, None, None
