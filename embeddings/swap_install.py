"""Puts replacements into a model, into what the model holds, and into optimizers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from compactrec.embeddings.swap_build import Built, distinct

__all__ = ["check_optimizers", "install", "num_not_held", "rewire_optimizers"]

_DEPTH = 4
"""How deep lists and dicts of a module are looked through."""
_TORCHS_OWN = frozenset(vars(nn.Module()))


def check_optimizers(built: Built, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Raise ``ValueError`` where an optimizer could not train what it would get."""
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.SparseAdam):
            continue
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        dense = _dense_parameters(built)
        new = [p for old, more in built.parameters.items() if old in held for p in more]
        if any(id(p) in dense for p in new):
            raise ValueError(
                "SparseAdam takes sparse gradients alone, but these tables have small dense parts "
                "(projections); use Adagrad or Adam, or a method without dense parts"
            )


def num_not_held(
    weights: Iterable[nn.Parameter], built: Built, optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """How many of the ``weights`` are replaced and train, and are in none of ``optimizers``."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    replaced = [p for p in weights if id(p) in built.parameters and p.requires_grad]
    return sum(id(p) not in held for p in replaced)


def install(model: nn.Module, built: Built) -> nn.Module:
    """``model`` with the new modules and parameters in; the new module where it is one itself."""
    if id(model) in built.modules:
        return built.modules[id(model)]
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if id(child) in built.modules:
                module._modules[name] = built.modules[id(child)]
        _replace_held(module, built)
    return model


def rewire_optimizers(
    parameters: Mapping[int, Sequence[nn.Parameter]],
    optimizers: Iterable[torch.optim.Optimizer],
) -> int:
    """New parameters in the groups of the old ones; how many old ones had state that is dropped."""
    dropped = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            old = [p for p in group["params"] if id(p) in parameters]
            group["params"] = distinct(
                new for item in group["params"] for new in parameters.get(id(item), (item,))
            )
            dropped += sum(optimizer.state.pop(p, None) is not None for p in old)
    return dropped


def _dense_parameters(built: Built) -> set[int]:
    combines = [m.combine for m in built.modules.values() if isinstance(m.combine, nn.Module)]
    return {id(p) for combine in combines for p in combine.parameters()}


def _replace_held(module: nn.Module, built: Built) -> None:
    """Lists, tuples and dicts of the module: regularisers and caches hold what was replaced."""
    for name, value in list(vars(module).items()):
        if name not in _TORCHS_OWN:
            vars(module)[name] = _held(value, built, _DEPTH)


def _held(value: Any, built: Built, depth: int) -> Any:
    """``value`` with what is new: lists and dicts in place, tuples as new ones."""
    if isinstance(value, nn.Module):
        return built.modules.get(id(value), value)
    if depth == 0:
        return value
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _held(item, built, depth - 1)
    elif isinstance(value, list):
        value[:] = [new for item in value for new in _items(item, built, depth)]
    elif type(value) is tuple:
        new = tuple(_held(item, built, depth - 1) for item in value)
        return new if any(n is not o for n, o in zip(new, value, strict=True)) else value
    return value


def _items(item: Any, built: Built, depth: int) -> list[Any]:
    """What stands in a list for ``item``: also pairs of a name and a parameter become several."""
    if id(item) in built.parameters:
        return list(built.parameters[id(item)])
    if type(item) is tuple and len(item) == 2 and id(item[1]) in built.parameters:
        return [(item[0], parameter) for parameter in built.parameters[id(item[1])]]
    return [_held(item, built, depth - 1)]
