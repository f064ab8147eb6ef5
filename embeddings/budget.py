"""From a method's name and a number of bytes to a plan."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compactrec.embeddings.arguments import check_budget, whole_number
from compactrec.embeddings.counts import Counts, checked_counts
from compactrec.embeddings.feature import Feature, check_features
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.registry import (
    Assignments,
    Method,
    SizingTask,
    all_method_names,
    get_method,
    method_names,
    parse_options,
)
from compactrec.embeddings.size import size
from compactrec.embeddings.sizing import BudgetTooSmall, assignment_bytes

__all__ = ["SMALL_NUM_IDS", "Counts", "NoPlanSoSmall", "budget_method", "full_plan", "make_plan"]

SMALL_NUM_IDS = 200
"""Features of at most so many ids stay full, unless told otherwise: they cost next to nothing."""


class NoPlanSoSmall(ValueError):
    """No plan of a method is as small as the budget."""

    def __init__(
        self, method: str, budget_bytes: int, smallest_bytes: int, parts: str, advice: str = ""
    ) -> None:
        super().__init__(f"{method}: {_too_small(budget_bytes, smallest_bytes, parts, advice)}")
        self.smallest_bytes = smallest_bytes


def full_plan(features: Sequence[Feature]) -> Plan:
    """Every feature a full table of its own: what budgets are fractions of."""
    groups = _full_assignments(features).groups
    return Plan(tuple(features), tuple(Group((f.name,), c) for (f,), c in groups))


def make_plan(
    method: str,
    features: Sequence[Feature],
    budget_bytes: int,
    *,
    counts: Counts | None = None,
    threshold: int = SMALL_NUM_IDS,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """The largest plan of one method whose serving bytes are at most ``budget_bytes``.

    Args:
        method: a registered name, see ``method_names()``.
        features: the logical features.
        budget_bytes: tables, integer state and dense parts together; decimal bytes.
        counts: training frequencies; some methods need them and say so.
        threshold: features with at most this many ids keep a full table under every method.
        options: the method's own options, checked against its options type.

    Raises:
        TypeError: the budget or the threshold is no whole number, or options are not by name.
        ValueError: unknown method or option, or the budget is below the smallest possible plan.
    """
    spec, from_budget = budget_method(method)
    check_budget(budget_bytes)
    whole_number(threshold, "threshold", "0 keeps no table full", " of ids")
    check_features(tuple(features))
    small = [f for f in features if f.num_ids is not None and f.num_ids <= threshold]
    rest = tuple(f for f in features if f not in small)
    counts = checked_counts(rest, counts, [f.name for f in features])
    kept = _full_assignments(small)
    kept_bytes = assignment_bytes(kept) if small else 0
    stay = f"{kept_bytes:,} for {len(small)} feature(s) of at most {threshold} ids, which stay full"
    solved = Assignments((), {})
    if rest:
        parsed = parse_options(spec, options or {})
        task = SizingTask(rest, budget_bytes - kept_bytes, counts, parsed)
        try:
            solved = from_budget(task)
        except BudgetTooSmall as error:
            least = error.smallest_bytes
            parts = f"{stay}, and {least:,} for the others" if small else ""
            raise NoPlanSoSmall(
                method, budget_bytes, kept_bytes + least, parts, error.advice
            ) from None
    names = [tuple(f.name for f in group) for group, _ in (*kept.groups, *solved.groups)]
    configs = [config for _, config in (*kept.groups, *solved.groups)]
    groups = tuple(Group(n, c) for n, c in zip(names, configs, strict=True))
    plan = Plan(tuple(features), groups, solved.arrays)
    found = size(plan).serving_bytes
    if found > budget_bytes:
        raise NoPlanSoSmall(method, budget_bytes, found, stay if small else "")
    return plan


def _too_small(budget_bytes: int, needed: int, parts: str, advice: str = "") -> str:
    """``parts`` are those of the bytes ``needed``, where features stay full."""
    ways = ["raise the budget"]
    if parts:
        ways.append("lower that limit (threshold, in compress min_num_ids)")
        parts = f" ({parts})"
    ways += [advice] if advice else []
    return (
        f"the budget is {budget_bytes:,} bytes, but the smallest plan takes {needed:,} "
        f"bytes{parts}; {', or '.join(ways)}"
    )


def budget_method(name: str) -> tuple[Method, Callable[[SizingTask], Assignments]]:
    """The method of that name and how it fits a budget; ``ValueError`` where it cannot."""
    if name not in all_method_names() and name in _search_names():
        raise ValueError(
            f"{name!r} is a search, and searches make plans: run `compactrec search --method "
            f"{name}` and pass the plan that it saves (Plan.load), or name a method: "
            f"{', '.join(method_names())}"
        )
    spec = get_method(name)
    if spec.from_budget is None:
        raise ValueError(
            f"{name}: such plans come from a search (`compactrec search`), not from a number of "
            f"bytes alone; methods with a budget are {', '.join(method_names())}"
        )
    return spec, spec.from_budget


def _search_names() -> list[str]:
    """Searches need torchrec; without it there are none to ask about."""
    try:
        from compactrec.embeddings.search import search_names
    except ModuleNotFoundError:
        return []
    return search_names()


def _full_assignments(features: Sequence[Feature]) -> Assignments:
    return Assignments(tuple(((f,), FullConfig()) for f in features), {})
