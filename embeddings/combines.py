"""Small dense parts: from the vectors of a feature's slots to its logical vector.

A combine is called with one tensor ``(N, d_j)`` per slot and returns ``(N, D)``. ``N`` counts bags
where the combine is linear (then pooling may come first), ids or bag positions where it is not.
Zero inputs give a zero output, so empty bags need no special case: hence no biases here.
"""

import functools
import math
import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Combine",
    "Concat",
    "Paths",
    "Place",
    "Product",
    "Project",
    "Select",
    "Subtract",
    "Sum",
    "Term",
    "project_many",
    "sum_of",
]


class Term(NamedTuple):
    """A summand of a combine: ``out[target : ...] += v``, ``-= v``, ``+= v * w`` or ``+= v @ P``.

    ``v`` and ``w`` are the first ``width`` columns of ``slots``.
    """

    kind: Literal["add", "subtract", "multiply", "project"]
    slots: tuple[int, ...]
    width: int
    target: int = 0
    weight: str | None = None
    """Of ``project``: the name of the parameter P ``(width, D)``."""


class Combine(nn.Module):
    """Base of all combines; the two facts let the collection batch and pool."""

    linear: bool = True
    """True where the combine commutes with sum pooling."""
    surrogate: bool = False
    """True where the backward pass is by design not the derivative of the forward pass."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be equal, beside the slots, for combines to run together."""
        return (type(self),)

    def forward(self, slots: list[Tensor]) -> Tensor:
        """``[(..., d_j), ...] -> (..., D)``"""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the initial weights; nothing to do where there are none."""

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        """What :meth:`forward` adds up, for slots ``dims`` wide and ``dim`` columns; None where it
        is nothing of that kind. With terms, all combines of a batch run in one pass."""
        return None

    @classmethod
    def forward_many(cls, combines: Sequence["Combine"], slots: list[Tensor]) -> Tensor:
        """n combines of one shape at once: ``[(N, n, d_j), ...] -> (N, n, D)``.

        A combine without parameters needs nothing more than its ``forward``.
        """
        return combines[0](slots)


class Select(Combine):
    """The only slot, as it is."""

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        return [Term("add", (0,), dim)]

    def forward(self, slots: list[Tensor]) -> Tensor:
        return slots[0]


class Sum(Combine):
    """``v_1 + v_2 + ...``"""

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        return [Term("add", (i,), dim) for i in range(len(dims))]

    def forward(self, slots: list[Tensor]) -> Tensor:
        return sum_of(slots)


class Subtract(Combine):
    """``v_1 - v_2``: sums of ids with sign +1 and with sign -1."""

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        return [Term("add", (0,), dim), Term("subtract", (1,), dim)]

    def forward(self, slots: list[Tensor]) -> Tensor:
        return slots[0] - slots[1]


class Product(Combine):
    """``v_1 * v_2 * ...``, element by element. Not linear: products come before pooling."""

    linear = False

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        return [Term("multiply", (0, 1), dim)] if len(dims) == 2 else None

    def forward(self, slots: list[Tensor]) -> Tensor:
        return functools.reduce(operator.mul, slots)


class Concat(Combine):
    """``[v_1, v_2, ...]``"""

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        firsts = accumulate(dims, initial=0)
        return [Term("add", (i,), d, at) for i, (d, at) in enumerate(zip(dims, firsts))]  # noqa: B905  # the last sum is the width

    def forward(self, slots: list[Tensor]) -> Tensor:
        return slots[0] if len(slots) == 1 else torch.cat(slots, dim=-1)


class Place(Combine):
    """Columns of the slots at their logical places, zeros elsewhere; what meets in a place adds up.

    Args:
        columns: for every column of all slots, or of those that are taken, its logical place.
        dim: the logical width D.
        take: which columns of all slots to take; None takes all.
    """

    def __init__(
        self, columns: Sequence[int], dim: int, *, take: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.columns, self.dim = tuple(columns), dim
        self.take = None if take is None else tuple(take)
        self._front = take is None and self.columns == tuple(range(len(self.columns)))

    @property
    def kind(self) -> tuple[object, ...]:
        return (Place, len(self.columns), self.take is None)

    def forward(self, slots: list[Tensor]) -> Tensor:
        return Place.forward_many([self], [slot.unsqueeze(-2) for slot in slots]).squeeze(-2)

    @classmethod
    def forward_many(cls, combines: Sequence[Combine], slots: list[Tensor]) -> Tensor:
        places = [c for c in combines if isinstance(c, Place)]
        values = slots[0] if len(slots) == 1 else torch.cat(slots, dim=-1)
        dim = places[0].dim
        if all(p._front for p in places):
            return functional.pad(values, (0, dim - values.shape[-1]))
        if places[0].take is not None:
            values = values.gather(-1, _index([p.take or () for p in places], values))
        placed = values.new_zeros(*values.shape[:-1], dim)
        return placed.scatter_add(-1, _index([p.columns for p in places], values), values)


def _index(columns: Sequence[Sequence[int]], values: Tensor) -> Tensor:
    """``(n, k)`` whole numbers, spread over ``(..., n, k)`` on the device of ``values``."""
    index = torch.tensor(columns, dtype=torch.int64, device=values.device)
    return index.expand(*values.shape[:-2], *index.shape)


class Project(Combine):
    """``sum_b v_b @ P_b`` with ``P_b (d_b, D)`` only where ``d_b < D``; no bias.

    Args:
        block_dims: the width of every slot.
        dim: the logical width D.
    """

    def __init__(self, block_dims: Sequence[int], dim: int) -> None:
        super().__init__()
        wide = [d for d in block_dims if d > dim]
        if wide:
            raise ValueError(f"block widths {wide} are larger than the logical width {dim}")
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.empty(d, dim)) for d in block_dims if d < dim]
        )
        self._which: list[int | None] = []
        for d in block_dims:
            self._which.append(sum(w is not None for w in self._which) if d < dim else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform, bound ``sqrt(6 / (d_b + D))``, as the reference."""
        for weight in self.weights:
            if not weight.is_meta:
                nn.init.xavier_uniform_(weight)

    def terms(self, dims: Sequence[int], dim: int) -> list[Term] | None:
        return [
            Term("add", (i,), d)
            if which is None
            else Term("project", (i,), d, weight=f"weights.{which}")
            for i, (d, which) in enumerate(zip(dims, self._which, strict=True))
        ]

    def forward(self, slots: list[Tensor]) -> Tensor:
        return sum_of(
            slot if which is None else slot @ self.weights[which]
            for slot, which in zip(slots, self._which, strict=True)
        )

    @classmethod
    def forward_many(cls, combines: Sequence[Combine], slots: list[Tensor]) -> Tensor:
        projects = [c for c in combines if isinstance(c, Project)]
        first = projects[0]
        return sum_of(
            slot
            if which is None
            else project_many(slot, torch.stack([p.weights[which] for p in projects]))
            for slot, which in zip(slots, first._which, strict=True)
        )


def project_many(vectors: Tensor, weights: Tensor) -> Tensor:
    """``(N, n, d), (n, d, D) -> (N, n, D)``: n products with small matrices."""
    if torch.compiler.is_compiling():
        return torch.einsum("bnd,ndk->bnk", vectors, weights)
    projected: Tensor = _ProjectMany.apply(vectors, weights)
    return projected


class _ProjectMany(torch.autograd.Function):
    """The gradient of narrow vectors is taken transposed, for speed on a CPU."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, weights)
        return torch.bmm(vectors.transpose(0, 1), weights).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        vectors, weights = ctx.saved_tensors
        of_vectors = torch.bmm(weights, gradient.permute(1, 2, 0)).permute(2, 0, 1)
        of_weights = torch.bmm(vectors.permute(1, 2, 0), gradient.transpose(0, 1))
        return of_vectors, of_weights


class Paths(Combine):
    """``M_{k, p_k}( ... M_{2, p_2}(v_1))``: the first slot through functions that digits choose.

    Slot 0 is the row ``(N, D)``. Every further slot is the one-hot row of a digit ``(N, c)`` from
    a fixed identity table; it is detached, so it is never trained. Per-id weights scale the last
    one-hot row, hence the result (and get no gradient). Each function is one hidden ReLU layer:
    ``relu(v @ A + a) @ C + c``. All ``c`` functions are evaluated and one is kept.

    Args:
        num_functions: the number of functions at every step.
        dim: input and output width D.
        hidden_dim: hidden width h. Scalars per step: ``c * (D*h + h + h*D + D)``.
    """

    linear = False

    def __init__(self, num_functions: Sequence[int], dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.shapes = tuple(num_functions)
        steps = []
        for c in num_functions:
            step = nn.ParameterDict(
                {
                    "weight_in": nn.Parameter(torch.empty(c, dim, hidden_dim)),
                    "bias_in": nn.Parameter(torch.empty(c, hidden_dim)),
                    "weight_out": nn.Parameter(torch.empty(c, hidden_dim, dim)),
                    "bias_out": nn.Parameter(torch.empty(c, dim)),
                }
            )
            steps.append(step)
        self.steps = nn.ModuleList(steps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As ``nn.Linear``: uniform with bound ``1 / sqrt(fan_in)``."""
        for step in self.steps:
            assert isinstance(step, nn.ParameterDict)
            for name, parameter in step.items():
                fan_in = step["weight_in" if name.endswith("in") else "weight_out"].shape[1]
                if not parameter.is_meta:
                    nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, slots: list[Tensor]) -> Tensor:
        value = slots[0].reshape(-1, slots[0].shape[-1])
        for step, one_hot in zip(self.steps, slots[1:], strict=True):
            assert isinstance(step, nn.ParameterDict)
            chosen = one_hot.detach().reshape(-1, one_hot.shape[-1])
            hidden = torch.einsum("nd,cdh->cnh", value, step["weight_in"])
            hidden = torch.relu(hidden + step["bias_in"][:, None, :])
            out = torch.einsum("cnh,chd->cnd", hidden, step["weight_out"])
            out = out + step["bias_out"][:, None, :]
            value = torch.einsum("cnd,nc->nd", out, chosen)
        return value.reshape(*slots[0].shape[:-1], value.shape[-1])

    @classmethod
    def forward_many(cls, combines: Sequence[Combine], slots: list[Tensor]) -> Tensor:
        each = [c([slot[:, i] for slot in slots]) for i, c in enumerate(combines)]
        return torch.stack(each, dim=1)


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors."""
    return functools.reduce(operator.add, terms)
