"""One smaller width for every feature: the baseline that every size search must beat.

``e(x) = E[x] @ P`` with ``E (n, r)`` and a bias-free ``P (r, D)`` of the feature's own; without
``P`` where ``r = D``. The same as a rank-r factorisation of the full table. Linear, so bags are
pooled at width ``r`` and projected once. Cost: ``4 * (n * r + r * D)`` bytes.

One width cannot use up a budget. What it leaves gives some features width ``r + 1``, the smallest
first, and the next one in part: its first ``m`` ids, the frequent ones where ids are numbered by
frequency, with a table and a projection of their own, ``4 * (m + D) * (r + 1)`` bytes.
"""

from functools import partial
from typing import ClassVar

from pydantic import Field

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import (
    Assignments,
    Method,
    NoOptions,
    SizingTask,
    register_method,
)
from compactrec.embeddings.sizing import largest, largest_step

__all__ = ["UniformConfig", "lower_uniform"]


class UniformConfig(MethodConfig):
    """A table of width ``dim`` and a projection to the feature's width; the same, wider by one,
    for the first ids if wanted."""

    method: ClassVar[str] = "uniform"

    dim: int = Field(ge=1)
    """Stored width r, at most the feature's own."""
    wider_ids: int = Field(default=0, ge=0)
    """Ids ``0 .. wider_ids - 1`` have width r + 1; less than num_ids."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n))."""


def lower_uniform(config: UniformConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table of width ``dim`` for the group, or two, and a projection for each feature."""
    num_ids = require_vocabulary(config.method, features, same=True)
    wider, dim = config.wider_ids, config.dim
    init = config.init or first_init(features, dlrm_init(num_ids))
    if not wider:
        return packed(features, "id", [Block(table_name(features, "id"), num_ids, dim, init)])
    if wider >= num_ids or dim >= features[0].dim:
        raise ValueError(
            f"uniform: wider_ids must be less than num_ids = {num_ids} and the wider width at most "
            f"{features[0].dim} for feature {features[0].name!r}, got {wider} ids of width "
            f"{dim + 1}; lower wider_ids or dim"
        )
    sizes = ((wider, dim + 1), (num_ids - wider, dim))
    blocks = [Block(table_name(features, f"b{i}"), n, d, init) for i, (n, d) in enumerate(sizes)]
    return packed(features, "b", blocks)


def _from_budget(task: SizingTask) -> Assignments:
    """The same width r everywhere; what is left over widens features by one, smallest first."""
    sizes = [require_vocabulary("uniform", (f,)) for f in task.features]
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    widest = max(f.dim for f in task.features)

    def dims_at(steps: int) -> list[int]:
        dim, wider = divmod(steps, len(order))
        dims = [dim] * len(order)
        for i in order[:wider]:
            dims[i] += 1
        return [min(d, f.dim) for d, f in zip(dims, task.features, strict=True)]

    def assign(dims: list[int], split: int = 0, ids: int = 0) -> Assignments:
        groups = [
            ((f,), UniformConfig(dim=dims[i], wider_ids=ids if i == split else 0))
            for i, f in enumerate(task.features)
        ]
        return Assignments(tuple(groups), {})

    steps = largest_step(
        lambda k: assign(dims_at(k)), len(order), widest * len(order), task.budget_bytes
    )
    dims, following = dims_at(steps), dims_at(steps + 1)
    for i in order:
        if following[i] > dims[i]:
            at = partial(assign, dims, i)
            return largest(at, 0, sizes[i] - 1, task.budget_bytes)
    return assign(dims)


register_method(
    Method(
        config=UniformConfig,
        lower=lower_uniform,
        from_budget=_from_budget,
        options=NoOptions,
        title="One smaller width",
        paper="-",
        formula="e(x) = E[x] P,  E (n, r), P (r, D)",
        baseline=True,
    )
)
