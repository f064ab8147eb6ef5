"""The plans that a model was built from, as JSON in its checkpoint, and what differs in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from compactrec.embeddings.checkpoint_index import canonical, differences, first_few
from compactrec.embeddings.checkpoint_io import CheckpointError
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.known_modules import is_collection, wrapper_of
from compactrec.embeddings.registry import config_from_dict
from compactrec.embeddings.single import SingleFeature

__all__ = ["check_plans", "plans_of"]


def plans_of(model: nn.Module) -> dict[str, Any]:
    """JSON: what each collection and each compressed layer of ``model`` was built from, by path.

    Paths are the same with and without DistributedModelParallel around the model.
    """
    plans = {path: _plan(module) for path, module in _built("", model, set())}
    found: dict[str, Any] = json.loads(canonical(plans))
    return found


def check_plans(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a part of ``model`` was built from another plan than ``saved``.

    Parts that only one of them has are found by the names of their tensors.
    """
    wrong = []
    for path, ours in plans_of(model).items():
        if path in saved and saved[path] != ours:
            kind = "layer" if "config" in ours else "collection"
            where = f"{kind} {path!r}" if path else f"the {kind}"
            wrong.append(f"{where}: {', '.join(differences(_full(saved[path]), _full(ours)))}")
    if wrong:
        raise CheckpointError(
            f"the checkpoint is of another plan: {'; '.join(first_few(wrong))}. Build the model "
            "from the plan that was saved, or start anew in another folder"
        )


def _built(path: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, SingleFeature) or is_collection(module):
        yield path, module
        return
    wrapper = wrapper_of(module)
    inside = "" if wrapper is None else wrapper.outside_names
    for name, child in module.named_children():
        yield from _built(path if name == inside else f"{path}.{name}".lstrip("."), child, seen)


def _full(value: Any) -> Any:
    """With the defaults of configs and features, which JSON leaves out, so that a difference to one
    is shown; as it is where this program does not know it."""
    if isinstance(value, list):
        return [_full(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        if "method" in value:
            return {**value, **config_from_dict(value).model_dump(mode="json")}
        if {"name", "dim"} <= value.keys():
            return Feature.model_validate(value).model_dump(mode="json")
    except ValueError:
        return value
    return {key: _full(item) for key, item in value.items()}


def _plan(module: Any) -> dict[str, Any]:
    if not isinstance(module, SingleFeature):
        plan: dict[str, Any] = module.plan.to_json()
        return plan
    feature = {name: getattr(module.feature, name) for name in ("name", "num_ids", "dim")}
    return {"feature": feature, "config": module.config.to_dict()}
