"""A kernel of the fused engine on CPU: loops compiled by Numba, over tables in ordinary tensors.

A step is one lookup, threaded over bags, and one update, threaded over tables and parts of large
ones. The update sums the gradients of each row, in the order of ids, and applies the optimizer once
per distinct row: the numbers do not depend on the number of threads, which is torch's. Rows are
checked against their table before they are read or written.

Bytes while it runs: a float per id of the largest table and column, and about 16 per id, in each
thread. ADR 9 says why this and not FBGEMM's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from compactrec.embeddings import numba_layout, numba_team
from compactrec.embeddings.contract import Table
from compactrec.embeddings.decay import check_decay
from compactrec.embeddings.fused_optimizer import ADAM_BETAS, FusedOptimizer
from compactrec.embeddings.numba_lookup import look_up_share, weight_gradients
from compactrec.embeddings.numba_update import update_share

__all__ = ["NumbaKernel", "divide"]

_KINDS = {
    "sgd": numba_layout.SGD,
    "adagrad": numba_layout.ADAGRAD,
    "rowwise_adagrad": numba_layout.ROWWISE_ADAGRAD,
    "adam": numba_layout.ADAM,
}
Integers = NDArray[np.int64]


class NumbaKernel:
    """All tables and the state of their optimizer, on CPU.

    Args:
        tables: the physical tables; constant ones are read and never written.
        part_tables: for every part its table, the parts of a table side by side.
        optimizer: what the backward pass applies.
    """

    decays_in_rule = True

    def __init__(
        self, tables: Sequence[Table], part_tables: Sequence[int], optimizer: FusedOptimizer
    ) -> None:
        self._tables, self._optimizer = tuple(tables), optimizer
        self._rate = optimizer.learning_rate
        self._weights = [torch.zeros(t.num_rows, t.dim) for t in tables]
        self._states = {t.name: self._new_states(t) for t in tables}
        self._steps = torch.zeros(len(tables), dtype=torch.int64)
        columns = np.cumsum([0, *(tables[t].dim for t in part_tables)])
        self._stride = int(columns[-1])
        self._parts = np.stack([np.asarray(part_tables), columns[:-1]], axis=1).astype(np.int64)
        self._layout = self._new_layout(part_tables)
        self._trained = [i for i, table in enumerate(tables) if not table.is_constant]
        self._scratch: dict[int, _Scratch] = {}
        self._probe = torch.zeros(0, requires_grad=True)
        coupled = optimizer.decay_mode == "dense_coupled" and optimizer.name != "sgd"
        in_rule = coupled or optimizer.decay_mode == "touched_rows"
        decay = optimizer.weight_decay if in_rule else 0.0
        self._settings = np.array([optimizer.eps, decay, *ADAM_BETAS], np.float32)

    def look_up(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sum-pooled rows ``(B, sum of part dims)``; raises ``ValueError`` on rows out of range."""
        pooled: Tensor = _LookUp.apply(self._probe, weights, self, values, offsets)
        return pooled

    def weights(self) -> list[Tensor]:
        """The tables."""
        return self._weights

    def states(self) -> dict[str, Tensor]:
        """``<table>.momentum1``; for Adam ``momentum1``, ``momentum2`` and ``step``."""
        out = {}
        for i, table in enumerate(self._tables):
            for k, state in enumerate(self._states[table.name]):
                out[f"{table.name}.momentum{k + 1}"] = state
            if self._optimizer.name == "adam":
                out[f"{table.name}.step"] = self._steps[i]
        return out

    def learning_rate(self) -> float:
        """Of the next step."""
        return self._rate

    def set_learning_rate(self, learning_rate: float) -> None:
        """For the steps from now on."""
        check_decay(learning_rate, self._optimizer.weight_decay)
        self._rate = learning_rate

    def pool(self, batch: "_Batch") -> Tensor:
        """The lookup itself."""
        out = torch.empty(batch.num_bags, self._stride)
        count = _num_pieces(batch.values.size)
        bounds = np.array([batch.num_bags * i // count for i in range(count + 1)], np.int64)
        self._run(look_up_share, batch, bounds, out)
        return out

    def gradients_of_weights(self, batch: "_Batch", grad: Tensor) -> Tensor:
        """Gradient of every weight of an id, with the rows as they are."""
        out = torch.empty(batch.values.size)
        bad = weight_gradients(
            self._layout, self._parts, batch.values, batch.offsets, grad.data_ptr(), self._stride,
            batch.num_bags, out.data_ptr(),
        )  # fmt: skip
        self._check(batch, [int(bad)])
        return out

    def step(self, batch: "_Batch", grad: Tensor) -> None:
        """The update itself."""
        self._steps += 1
        first = self._layout[:, numba_layout.FIRST_PART] * batch.num_bags
        counts = np.diff(batch.offsets[first])
        units = divide(counts, self._trained, _num_pieces(batch.values.size))
        bounds = np.cumsum([0, *map(len, units)])
        lines, rates = np.concatenate(units), self._rates()
        scratch = np.array([self._reserved(i, mine, counts) for i, mine in enumerate(units)])
        self._run(
            update_share, batch, bounds, grad, _KINDS[self._optimizer.name],
            lines.ctypes.data, rates.ctypes.data, self._settings.ctypes.data, scratch.ctypes.data,
        )  # fmt: skip

    def _run(
        self,
        share: numba_team.Share,
        batch: "_Batch",
        bounds: Integers,
        pooled: Tensor,
        *more: int,
    ) -> None:
        """All pieces; ``pooled``: the output or its gradient."""
        results = np.full(len(bounds) - 1, -1, np.int64)
        numba_team.run(
            share, len(results), results.ctypes.data, bounds.ctypes.data,
            self._layout.ctypes.data, len(self._layout), self._parts.ctypes.data, len(self._parts),
            batch.values.ctypes.data, batch.values.size, batch.offsets.ctypes.data, batch.scales,
            pooled.data_ptr(), self._stride, batch.num_bags, *more,
        )  # fmt: skip
        self._check(batch, results.tolist())

    def _reserved(self, piece: int, mine: Integers, counts: Integers) -> list[int]:
        """Scratch of a piece: addresses, and how many ids there is room for."""
        ids = [int(counts[t]) for t in mine[:, 0]]
        rows = [min(n, self._tables[t].num_rows) for n, t in zip(ids, mine[:, 0], strict=True)]
        floats = [n * self._tables[t].dim for n, t in zip(rows, mine[:, 0], strict=True)]
        scratch = self._scratch.setdefault(piece, _Scratch())
        scratch.reserve(max(ids, default=0), max(floats, default=0))
        arrays = (scratch.slots.ctypes.data, scratch.distinct.ctypes.data)
        return [*arrays, scratch.sums.data_ptr(), scratch.distinct.size]

    def _rates(self) -> NDArray[np.float32]:
        rates = np.full((len(self._tables), 2), self._rate)
        if self._optimizer.name == "adam":
            steps = self._steps.numpy().astype(np.float64)
            rates[:, 0] /= 1 - ADAM_BETAS[0] ** steps
            rates[:, 1] = 1 / (1 - ADAM_BETAS[1] ** steps)
        return rates.astype(np.float32)

    def _check(self, batch: "_Batch", found: Sequence[int]) -> None:
        bad = [i for i in found if i >= 0]
        if bad:
            part = int(np.searchsorted(batch.offsets, bad[0], side="right") - 1) // batch.num_bags
            table = self._tables[self._parts[part, 0]]
            raise ValueError(
                f"row {int(batch.values[bad[0]])} is out of range in table {table.name!r}, which "
                f"has {table.num_rows} rows; build the collection with check_ids=True to find the "
                f"id, and load only state dicts of the same plan"
            )

    def _new_states(self, table: Table) -> list[Tensor]:
        shape = (table.num_rows, table.dim)
        match self._optimizer.name:
            case "sgd":
                return []
            case "rowwise_adagrad":
                return [torch.zeros(table.num_rows)]
            case "adagrad":
                return [torch.zeros(shape)]
            case "adam":
                return [torch.zeros(shape), torch.zeros(shape)]

    def _new_layout(self, part_tables: Sequence[int]) -> Integers:
        layout = np.zeros((len(self._tables) + 1, 6), np.int64)
        for i, (table, weight) in enumerate(zip(self._tables, self._weights, strict=True)):
            addresses = [weight.data_ptr(), *(s.data_ptr() for s in self._states[table.name])]
            layout[i, : len(addresses)] = addresses
            layout[i, numba_layout.DIM], layout[i, numba_layout.ROWS] = table.dim, table.num_rows
        starts = np.searchsorted(np.asarray(part_tables), np.arange(len(self._tables) + 1))
        layout[:, numba_layout.FIRST_PART] = starts
        return layout


class _LookUp(torch.autograd.Function):
    """Its backward pass is the update, and gives the weights of ids their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        probe: Tensor,
        weights: Tensor | None,
        kernel: NumbaKernel,
        values: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(values, offsets, weights)
        return kernel.pool(_Batch(values, offsets, weights, kernel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, None, None, None]:
        values, offsets, weights = ctx.saved_tensors
        batch, grad = _Batch(values, offsets, weights, ctx.kernel), grad.contiguous()
        of_weights = None
        if ctx.needs_input_grad[1]:
            of_weights = ctx.kernel.gradients_of_weights(batch, grad)
        ctx.kernel.step(batch, grad)
        return None, of_weights, None, None, None


class _Batch:
    """One batch as the compiled functions take it; what it points to stays alive with it."""

    def __init__(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, kernel: NumbaKernel
    ) -> None:
        self.values: Integers = values.contiguous().numpy()
        self.offsets: Integers = offsets.numpy()
        self._weights = None if weights is None else weights.detach().float().contiguous()
        self.scales = 0 if self._weights is None else self._weights.data_ptr()
        self.num_bags = (self.offsets.size - 1) // len(kernel._parts)
        rising = bool((np.diff(self.offsets) >= 0).all())
        if not rising or self.offsets[-1] != self.values.size:
            raise ValueError(
                f"the lengths of bags must be 0 or more and add up to the {self.values.size} ids "
                f"of the batch; they add up to {int(self.offsets[-1])}"
            )
        if self._weights is not None and self._weights.numel() != self.values.size:
            raise ValueError(
                f"the batch has {self.values.size} ids and {self._weights.numel()} weights; give "
                f"one weight per id"
            )


class _Scratch:
    """Memory of one thread, kept between steps."""

    def __init__(self) -> None:
        self.slots = np.empty(0, np.int32)
        self.distinct = np.empty(0, np.int64)
        self.sums = torch.empty(0)

    def reserve(self, ids: int, numbers: int) -> None:
        """Room for tables of up to so many ids, and so many floats of distinct rows."""
        if self.distinct.size < ids or not self.slots.size:
            self.slots = np.empty(max(8, 4 * ids), np.int32)
            self.distinct = np.empty(ids, np.int64)
        if self.sums.numel() < numbers:
            self.sums = torch.empty(numbers)


def divide(counts: Integers, trained: Sequence[int], threads: int) -> list[Integers]:
    """Work of each thread: lines of table, piece, pieces, about equally many ids for each.

    A table with more than a fair quarter of a thread's ids is cut into a piece per thread.
    """
    used = [t for t in trained if counts[t]]
    fair = sum(int(counts[t]) for t in used) / threads
    units: list[list[tuple[int, int, int]]] = [[] for _ in range(threads)]
    loads = [0.0] * threads
    for t in sorted(used, key=lambda t: -int(counts[t])):
        pieces = threads if counts[t] > fair / 4 else 1
        for piece in range(pieces):
            least = piece if pieces > 1 else loads.index(min(loads))
            units[least].append((t, piece, pieces))
            loads[least] += counts[t] / pieces
    return [np.array(found, np.int64).reshape(-1, 3) for found in units]


def _num_pieces(ids: int) -> int:
    return 1 if ids < numba_team.FEW else numba_team.num_threads()
