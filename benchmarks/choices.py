"""What a person asks for in words (`hash:sign=true`, `1/4`) -> configs and plans."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from compactrec.benchmarks.budgets import format_bytes, parse_budget
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.plans import resolve_plan
from compactrec.benchmarks.start import start_epochs
from compactrec.data.manifest import Manifest
from compactrec.embeddings import AnyPlan, get_method, method_names, size

__all__ = [
    "FULL",
    "MethodChoice",
    "changed",
    "full_serving_bytes",
    "parse_choice",
    "parse_method",
    "parse_search",
    "plan_for",
    "train_config_for",
    "with_baselines",
]

FULL = "full"


@dataclass(frozen=True)
class MethodChoice:
    """A method, or a search, and the options that were asked for."""

    text: str
    name: str
    options: dict[str, JsonValue]
    threshold: int | None = None
    is_search: bool = False
    baseline: bool = False
    draws: bool = False
    """Every seed draws its own hash functions or widths, unless a seed was asked for."""
    plan: Path | None = None
    """A plan file to train as it is."""


def parse_choice(text: str) -> MethodChoice:
    """:func:`parse_method`, or :func:`parse_search` where the name is that of a search; a text that
    ends in `.json` is a plan file."""
    from compactrec.embeddings.search import search_names

    if text.strip().endswith(".json"):
        path = Path(text.strip())
        if not path.is_file():
            raise ValueError(f"there is no plan file {path}")
        return MethodChoice(path.stem, path.stem, {}, plan=path)
    name = text.partition(":")[0].strip()
    if name in search_names():
        return parse_search(text)
    if name not in method_names():
        raise ValueError(
            f"unknown method {name!r}: there are {', '.join(method_names())} and the searches "
            f"{', '.join(search_names())}"
        )
    return parse_method(text)


def parse_method(text: str) -> MethodChoice:
    """`name` or `name:key=value:key=value`; values are JSON, or text where they are not.

    `threshold` is the vocabulary up to which a feature stays full; every other key is an option of
    the method. Raises ValueError for an unknown method or option, naming what there is.
    """
    from compactrec.embeddings.registry import parse_options
    from compactrec.embeddings.search import search_names

    name = text.partition(":")[0].strip()
    if name in search_names():
        raise ValueError(f"{name!r} is a search: compactrec search --method {name} makes the plan")
    method = get_method(name)
    choice = _parse(text)
    parse_options(method, choice.options)
    return replace(
        choice,
        baseline=method.baseline and not choice.options,
        draws="seed" in method.options.model_fields and "seed" not in choice.options,
    )


def parse_search(text: str) -> MethodChoice:
    """The same for a search. Options that begin with `train.` are fields of the supernet's
    training, see :func:`compactrec.benchmarks.search_config.search_config`; features of at most
    `train.threshold` ids stay full."""
    from compactrec.embeddings.search import get_search
    from compactrec.embeddings.search.base import parse_search_options

    name = text.partition(":")[0].strip()
    if name in method_names():
        raise ValueError(f"{name!r} is a method: compactrec plan --method {name} makes the plan")
    if "," in name:
        raise ValueError(f"{name!r}: one search at a time, or several with compactrec compare")
    search = get_search(name)
    choice = _parse(text, own=("threshold",))
    loop = {k for k in choice.options if k.startswith("train.") or k == "fitness_rows"}
    parse_search_options(search, {k: v for k, v in choice.options.items() if k not in loop})
    baseline = search.baseline and not choice.options
    return replace(choice, is_search=True, baseline=baseline)


def _parse(text: str, own: Iterable[str] = ()) -> MethodChoice:
    """The words, not yet checked against what there is; `own` are options in any case."""
    name, *pairs = (part.strip() for part in text.split(":"))
    options: dict[str, JsonValue] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(
                f"method {text!r}: {pair!r} is not an option; write "
                "'name:key=value', such as 'compositional:operation=concat'"
            )
        try:
            options[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[key.strip()] = value.strip()
    threshold = None if "threshold" in own else options.pop("threshold", None)
    if threshold is not None and (not isinstance(threshold, int) or threshold < 0):
        raise ValueError(f"method {text!r}: threshold must be a whole number, 0 or more")
    return MethodChoice(":".join([name, *pairs]), name, options, threshold)


def with_baselines(methods: Iterable[str]) -> list[MethodChoice]:
    """The methods asked for (none: all with a budget) and the baselines, full first, then in the
    registry's order, searches last. Searches bring baselines of their own."""
    from compactrec.embeddings.search import get_search, search_names

    asked = [parse_choice(text) for text in methods if text.strip()]
    names, searches = method_names(), search_names()
    if not asked:
        asked = [parse_method(name) for name in names]
    asked += [parse_method(name) for name in names if get_method(name).baseline]
    if any(choice.is_search for choice in asked):
        asked += [parse_method(name) for name in names if get_method(name).search_baseline]
        asked += [parse_search(name) for name in searches if get_search(name).baseline]
    unique = {choice.text: choice for choice in asked}
    order = [FULL, *names, *searches]
    places = {name: place for place, name in enumerate(order)}
    return sorted(
        unique.values(), key=lambda c: len(order) if c.plan is not None else places[c.name]
    )


def full_serving_bytes(base: TrainConfig, manifest: Manifest) -> int | None:
    """Serving bytes of the full tables of the data; None where a vocabulary is open."""
    if any(feature.num_ids is None for feature in manifest.sparse):
        return None
    full = changed(base, plan=None, method=FULL, budget_bytes=None, options={})
    return size(resolve_plan(full, manifest)).serving_bytes


def train_config_for(
    base: TrainConfig, plan: Path | None, method: str | None, budget: str | None
) -> TrainConfig:
    """`base` with either a plan file, or a method and (but for `full`) a budget; with nothing of
    it, full tables. A start that asks for a number of epochs gets them, unless others are given.

    Raises ValueError when both are given, a budget goes without a method, or one is not understood.
    """
    both = plan is not None and method is not None
    if both or (budget is not None and plan is None and method is None):
        raise ValueError(
            "give either --plan FILE, or --method NAME with --budget SIZE; none of them trains "
            "full tables"
        )
    if plan is not None:
        if budget is not None:
            raise ValueError("--budget goes with --method; a plan file has its size already")
        if not plan.is_file():
            raise ValueError(
                f"--plan {plan} is not a file; give a plan as 'compactrec plan' and 'compactrec "
                f"search' write it"
            )
        asked = None if base.start is None else start_epochs(base.start)
        if asked is not None and "epochs" not in base.model_fields_set:
            base = changed(base, epochs=asked)
        return changed(base, plan=plan, method=None, budget_bytes=None)
    choice = parse_method(method or FULL)
    num_bytes = None
    if budget is not None and choice.name == FULL:
        raise ValueError(
            f"--budget {budget} goes with a method that can be sized; full tables have a size of "
            "their own: leave --budget out, or choose another method"
        )
    if budget is not None:
        full_bytes = full_serving_bytes(base, Manifest.load(base.data))
        num_bytes = parse_budget(budget).resolve(full_bytes)
    threshold = base.threshold if choice.threshold is None else choice.threshold
    return changed(
        base, plan=None, method=choice.name, budget_bytes=num_bytes, options=choice.options,
        threshold=threshold,
    )  # fmt: skip


def plan_for(base: TrainConfig, method: str, budget: str) -> AnyPlan:
    """The plan of `method` for the data of `base` within `budget`.

    Raises ValueError when the method or the budget is not understood, or does not fit.
    """
    config = train_config_for(base, None, method, budget)
    return resolve_plan(config, Manifest.load(base.data))


def saves_nothing(base: TrainConfig, method: str | None, budget: str | None) -> str:
    """What to tell a person whose budget is no less than the full tables take; ``""`` else."""
    if method in (None, FULL) or budget is None:
        return ""
    full = full_serving_bytes(base, Manifest.load(base.data))
    asked = parse_budget(budget).resolve(full)
    if full is None or asked < full:
        return ""
    return (
        f"The full tables take {format_bytes(full)}, no more than the budget of "
        f"{format_bytes(asked)}: {method} saves nothing here."
    )


def changed(config: TrainConfig, **update: Any) -> TrainConfig:
    """A changed copy, checked again, that knows which fields were given and which never were."""
    made = TrainConfig.model_validate({**dict(config), **update})
    made.model_fields_set.intersection_update(config.model_fields_set | update.keys())
    return made
