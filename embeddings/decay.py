"""Weight decay of every row in every step, for tables of which a step touches few rows.

With gradient ``g``, learning rate ``lr`` and decay ``wd`` a table's rows follow one of three rules:

* ``dense_coupled``: ``g <- g + wd w`` for every row in every step, then the optimizer's own rule.
  A row that no batch holds has ``g = 0`` and still moves.
* ``dense_decoupled``: ``w <- w (1 - lr wd)`` for every row in every step, then the rule.
* ``touched_rows``: ``g <- g + wd w`` for the rows looked up in the batch. Others do not move.

Rows are *physical*: rows that are packed into one (``packing.py``) decay together, so under
``touched_rows`` a narrow row also decays in the steps of its neighbours.

The dense rules are made lazy, with the same numbers: each row keeps the step up to which it is
done (int64), and makes up for the steps it missed when it is next looked up or read. What it missed
is, for rates ``lr_j``:

* ``dense_decoupled``, and ``dense_coupled`` under SGD, which is the same: ``w prod_j (1 - lr_j
  wd)``, from sums of logarithms in float64. One multiplication, however many steps.
* ``dense_coupled`` under Adagrad: no closed form, as the accumulator takes ``(wd w)^2`` in every
  step. The missed steps are replayed, for all rows at once. Under row-wise Adagrad all weights of a
  row shrink by one factor, so the replay is of two numbers per row.

A replay saves memory traffic, not arithmetic. It stays short because all rows are brought up to
date every :data:`REPLAYED_STEPS` steps. Adam's moments have neither form; dense Adam
is the eager engine's alone, and a dense pass. Bytes: 8 per physical row, and 16 per step since all
rows were up to date (at most :data:`CLOSED_STEPS` steps).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "CLOSED_STEPS",
    "REPLAYED_STEPS",
    "DecayMode",
    "LazyDecay",
    "LazyKind",
    "check_decay",
]

DecayMode = Literal["dense_coupled", "dense_decoupled", "touched_rows"]
LazyKind = Literal["factor", "adagrad", "rowwise_adagrad"]
"""How missed steps are made up for."""

CLOSED_STEPS = 4096
"""All rows are brought up to date after so many steps, where there is a closed form."""
REPLAYED_STEPS = 32
"""And where there is none."""
_CHUNK = 1 << 16
"""Weights that are replayed together, so that they stay in the processor's cache."""


def check_decay(learning_rate: float, weight_decay: float) -> None:
    """Raise ``ValueError`` where one step of decay would turn weights to 0 or change their sign."""
    if weight_decay and learning_rate * weight_decay >= 1:
        raise ValueError(
            f"learning rate {learning_rate:g} times weight decay {weight_decay:g} is "
            f"{learning_rate * weight_decay:g}, but it must be below 1, or a step takes more than "
            f"the whole weight; lower one of them"
        )


class LazyDecay:
    """What rows have missed, for all tables of a collection.

    Args:
        kind: how missed steps are made up for.
        weight_decay: ``wd``.
        eps: of Adagrad's denominator.
        weights: per table ``(rows, dim)``, changed in place.
        states: Adagrad's accumulators, ``(rows, dim)`` or ``(rows,)`` each; none for ``factor``.
    """

    def __init__(
        self,
        kind: LazyKind,
        weight_decay: float,
        eps: float,
        weights: Sequence[Tensor],
        states: Sequence[Tensor],
    ) -> None:
        self._kind, self._decay, self._eps = kind, weight_decay, eps
        self._weights, self._states = list(weights), list(states)
        device = weights[0].device if weights else torch.device("cpu")
        capacity = CLOSED_STEPS if kind == "factor" else REPLAYED_STEPS
        self._rates = torch.zeros(capacity, dtype=torch.float64)
        self._logs = torch.zeros(capacity + 1, dtype=torch.float64, device=device)
        self._last = [
            torch.zeros(w.shape[0], dtype=torch.int64, device=w.device) for w in self._weights
        ]
        self._step = 0
        self.paused = False
        """While True, :meth:`catch_up_all` does nothing, so that what is saved is what is there."""

    def catch_up(self, rows: Sequence[Tensor]) -> None:
        """Bring ``rows`` (per table, repeats allowed) up to date."""
        found = []
        for last, wanted in zip(self._last, rows, strict=True):
            found.append(wanted[last[wanted] < self._step])
        if self._kind == "factor":
            for weight, last, stale in zip(self._weights, self._last, found, strict=True):
                if stale.numel():  # a row that is there twice gets the same value twice
                    weight[stale] = weight[stale] * self._factor(last[stale])[:, None]
                    last[stale] = self._step
        elif any(stale.numel() for stale in found):
            self._replay([stale.unique() for stale in found])

    def end_step(self, rate: float) -> None:
        """One more step was made, with this learning rate, which no row has had yet."""
        if self._step == len(self._rates):
            self._catch_up_all()
        self._rates[self._step] = rate
        if self._kind == "factor":
            change = torch.log1p(torch.tensor(-rate * self._decay, dtype=torch.float64))
            self._logs[self._step + 1] = self._logs[self._step] + change.to(self._logs.device)
        self._step += 1

    def mark(self, rows: Sequence[Tensor]) -> None:
        """``rows`` have had the last step, their decay in it included."""
        for last, done in zip(self._last, rows, strict=True):
            last[done] = self._step

    def catch_up_all(self) -> None:
        """Bring all rows up to date, before somebody reads them; nothing where paused."""
        if not self.paused:
            self._catch_up_all()

    def state(self) -> dict[str, Tensor]:
        """What is still to be made up for, by table index; the last steps are views."""
        state = {f"last.{i}": last for i, last in enumerate(self._last)}
        return {**state, "rates": self._rates[: self._step].clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over :meth:`state`; raise ``ValueError`` where it is of other tables."""
        own = {f"last.{i}": last for i, last in enumerate(self._last)}
        shapes = {key: tuple(tensor.shape) for key, tensor in own.items()}
        given = {key: tuple(tensor.shape) for key, tensor in state.items() if key != "rates"}
        if given != shapes or "rates" not in state:
            raise ValueError(
                f"decay state of other tables: it has {given}, expected {shapes} and rates; load "
                f"the state of the same plan, optimizer and decay mode"
            )
        self.forget()
        for rate in state["rates"].tolist():
            self.end_step(rate)
        for key, tensor in own.items():
            tensor.copy_(state[key])

    def forget(self) -> None:
        """The weights are new: nothing was missed."""
        self._step = 0
        for last in self._last:
            last.zero_()

    def _catch_up_all(self) -> None:
        if self._step and self._kind == "factor":
            for weight, last in zip(self._weights, self._last, strict=True):
                weight.mul_(self._factor(last)[:, None])
        elif self._step:
            for i, (weight, last) in enumerate(zip(self._weights, self._last, strict=True)):
                stale = (last < self._step).nonzero().flatten()
                if not stale.numel():  # a split of nothing is one piece, not none
                    continue
                for chunk in stale.split(max(1, _CHUNK // weight.shape[1])):
                    rows = [chunk[:0]] * len(self._weights)
                    rows[i] = chunk
                    self._replay(rows)
        self.forget()

    def _factor(self, last: Tensor) -> Tensor:
        """``prod (1 - lr_j wd)`` over the steps after ``last``, float32."""
        return (self._logs[self._step] - self._logs[last]).exp().float()

    def _replay(self, rows: Sequence[Tensor]) -> None:
        """Make the missed steps of ``rows`` (per table, no repeats), of all tables together."""
        used = [i for i, chosen in enumerate(rows) if chosen.numel()]
        weights = [self._weights[i][rows[i]] for i in used]
        states = [self._states[i][rows[i]] for i in used]
        lasts = [self._last[i][rows[i]] for i in used]
        if self._kind == "adagrad":
            self._replay_weights(weights, states, lasts)
        else:
            self._replay_rows(weights, states, lasts)
        for i, weight, state in zip(used, weights, states, strict=True):
            self._weights[i][rows[i]] = weight
            self._states[i][rows[i]] = state
            self._last[i][rows[i]] = self._step

    def _replay_weights(
        self, weights: list[Tensor], states: list[Tensor], lasts: list[Tensor]
    ) -> None:
        """Adagrad: ``g = wd w; s += g^2; w -= lr g / (sqrt(s) + eps)``, weight by weight."""
        spread = [last[:, None].expand_as(w) for last, w in zip(lasts, weights, strict=True)]
        order, counts = self._schedule(_flat(spread))
        w, s = _flat(weights)[order], _flat(states)[order]
        gradient, other = torch.empty_like(w), torch.empty_like(w)
        for rate, count in zip(self._rates[: self._step].tolist(), counts, strict=True):
            if count:  # no fused multiply-add: the same numbers wherever a weight stands
                a, b, g, x = w[:count], s[:count], gradient[:count], other[:count]
                torch.mul(a, self._decay, out=g)
                torch.mul(g, g, out=x)
                b.add_(x)
                torch.sqrt(b, out=x)
                g.div_(x.add_(self._eps)).mul_(rate)
                a.sub_(g)
        _spread(w, order, weights)
        _spread(s, order, states)

    def _replay_rows(
        self, weights: list[Tensor], states: list[Tensor], lasts: list[Tensor]
    ) -> None:
        """Row-wise Adagrad, on a row's mean square ``q`` and accumulator ``s``, in float64.

        ``s += wd^2 q; f = 1 - lr wd / (sqrt(s) + eps); w *= f; q *= f^2``
        """
        order, counts = self._schedule(_flat(lasts))
        q = _flat([w.double().square().mean(1) for w in weights])[order]
        s = _flat(states).double()[order]
        factors = torch.ones_like(s)
        for rate, count in zip(self._rates[: self._step].tolist(), counts, strict=True):
            if count:
                a, b = q[:count], s[:count]
                b.add_(a, alpha=self._decay**2)
                f = 1 - rate * self._decay / (b.sqrt() + self._eps)
                a.mul_(f).mul_(f)
                factors[:count] *= f
        _spread(s, order, states)
        shrunk = [torch.empty_like(state, dtype=torch.float64) for state in states]
        _spread(factors, order, shrunk)
        for weight, factor in zip(weights, shrunk, strict=True):
            weight.copy_(weight * factor[:, None])

    def _schedule(self, last: Tensor) -> tuple[Tensor, list[int]]:
        """Oldest first; and how many take part in each step, a prefix that grows."""
        values, order = last.sort(stable=True)
        steps = torch.arange(self._step, device=last.device)
        counts: list[int] = torch.searchsorted(values, steps, right=True).tolist()
        return order, counts


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _spread(values: Tensor, order: Tensor, into: Sequence[Tensor]) -> None:
    """Undo ``_flat(into)[order]``, in place."""
    flat = torch.empty_like(values)
    flat[order] = values
    for tensor, piece in zip(into, flat.split([t.numel() for t in into]), strict=True):
        tensor.copy_(piece.view(tensor.shape))
