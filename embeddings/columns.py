"""All combines of a collection in one pass over the columns of its rows, on a CPU.

Torch cuts columns, computes and puts side by side in a call each, and every call reads and writes
all of it; here each value is read once and each output and gradient written once, in its place.
ADR 13 says why. A combine takes part that can say what it does in :class:`Term`s; the others, other
devices, other types than float32 and graphs run as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from compactrec.embeddings.combines import Combine, Term
from compactrec.embeddings.contract import Output, Slot
from compactrec.embeddings.numba_team import has_numba

__all__ = ["ColumnProgram", "column_program"]

_KINDS = {"add": 0, "subtract": 1, "multiply": 2, "project": 3}  # as in numba_columns.py
_ROWS_PER_THREAD = 512
"""Fewer are not worth another thread."""


@dataclass(frozen=True)
class _Weight:
    """A matrix that terms multiply with: which of a combine's parameters."""

    combine: Combine
    name: str
    padding: int
    """Zeros after it: rows of columns that are there and do not count."""


class ColumnProgram:
    """From the rows of all parts ``(N, sum of part dims)`` to all logical vectors.

    Args:
        lines: the terms, as ``numba_columns.py`` reads them.
        weights: the matrices, in the order of their places.
        dim: the sum of the logical dims.
        moves: False where what comes in is what goes out.
    """

    def __init__(
        self, lines: Sequence[tuple[int, ...]], weights: Sequence[_Weight], dim: int, moves: bool
    ) -> None:
        self._moves = moves
        self.terms = np.array(lines, dtype=np.int64).reshape(-1, 7)
        self.dim = dim
        self._weights = tuple(weights)

    def __call__(self, values: Tensor) -> Tensor:
        """``(N, sum of part dims) -> (N, sum of logical dims)``"""
        if not self._moves:
            return values
        pieces = []
        for w in self._weights:
            pieces.append(w.combine.get_parameter(w.name).reshape(-1))
            if w.padding:
                pieces.append(values.new_zeros(w.padding))
        flat = torch.cat(pieces) if pieces else values.new_empty(0)
        out: Tensor = _Columns.apply(values, flat, self)
        return out


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, program: ColumnProgram) -> Tensor:
        from compactrec.embeddings import numba_columns as compiled
        from compactrec.embeddings import numba_team

        values = values.contiguous()
        ctx.save_for_backward(values, weights)
        ctx.program = program
        rows, stride = values.shape
        out = values.new_empty(rows, program.dim)
        bounds = np.minimum(_bounds(rows, compiled.BLOCK) * compiled.BLOCK, rows)
        numba_team.run(
            compiled.forward_share, len(bounds) - 1, bounds.ctypes.data,
            program.terms.ctypes.data, len(program.terms), values.data_ptr(), weights.data_ptr(),
            out.data_ptr(), stride, program.dim,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        from compactrec.embeddings import numba_columns as compiled
        from compactrec.embeddings import numba_team

        values, weights = ctx.saved_tensors
        program: ColumnProgram = ctx.program
        gradient = gradient.contiguous()
        of_values, transposed = torch.empty_like(values), torch.empty_like(weights)
        compiled.transpose(program.terms, weights.numpy(), transposed.numpy())
        (rows, stride), num_weights = values.shape, weights.shape[0]
        of_weights = weights.new_empty(-(-rows // compiled.BLOCK), num_weights)
        bounds = _bounds(rows, compiled.BLOCK)
        numba_team.run(
            compiled.backward_share, len(bounds) - 1, bounds.ctypes.data,
            program.terms.ctypes.data, len(program.terms), values.data_ptr(),
            transposed.data_ptr(), gradient.data_ptr(), of_values.data_ptr(),
            of_weights.data_ptr(), num_weights, rows, stride, program.dim,
        )  # fmt: skip
        return of_values, of_weights.sum(0), None


def column_program(
    outputs: Sequence[Output], keys: Sequence[str], dims: Sequence[int]
) -> ColumnProgram | None:
    """The program of ``outputs`` over parts ``keys`` of widths ``dims``.

    None where a combine or a slot has no terms, and without Numba.
    """
    if not has_numba():
        return None
    columns = np.cumsum([0, *dims])
    starts = dict(zip(keys, columns[:-1].tolist(), strict=True))
    lines: list[tuple[int, ...]] = []
    weights: list[_Weight] = []
    column, place = 0, 0
    places: dict[tuple[int, str, int], int] = {}
    for output in outputs:
        for slots in output.inputs:
            terms = output.combine.terms([slot.dim for slot in slots], output.dim)
            if terms is None:
                return None
            for term in terms:
                sources = _sources(term, slots, starts)
                if sources is None:
                    return None
                at, width, wide = -1, term.width, term.width
                if term.weight is not None:
                    width, wide = _padded(term.width, [v for v, _ in sources], columns), output.dim
                    known = (id(output.combine), term.weight, width)
                    if known not in places:
                        padding = (width - term.width) * wide
                        weights.append(_Weight(output.combine, term.weight, padding))
                        places[known] = place
                        place += width * wide
                    at = places[known]
                for v, w in sources:
                    lines.append((_KINDS[term.kind], v, w, column + term.target, width, wide, at))
        column += output.dim
    moves = any(line[0] != _KINDS["add"] or line[1] != line[3] for line in lines)
    return ColumnProgram(lines, weights, column, moves or column != sum(dims))


def _padded(width: int, firsts: Sequence[int], columns: NDArray[np.int64]) -> int:
    """A multiple of 4, which the loops are made for, where all parts read have as many columns."""
    ends = columns[np.searchsorted(columns, firsts, side="right")]
    room = int((ends - np.asarray(firsts)).min())
    padded = -(-width // 4) * 4
    return padded if padded <= room else width


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


def _bounds(rows: int, block: int) -> NDArray[np.int64]:
    """Where the pieces of a job begin and end, in blocks: about one piece for each thread."""
    from compactrec.embeddings import numba_team

    count = max(1, min(numba_team.num_threads(), rows // _ROWS_PER_THREAD))
    return np.arange(count + 1) * -(-rows // block) // count
