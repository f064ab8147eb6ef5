"""From what a person asks for to a plan over the tables that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compactrec.embeddings.arguments import check_budget, whole_number
from compactrec.embeddings.budget import Counts, budget_method, full_plan, make_plan
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.plan import Group, Plan, select
from compactrec.embeddings.registry import parse_options
from compactrec.embeddings.size import size
from compactrec.embeddings.swap_find import FoundTable, listed

__all__ = ["Sizing", "asked_plan", "holds_all", "keeps"]


@dataclass(frozen=True)
class Sizing:
    """What goes with the name of a method."""

    budget_bytes: int | None = None
    counts: Counts | None = None
    options: Mapping[str, Any] | None = None
    min_num_ids: int = 0

    def __post_init__(self) -> None:
        if self.budget_bytes is not None:
            check_budget(self.budget_bytes)
        whole_number(self.min_num_ids, "min_num_ids", "0 lets tables of any size be replaced")


def keeps(group: Group, tables: Sequence[FoundTable]) -> bool:
    """True where a group leaves one table as it is: full, and nothing else shares it."""
    names = set(group.features)
    touched = [t for t in tables if names & {f.name for f in t.features}]
    return isinstance(group.config, FullConfig) and len(touched) == 1


def holds_all(sizing: Sizing, tables: Sequence[FoundTable]) -> bool:
    """True where there is a budget, and all ``tables`` fit it as they are."""
    budget = sizing.budget_bytes
    return budget is not None and budget >= 4 * sum(table.weight.numel() for table in tables)


def asked_plan(
    tables: Sequence[FoundTable],
    what: str | Plan | Mapping[str, MethodConfig],
    sizing: Sizing,
    compressed: Sequence[str] = (),
) -> Plan | None:
    """A plan for some of ``tables``, those that can be replaced; None where it is for none.

    ``compressed`` are features of tables that are replaced already, for the errors to name.

    Raises ``ValueError`` for what does not fit the tables, and ``TypeError`` for anything else.
    """
    if not isinstance(what, (str, Plan, Mapping)):
        raise TypeError(
            f"compress takes the name of a method, a Plan, or rules from names to configs; got "
            f"{what!r}"
        )
    if not isinstance(what, str):
        _refuse_sizing(sizing, rules=isinstance(what, Mapping))
    if isinstance(what, Plan):
        return _checked(what, tables, compressed)
    if isinstance(what, Mapping):
        _check_rules(what)
    if not tables:
        return None
    if isinstance(what, str):
        return _by_budget(what, tables, sizing)
    # A pattern that names no default leaves what it does not match as it is.
    rules = {**what, "_default": what.get("_default", FullConfig())}
    firsts = tuple(table.features[0] for table in tables)
    return _with_ties(select(firsts, rules, min_num_ids=sizing.min_num_ids), tables)


def _check_rules(rules: Mapping[str, Any]) -> None:
    for name, config in rules.items():
        if isinstance(config, MethodConfig):
            continue
        way = "write one, such as MixedConfig(dims=(4,)) or FullConfig()"
        if isinstance(config, str):
            way += f"; or give the name alone: compress(model, {config!r}, budget_bytes=..., names="
            way += f"[{name!r}])"
        raise TypeError(f"the rule {name!r} must be a method config, got {config!r}; {way}")


def _refuse_sizing(sizing: Sizing, *, rules: bool) -> None:
    given = {
        "budget_bytes": sizing.budget_bytes,
        "counts": sizing.counts,
        "options": sizing.options,
        "min_num_ids": None if rules else sizing.min_num_ids or None,
    }
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise ValueError(
            f"{', '.join(extra)} go with the name of a method; a plan and rules hold their sizes"
        )


def _by_budget(method: str, tables: Sequence[FoundTable], sizing: Sizing) -> Plan:
    spec, _ = budget_method(method)
    if sizing.budget_bytes is None:
        raise ValueError(
            f"method {method!r} needs budget_bytes; the tables asked for take "
            f"{sum(t.num_bytes for t in tables):,} bytes now"
        )
    if holds_all(sizing, tables):
        parse_options(spec, sizing.options or {})  # still says what is wrong
        return _with_ties(full_plan([table.features[0] for table in tables]), tables)
    plan = _solve(method, tables, sizing, sizing.budget_bytes)
    owner = {f.name: t.owner for t in tables for f in t.features}
    if all(len({owner[name] for name in group.features}) == 1 for group in plan.groups):
        return plan
    # The method wants tables that layers and collections, or two collections, cannot share.
    total = sum(t.num_bytes for t in tables)
    plans = []
    for name in dict.fromkeys(owner.values()):
        own = [t for t in tables if t.owner == name]
        share = sizing.budget_bytes * sum(t.num_bytes for t in own) // total
        try:
            plans.append(_solve(method, own, sizing, share))
        except ValueError as error:
            raise ValueError(
                f"{error}. That budget is the part of {', '.join(t.name for t in own)} in the "
                f"{sizing.budget_bytes:,} bytes that were given"
            ) from None
    return _joined(plans)


def _solve(method: str, tables: Sequence[FoundTable], sizing: Sizing, budget_bytes: int) -> Plan:
    """The largest plan in which tied keys have the vectors of the first; they cost a few bytes."""
    firsts = [table.features[0] for table in tables]
    left = budget_bytes
    for _ in range(8):
        try:
            plan = make_plan(
                method,
                firsts,
                left,
                counts=sizing.counts,
                threshold=sizing.min_num_ids,
                options=sizing.options,
            )
        except ValueError:
            if left == budget_bytes:
                raise
            break  # there is one without the ties
        whole = _with_ties(plan, tables)
        over = size(whole).serving_bytes - budget_bytes
        if over <= 0:
            return whole
        left -= over
    raise ValueError(
        f"{method}: no plan for {budget_bytes:,} bytes holds the tables that several keys read; "
        f"raise the budget"
    )


def _joined(plans: Sequence[Plan]) -> Plan:
    arrays = {name: array for plan in plans for name, array in plan.arrays.items()}
    if len(arrays) < sum(len(plan.arrays) for plan in plans):
        raise ValueError("arrays of two collections have one name; compress them one by one")
    features = tuple(feature for plan in plans for feature in plan.features)
    return Plan(features, tuple(group for plan in plans for group in plan.groups), arrays)


def _with_ties(plan: Plan, tables: Sequence[FoundTable]) -> Plan:
    """The plan of the first keys, and with it the other keys of their tables."""
    more = {t.features[0].name: t.features[1:] for t in tables if len(t.features) > 1}
    if not more:
        return plan
    groups = []
    for group in plan.groups:
        ties = {f.name: name for name in group.features for f in more.get(name, ())}
        members = [n for name in group.features for n in (name, *_names(more.get(name, ())))]
        groups.append(replace(group, features=tuple(members), ties={**group.ties, **ties}))
    features = tuple(f for one in plan.features for f in (one, *more.get(one.name, ())))
    return Plan(features, tuple(groups), plan.arrays)


def _names(features: Sequence[Feature]) -> list[str]:
    return [feature.name for feature in features]


def _checked(plan: Plan, tables: Sequence[FoundTable], compressed: Sequence[str]) -> Plan:
    """``plan``, if it is one for these tables or for some of them."""
    found = {f.name: f for t in tables for f in t.features}
    unknown = [f.name for f in plan.features if f.name not in found]
    if unknown:
        raise ValueError(
            f"the plan has features that are no table of the model which can be replaced: "
            f"{', '.join(unknown)}; there are {listed(found, compressed)} (see plan_swap)"
        )
    layers = {f.name for t in tables if t.kind == "layers" for f in t.features}
    for ours in plan.features:
        theirs = found[ours.name]
        for field in ("num_ids", "dim", "pooling"):
            given, needed = getattr(ours, field), getattr(theirs, field)
            if given != needed and not (field == "pooling" and ours.name in layers):
                raise ValueError(
                    f"feature {ours.name!r} has {field} {given!r} in the plan and {needed!r} in "
                    f"the model; make a plan for this model"
                )
    _check_owners(plan, tables)
    return plan


def _check_owners(plan: Plan, tables: Sequence[FoundTable]) -> None:
    table_of = {f.name: t for t in tables for f in t.features}
    group_of = {name: i for i, group in enumerate(plan.groups) for name in group.features}
    for group in plan.groups:
        owners = {table_of[name].owner for name in group.features}
        if len(owners) > 1:
            raise ValueError(
                f"the group of {', '.join(group.features)} spans several collections, or one and "
                f"layers, and they cannot share tables; make a group for each"
            )
    for table in tables:
        names = _names(table.features)
        if len({group_of.get(name, -1) for name in names}) > 1:
            raise ValueError(
                f"{', '.join(names)} read one table of the model; put them in one group of the "
                f"plan, tied"
            )
