"""Full table: one row per id. The upper reference of every comparison.

``e(x) = E[x]`` with ``E (n, D)``, initialised U(+-sqrt(1/n)) as in DLRM. Bags pool exactly.
Cost: ``4 * n * D`` bytes.
"""

from typing import ClassVar

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
from compactrec.embeddings.sizing import BudgetTooSmall, assignment_bytes

__all__ = ["FullConfig", "lower_full"]


class FullConfig(MethodConfig):
    """One row per id. Features of one group share the table (the same id, the same row)."""

    method: ClassVar[str] = "full"

    init: Init | None = None
    """Initial weights; None is U(+-sqrt(1/n))."""


def lower_full(config: FullConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table for the group, wide as the logical vector."""
    num_ids = require_vocabulary(config.method, features, same=True)
    init = config.init or first_init(features, dlrm_init(num_ids))
    blocks = [Block(table_name(features, "id"), num_ids, features[0].dim, init)]
    return packed(features, "id", blocks)


def _from_budget(task: SizingTask) -> Assignments:
    assigned = Assignments(tuple(((f,), FullConfig()) for f in task.features), {})
    needed = assignment_bytes(assigned)
    if needed > task.budget_bytes:
        raise BudgetTooSmall(needed, "choose a method that compresses")
    return assigned


register_method(
    Method(
        config=FullConfig,
        lower=lower_full,
        from_budget=_from_budget,
        options=NoOptions,
        title="Full table",
        paper="-",
        formula="e(x) = E[x]",
        baseline=True,
    )
)
