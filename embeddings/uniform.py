"""One smaller width for every feature: the baseline that every size search must beat.

``e(x) = E[x] @ P`` with ``E (n, r)`` and a bias-free ``P (r, D)`` of the feature's own; without
``P`` where ``r = D``. The same as a rank-r factorisation of the full table. Linear, so bags are
pooled at width ``r`` and projected once. Cost: ``4 * (n * r + r * D)`` bytes.
"""

from typing import ClassVar

from pydantic import Field

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import (
    Assignments,
    Method,
    NoOptions,
    SizingTask,
    register_method,
)
from compactrec.embeddings.sizing import largest

__all__ = ["UniformConfig", "lower_uniform"]


class UniformConfig(MethodConfig):
    """A table of width ``dim`` and a projection to the feature's width."""

    method: ClassVar[str] = "uniform"

    dim: int = Field(ge=1)
    """Stored width r, at most the feature's own."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n))."""


def lower_uniform(config: UniformConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table of width ``dim`` for the group and a projection for each feature."""
    num_ids = require_vocabulary(config.method, features, same=True)
    init = config.init or dlrm_init(num_ids)
    return packed(features, "id", [Block(table_name(features, "id"), num_ids, config.dim, init)])


def _from_budget(task: SizingTask) -> Assignments:
    """The same width r everywhere; what is left over widens features by one, smallest first."""
    order = sorted(range(len(task.features)), key=lambda i: task.features[i].num_ids or 0)
    rank = {i: place for place, i in enumerate(order)}
    count = len(order)

    def assign(steps: int) -> Assignments:
        dim, wider = divmod(steps, count)
        groups = [
            ((f,), UniformConfig(dim=min(dim + (rank[i] < wider), f.dim)))
            for i, f in enumerate(task.features)
        ]
        return Assignments(tuple(groups), {})

    widest = max(f.dim for f in task.features)
    return largest(assign, count, widest * count, task.budget_bytes, "uniform")


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
