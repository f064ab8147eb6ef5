"""First-order weights beside what a search makes smaller: full tables in every plan it derives.

As in the authors' code of PEP and OptEmbed, where no search touches them; here their bytes are part
of a budget, once for each set of tables.
"""

from dataclasses import replace

from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.plan import AnyPlan, Plan
from compactrec.embeddings.routed import RoutedPlan
from compactrec.embeddings.search.base import BudgetTooSmallError, Derived, Search, Trained
from compactrec.embeddings.size import size

__all__ = ["derive_with_beside", "full_bytes", "with_full"]


def derive_with_beside(search: Search, trained: Trained, budget: int | None) -> Derived:
    """``search.derive``, with the task's features ``beside`` in the plan and in the budget.

    Raises ``BudgetTooSmallError`` where they leave too little of it.
    """
    beside = trained.task.beside
    if not beside:
        return search.derive(trained, budget)
    if budget is None:
        found = search.derive(trained, None)
        return replace(found, plan=with_full(found.plan, beside))
    taken = full_bytes(beside)
    while True:
        found = _derived(search, trained, budget, taken)
        whole = with_full(found.plan, beside)
        total = size(whole).serving_bytes
        if total <= budget:
            return replace(found, plan=whole)
        taken = total - size(found.plan).serving_bytes  # several sets of tables, each with its own


def full_bytes(features: tuple[Feature, ...]) -> int:
    """Serving bytes of full tables of ``features``; 0 for none."""
    return size(full_plan(features)).serving_bytes if features else 0


def with_full(plan: AnyPlan, features: tuple[Feature, ...]) -> AnyPlan:
    """``plan`` and, after its own, ``features`` in full tables: one for each set of its tables."""
    full = full_plan(features)
    plans = tuple(
        Plan((*p.features, *features), (*p.groups, *full.groups), p.arrays) for p in plan.plans
    )
    if isinstance(plan, Plan):
        return plans[0]
    names = tuple(feature.name for feature in features)
    router = plan.router.model_copy(update={"beside": (*plan.router.beside, *names)})
    return RoutedPlan(plans, router, plan.arrays, plan.columns)


def _derived(search: Search, trained: Trained, budget: int, taken: int) -> Derived:
    what = f"{taken:,} bytes of first-order weights, which stay full"
    if budget <= taken:
        raise BudgetTooSmallError(f"{search.name}: {budget:,} bytes do not hold {what}")
    try:
        return search.derive(trained, budget - taken)
    except BudgetTooSmallError as error:
        raise BudgetTooSmallError(f"{error}; and beside it {what}") from None
