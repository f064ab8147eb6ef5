"""Make the tables of any model smaller in place: :func:`compress`, or see first what it would do.

Finds ``nn.Embedding``, ``nn.EmbeddingBag`` and torchrec's ``EmbeddingBagCollection`` and
``EmbeddingCollection``; :func:`compactrec.embeddings.materialize` is the way back. docs/swap.md is
the guide, docs/adr/0010-swap.md says why it is as it is.
"""

import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compactrec.embeddings.arguments import check_names
from compactrec.embeddings.budget import Counts
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.parameters import check_optimizer_list
from compactrec.embeddings.patterns import check_pattern
from compactrec.embeddings.plan import Plan
from compactrec.embeddings.swap_build import build
from compactrec.embeddings.swap_find import FoundTable, compressed_already, find_tables, listed
from compactrec.embeddings.swap_install import (
    check_optimizers,
    install,
    num_not_held,
    rewire_optimizers,
)
from compactrec.embeddings.swap_plan import Sizing, asked_plan, holds_all
from compactrec.embeddings.swap_report import SwapReport, make_report

__all__ = ["NoEffectWarning", "What", "compress", "plan_swap"]

What = str | Plan | Mapping[str, MethodConfig]
"""The name of a method, a plan over the tables of the model, or rules from names to configs."""


class NoEffectWarning(UserWarning):
    """``compress`` found nothing to replace, or an optimizer has nothing of the model."""


def compress(
    model: nn.Module,
    what: What,
    *,
    budget_bytes: int | None = None,
    counts: Counts | None = None,
    options: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    min_num_ids: int = 0,
    max_bags: Mapping[str, int] | None = None,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    report: bool | Callable[[SwapReport], None] = True,
) -> nn.Module:
    """Replace tables of ``model`` in place and return it; where it is a table itself, the new one.

    Replaced tables start untrained; those that stay full keep their weights. Device, dtype,
    training mode, ``requires_grad``, ``padding_idx``, ``sparse`` and ties are kept. An error
    changes nothing.

    Args:
        model: not yet wrapped by DDP, FSDP or DMP, and not yet compiled.
        what: a method's name (with ``budget_bytes``), a plan for the tables or for some of them, or
            rules ``{name, regular expression or "_default": config}``; what no rule matches stays.
        budget_bytes: for all tables that are asked for, those that stay full included. Counted at 4
            bytes a weight, whatever the dtype of the model. Where it holds them all as they are,
            none is replaced.
        counts: training frequencies by table name, for methods that want them.
        options: the method's own options.
        names: exact names or regular expressions of the tables asked for; None is all.
        min_num_ids: tables with at most this many ids stay full.
        max_bags: the most ids in a bag, by key of an EmbeddingBagCollection; 1 by default. Only
            methods that combine rows by more than sums need it, and raise on longer bags.
        optimizers: those that were made before; get the new parameters into the groups of the old
            ones, without their state. One that is not given goes on with the old parameters, and
            trains no replaced table: the report says how many are in none. Or make it afterwards.
        report: True prints the table to stderr, False does not; a function gets the report.

    Raises:
        ValueError: a wrapped model, a plan that does not fit it, a budget too small, a name that
            matches nothing.

    Warns:
        NoEffectWarning: nothing was replaced, or an optimizer holds no parameter of the model.

    Example::

        model = compress(model, "compositional", budget_bytes=64_000_000, optimizers=[optimizer])
    """
    check_optimizer_list(optimizers)
    if not isinstance(report, bool) and not callable(report):
        raise TypeError(
            f"report must be True, False or a function, got {report!r}; a function gets the report"
        )
    sizing = Sizing(budget_bytes, counts, options, min_num_ids)
    asked, done = _planned(model, what, sizing, names, max_bags)
    if not done.num_replaced:
        reasons = _why_nothing(done, compressed_already(model))
        warnings.warn(f"compress replaced nothing: {reasons}", NoEffectWarning, stacklevel=2)
        return model
    assert done.plan is not None
    built = build(asked, done.plan)
    check_optimizers(built, optimizers)
    _warn_of_strangers(model, optimizers)
    not_held = num_not_held([table.weight for table in asked], built, optimizers)
    dropped = rewire_optimizers(built.parameters, optimizers)
    result = install(model, built)
    done = replace(done, num_states_dropped=dropped, num_not_held=not_held)
    if callable(report):
        report(done)
    elif report:
        print(done, file=sys.stderr)
    return result


def plan_swap(
    model: nn.Module,
    what: What,
    *,
    budget_bytes: int | None = None,
    counts: Counts | None = None,
    options: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    min_num_ids: int = 0,
    max_bags: Mapping[str, int] | None = None,
) -> SwapReport:
    """What :func:`compress` would do with these arguments; allocates nothing, changes nothing.

    The report prints as a table, and its ``plan`` can be saved and given to ``compress``.
    """
    sizing = Sizing(budget_bytes, counts, options, min_num_ids)
    return _planned(model, what, sizing, names, max_bags)[1]


def _warn_of_strangers(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Say which optimizers train nothing of the model, one of another model above all."""
    own = {id(parameter) for parameter in model.parameters()}
    for i, optimizer in enumerate(optimizers):
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            warnings.warn(
                f"optimizers[{i}] ({type(optimizer).__name__}) holds no parameter of this model, "
                f"so it stays as it is; give the optimizers that train this model",
                NoEffectWarning,
                stacklevel=3,
            )


def _why_nothing(report: SwapReport, compressed: Sequence[str]) -> str:
    """Tables that stay for one reason together; and those that are no longer plain."""
    notes: dict[str, list[str]] = {}
    for row in report.rows:
        notes.setdefault(row.note, []).extend(row.names)
    reasons = [f"{', '.join(names)} {note}" for note, names in notes.items()]
    if compressed:
        reasons.append(f"compressed already: {', '.join(compressed)}")
    return "; ".join(reasons) or "the model has no embedding tables"


def _planned(
    model: nn.Module,
    what: What,
    sizing: Sizing,
    names: Sequence[str] | None,
    max_bags: Mapping[str, int] | None,
) -> tuple[list[FoundTable], SwapReport]:
    """The tables that are asked for and can be replaced, and what becomes of all tables."""
    tables = find_tables(model, max_bags)
    compressed = compressed_already(model)
    asked = [table for table in _named(tables, names, compressed) if not table.reason]
    plan = asked_plan(asked, what, sizing, compressed)
    return asked, make_report(tables, asked, plan, all_fit=holds_all(sizing, asked))


def _named(
    tables: list[FoundTable], names: Sequence[str] | None, compressed: Sequence[str]
) -> list[FoundTable]:
    """The tables with a feature that one of ``names`` is, or matches."""
    if names is None:
        return tables
    check_names(names, "C[0-9]+")
    exact = {feature.name for table in tables for feature in table.features}
    for name in names:
        if name not in exact:
            check_pattern(name, "table", "C[0-9]+")
    matched = {name: [t for t in tables if _matches(name, t, exact)] for name in names}
    idle = [name for name, found in matched.items() if not found]
    if idle:
        raise ValueError(
            f"names that match no table: {', '.join(idle)}; there are "
            f"{listed((t.name for t in tables), compressed)}"
        )
    return [table for table in tables if any(table in found for found in matched.values())]


def _matches(name: str, table: FoundTable, exact: set[str]) -> bool:
    if name in exact:
        return any(f.name == name for f in table.features)
    return any(re.fullmatch(name, f.name) for f in table.features)
