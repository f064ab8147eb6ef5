"""From the rows of physical parts to the logical vectors of all features at once.

Neighbouring outputs whose combines and shapes are alike run together, as one ``(N, n, d)`` tensor
per slot: ``n`` counts outputs times bag positions. Columns are found by key, and cut with a single
split, so that the backward pass writes every gradient once. Where the parts of a slot lie side by
side (they do when one process owns the tables) they are read in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from compactrec.embeddings.columns import ColumnProgram, column_program
from compactrec.embeddings.combines import Combine
from compactrec.embeddings.contract import Output
from compactrec.embeddings.tracing import as_leaf

__all__ = ["LogicalCombine"]

_PREFIX = "c_"
"""Keeps feature names such as ``keys`` or ``forward`` apart from the attributes of a module."""


@dataclass(frozen=True)
class _Group:
    """Outputs that run together."""

    outputs: tuple[Output, ...]
    num_positions: int
    slots: tuple[tuple[str, ...], ...]
    """For every slot, all its parts: output by output, position by position, lane by lane."""
    lanes: tuple[int, ...]
    dims: tuple[int, ...]
    """Logical width of every slot."""


@dataclass(frozen=True)
class _Cut:
    """How to split the columns of all parts, and which pieces make up each slot."""

    keys: tuple[str, ...]
    sizes: list[int]
    pieces: tuple[tuple[tuple[int, ...], ...], ...]
    """Per group and slot: indices of the pieces to put side by side."""


class LogicalCombine(nn.Module):
    """All combines of a collection; the only place with dense parameters.

    Args:
        outputs: the logical vectors, in the order in which they are returned.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        self.combines = nn.ModuleDict(
            {
                f"{_PREFIX}{o.key}": o.combine
                for o in outputs
                if any(True for _ in o.combine.parameters())
            }
        )
        self._groups = _groups(self.outputs)
        self._program: ColumnProgram | None = None
        self._cut: _Cut | None = None
        self.compiled = True
        """False keeps to torch's own operations."""

    def forward(self, values: Tensor, keys: Sequence[str], dims: Sequence[int]) -> Tensor:
        """``(N, sum of part dims) -> (N, sum of logical dims)``, outputs in declared order."""
        leaf = as_leaf(self, values, keys, dims)
        if leaf is not None:
            return cast(Tensor, leaf)
        cut = self._cut
        if cut is None or cut.keys != tuple(keys):
            cut = self._cut = _make_cut(self._groups, keys, dims)
            self._program = column_program(self.outputs, keys, dims)
        if self._program is not None and self.compiled and _is_plain(values):
            return self._program(values)
        # The backward pass of a split copies every gradient: not where there is nothing to split.
        pieces = (values,) if len(cut.sizes) == 1 else values.split(cut.sizes, dim=1)
        results = []
        for group, slots in zip(self._groups, cut.pieces, strict=True):
            columns = [
                pieces[slot[0]] if len(slot) == 1 else torch.cat([pieces[i] for i in slot], dim=1)
                for slot in slots
            ]
            if columns:
                results.append(self._run(group, columns))
            else:  # every id is dropped
                width = sum(output.dim for output in group.outputs)
                results.append(values.new_zeros(values.shape[0], width))
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)

    def reset_parameters(self) -> None:
        """Draw the initial weights of every combine again."""
        for output in self.outputs:
            output.combine.reset_parameters()

    def _run(self, group: _Group, columns: list[Tensor]) -> Tensor:
        """``(N, sum of the group's dims)``"""
        count = len(group.outputs) * group.num_positions
        slots = [
            _lanes(column.unflatten(1, (count, column.shape[1] // count)), lanes, dim)
            for column, lanes, dim in zip(columns, group.lanes, group.dims, strict=True)
        ]
        combines: list[Combine] = [output.combine for output in group.outputs]
        if group.num_positions > 1:  # the same combine serves every position of its output
            combines = [c for c in combines for _ in range(group.num_positions)]
        vectors = type(combines[0]).forward_many(combines, slots)
        vectors = vectors.reshape(
            columns[0].shape[0], len(group.outputs), group.num_positions, vectors.shape[-1]
        )
        pooled = vectors.sum(2) if group.num_positions > 1 else vectors
        return pooled.flatten(1)


def _is_plain(values: Tensor) -> bool:
    """True for numbers that a compiled loop reads: float32, on the CPU, not of a graph."""
    return (
        values.dtype == torch.float32
        and values.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def _lanes(column: Tensor, lanes: int, dim: int) -> Tensor:
    """``(N, n, stored) -> (N, n, dim)``: lane j's own columns from part j, added up."""
    if lanes == 1:
        return column if column.shape[-1] == dim else column[..., :dim]
    grid = column.unflatten(2, (lanes, lanes, dim))
    return grid.diagonal(dim1=2, dim2=3).sum(-1)


def _groups(outputs: Sequence[Output]) -> list[_Group]:
    return [_group(tuple(run)) for _, run in groupby(outputs, _shape)]


def _shape(output: Output) -> tuple[object, ...]:
    slots = tuple((len(slot.parts), slot.dim, slot.whole) for slot in output.inputs[0])
    return output.combine.kind, slots, output.dim, len(output.inputs)


def _group(outputs: tuple[Output, ...]) -> _Group:
    first = outputs[0].inputs[0]
    slots = tuple(
        tuple(part for o in outputs for slots in o.inputs for part in slots[j].parts)
        for j in range(len(first))
    )
    return _Group(
        outputs=outputs,
        num_positions=len(outputs[0].inputs),
        slots=slots,
        lanes=tuple(1 if slot.whole else len(slot.parts) for slot in first),
        dims=tuple(slot.dim for slot in first),
    )


def _make_cut(groups: Sequence[_Group], keys: Sequence[str], dims: Sequence[int]) -> _Cut:
    """Merge parts that are wanted side by side and are side by side into one piece."""
    place = {key: i for i, key in enumerate(keys)}
    joined: set[int] = set()
    for group in groups:
        for slot in group.slots:
            for left, right in pairwise(slot):
                if place[right] == place[left] + 1:
                    joined.add(place[right])
    piece_of: list[int] = []
    sizes: list[int] = []
    for i, dim in enumerate(dims):
        if i in joined:
            sizes[-1] += dim
        else:
            sizes.append(dim)
        piece_of.append(len(sizes) - 1)
    pieces = tuple(
        tuple(tuple(dict.fromkeys(piece_of[place[part]] for part in slot)) for slot in group.slots)
        for group in groups
    )
    return _Cut(tuple(keys), sizes, pieces)
