"""What a method's case file provides, and how a reference gets at the weights of a collection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from compactrec.embeddings import Feature, Plan
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.plan import Group
from tests.reference.packing import packed_shape

__all__ = ["Case", "Embed", "MethodCases", "Packed", "Reference", "Weights", "case", "unpacked"]

Embed = Callable[[int], Tensor]
"""id -> vector of one logical output."""


@dataclass(frozen=True)
class Weights:
    """All weights of a collection as float64 leaves, by the names the lowering gives them."""

    tables: Mapping[str, Tensor]
    """Physical tables by table name."""
    dense: Mapping[str, Mapping[str, Tensor]]
    """Parameters of each combine, by logical key and parameter name."""
    leaves: Mapping[str, Tensor] = field(default_factory=dict)
    """The same tensors by state-dict key."""


class Reference(Protocol):
    """The outputs of one group of a plan, id by id."""

    def __call__(
        self,
        config: Any,
        features: Sequence[Feature],
        arrays: Mapping[str, Tensor],
        weights: Weights,
    ) -> dict[str, Embed]: ...


@dataclass(frozen=True)
class Case:
    """One plan to run every contract test on."""

    name: str
    plan: Plan

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MethodCases:
    """One row of the case table."""

    method: str
    reference: Reference
    cases: tuple[Case, ...]


def case(
    name: str,
    *groups: tuple[Sequence[Feature], MethodConfig],
    arrays: Mapping[str, Sequence[int] | Tensor] | None = None,
) -> Case:
    """A case from groups of features; features stand in the plan in the order they are given.

    Arrays that are lists become int64.
    """
    features = tuple(f for members, _ in groups for f in members)
    tensors = {
        k: v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.int64)
        for k, v in (arrays or {}).items()
    }
    plan_groups = tuple(Group(tuple(f.name for f in m), config) for m, config in groups)
    return Case(name, Plan(features, plan_groups, tensors))


class Packed:
    """A logical table (num_rows, width) inside a physical one; rows are read one at a time."""

    def __init__(self, table: Tensor, num_rows: int, width: int) -> None:
        if tuple(table.shape) != packed_shape(num_rows, width):
            raise ValueError(f"{tuple(table.shape)} does not hold {num_rows} rows of {width}")
        self._table, self._num_rows, self._width = table, num_rows, width

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, row: int) -> Tensor:
        lanes = self._table.shape[1] // self._width
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {row} of {self._num_rows}")
        lane = row % lanes
        return self._table[row // lanes][lane * self._width : (lane + 1) * self._width]


def unpacked(weights: Weights, name: str, num_rows: int, width: int) -> Packed:
    """The logical table stored under a table name."""
    return Packed(weights.tables[name], num_rows, width)
