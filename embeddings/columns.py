"""All combines of a collection in one pass over the columns of its rows, on a CPU.

Torch cuts columns, computes and puts side by side in a call each, and every call reads and writes
all of it; here each value is read once and each output and gradient written once, in its place.
ADR 13 says why. A combine takes part that can say what it does in :class:`Term`s; the others, other
devices, other types than float32 and graphs run as before.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compactrec.embeddings.combines import Combine, Term
from compactrec.embeddings.contract import Output, Slot

__all__ = ["ColumnProgram", "column_program"]

_KINDS = {"add": 0, "subtract": 1, "multiply": 2, "project": 3}  # as in numba_columns.py
_ROWS_PER_THREAD = 512
"""Fewer are not worth another thread."""


@dataclass(frozen=True)
class _Weight:
    """A matrix that terms multiply with: which of a combine's parameters."""

    combine: Combine
    name: str


class ColumnProgram:
    """From the rows of all parts ``(N, sum of part dims)`` to all logical vectors.

    Args:
        lines: the terms, as ``numba_columns.py`` reads them.
        weights: the matrices, in the order of their places.
        dim: the sum of the logical dims.
    """

    def __init__(
        self, lines: Sequence[tuple[int, ...]], weights: Sequence[_Weight], dim: int
    ) -> None:
        self.terms = np.array(lines, dtype=np.int64).reshape(-1, 7)
        self.dim = dim
        self._weights = tuple(weights)

    def __call__(self, values: Tensor) -> Tensor:
        """``(N, sum of part dims) -> (N, sum of logical dims)``"""
        matrices = [w.combine.get_parameter(w.name).reshape(-1) for w in self._weights]
        flat = torch.cat(matrices) if matrices else values.new_empty(0)
        out: Tensor = _Columns.apply(values, flat, self)
        return out


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, program: ColumnProgram) -> Tensor:
        from compactrec.embeddings import numba_columns as compiled

        values = values.contiguous()
        ctx.save_for_backward(values, weights)
        ctx.program = program
        rows, stride = values.shape
        out = values.new_empty(rows, program.dim)

        def run(first: int, last: int) -> None:
            compiled.forward(
                program.terms, values.data_ptr(), weights.data_ptr(), out.data_ptr(),
                rows, stride, program.dim, first, last,
            )  # fmt: skip

        _in_blocks(rows, run)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        from compactrec.embeddings import numba_columns as compiled

        values, weights = ctx.saved_tensors
        program: ColumnProgram = ctx.program
        gradient = gradient.contiguous()
        of_values = torch.empty_like(values)
        (rows, stride), num_weights = values.shape, weights.shape[0]
        of_weights = weights.new_empty(-(-rows // compiled.BLOCK), num_weights)

        def run(first: int, last: int) -> None:
            compiled.backward(
                program.terms, values.data_ptr(), weights.data_ptr(), gradient.data_ptr(),
                of_values.data_ptr(), of_weights.data_ptr(), rows, stride, program.dim,
                num_weights, first, last,
            )  # fmt: skip

        _in_blocks(rows, run)
        return of_values, of_weights.sum(0), None


def column_program(
    outputs: Sequence[Output], keys: Sequence[str], dims: Sequence[int]
) -> ColumnProgram | None:
    """The program of ``outputs`` over parts ``keys`` of widths ``dims``.

    None where a combine or a slot has no terms, where nothing moves, and without Numba.
    """
    if not _has_numba():
        return None
    starts = dict(zip(keys, np.cumsum([0, *dims])[:-1].tolist(), strict=True))
    lines: list[tuple[int, ...]] = []
    weights: list[_Weight] = []
    column, place = 0, 0
    places: dict[tuple[int, str], int] = {}
    for output in outputs:
        for slots in output.inputs:
            terms = output.combine.terms([slot.dim for slot in slots], output.dim)
            if terms is None:
                return None
            for term in terms:
                sources = _sources(term, slots, starts)
                if sources is None:
                    return None
                at = -1
                if term.weight is not None:
                    known = (id(output.combine), term.weight)
                    if known not in places:
                        places[known] = place
                        weights.append(_Weight(output.combine, term.weight))
                        place += term.width * output.dim
                    at = places[known]
                wide = output.dim if term.weight is not None else term.width
                for v, w in sources:
                    lines.append(
                        (_KINDS[term.kind], v, w, column + term.target, term.width, wide, at)
                    )
        column += output.dim
    moves = any(line[0] != _KINDS["add"] or line[1] != line[3] for line in lines)
    if not moves and column == sum(dims):
        return None
    return ColumnProgram(lines, weights, column)


def _sources(
    term: Term, slots: Sequence[Slot], starts: dict[str, int]
) -> list[tuple[int, int]] | None:
    """First columns of what a term reads, lane by lane; None where it would not be in one piece."""
    read = [slots[i] for i in term.slots]
    if len(read) == 1 and not read[0].whole:
        slot = read[0]
        return [(starts[part] + j * slot.dim, -1) for j, part in enumerate(slot.parts)]
    if any(len(slot.parts) != 1 for slot in read):
        return None
    first = [starts[slot.parts[0]] for slot in read]
    return [(first[0], first[1] if len(first) > 1 else -1)]


@cache
def _has_numba() -> bool:
    try:
        return importlib.util.find_spec("numba") is not None
    except ImportError:  # something forbids it
        return False


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Of this process: a fork has no threads."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="columns")


def _in_blocks(num_rows: int, run: Callable[[int, int], None]) -> None:
    """All blocks of rows, on as many threads as torch has."""
    from compactrec.embeddings import numba_columns as compiled

    num_blocks = -(-num_rows // compiled.BLOCK)
    count = max(1, min(torch.get_num_threads(), num_rows // _ROWS_PER_THREAD))
    bounds = [num_blocks * i // count for i in range(count + 1)]
    if count == 1:
        run(0, num_blocks)
        return
    for _ in _pool(count, os.getpid()).map(run, bounds[:-1], bounds[1:]):
        pass
