"""Why a table cannot be replaced, in words; and models that come too late for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compactrec.embeddings.known_modules import wrapper_of

__all__ = ["collection_reason", "layer_reason", "refuse_wrapped"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def refuse_wrapped(model: nn.Module, advice: str, without_inside: str | None = None) -> None:
    """Raise ``ValueError`` where a module of ``model`` is wrapped for several processes, or one
    that holds tables is compiled.

    ``advice`` says what to do; ``{short}`` in it is the wrapper, ``{path}`` where it is,
    ``{inside}`` what of it is the model, and ``{every}`` who calls where tables are sharded.
    ``without_inside`` says it for wrappers that hold no model but are it. Classes are known by
    name, so that nothing has to be imported for it.
    """
    for path, module in model.named_modules():
        found = wrapper_of(module)
        if found is None or (found.name == "OptimizedModule" and not _holds_tables(module)):
            continue
        short, inside = found.made_by, found.inside
        where = f"{path!r} is" if path else "the model is"
        at = f"model.{path}" if path else "model"
        chosen = advice if inside or without_inside is None else without_inside
        every = "; every process must call it" if short == "shard" else ""
        what = chosen.format(short=short, path=at, inside=inside, every=every)
        raise ValueError(f"{where} wrapped in {found.name}, which {found.why}; {what}")


def _holds_tables(module: nn.Module) -> bool:
    """True where anything in it is an embedding, of whatever library."""
    return any("Embedding" in base.__name__ for m in module.modules() for base in type(m).__mro__)


def layer_reason(module: Any) -> str:
    """Why an ``nn.Embedding`` or ``nn.EmbeddingBag`` stays; empty if it need not."""
    if type(module) not in (nn.Embedding, nn.EmbeddingBag):
        return f"it is a {type(module).__name__}, which may do more than its base class"
    if module.max_norm is not None:
        return f"max_norm={module.max_norm} renorms rows of single ids"
    if module.scale_grad_by_freq:
        return "scale_grad_by_freq scales rows of single ids"
    return _module_reason(module)


def collection_reason(module: nn.Module, configs: Sequence[Any], holders: Sequence[Any]) -> str:
    """Why a whole torchrec collection stays; empty if it need not."""
    keys = [key for config in configs for key in config.feature_names]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        return f"key {twice[0]!r} reads several tables; give the tables keys of their own"
    bad = [key for key in keys if not key or any(token in key for token in ("@", ".", "__"))]
    if bad:
        return f"key {bad[0]!r} has '@', '.' or '__', which a feature's name must not have"
    reasons = (_module_reason(part) for part in (module, *holders))
    return next((reason for reason in reasons if reason), "")


def _module_reason(module: nn.Module) -> str:
    if any(getattr(module, name, None) for name in _HOOKS):
        return "its module has hooks, which a new one would not have"
    for name, parameter in module.named_parameters(recurse=False):
        if hasattr(parameter, "_in_backward_optimizers"):
            return "its optimizer is in the backward pass; apply it after compress"
        if parameter.dtype not in _DTYPES:
            return f"its {name} is {parameter.dtype}"
    return ""
