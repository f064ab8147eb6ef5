"""What people give to the functions of this package, checked before anything is done."""

from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import nn

__all__ = [
    "check_budget",
    "check_model",
    "check_names",
    "check_options",
    "checked_device",
    "whole_number",
]


def check_model(model: Any, who: str) -> None:
    """Raise ``TypeError`` unless ``model`` is a module; ``who`` takes it."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{who} takes a model, a torch.nn.Module, got {type(model).__name__}; give it module "
            f"by module, or all in an nn.ModuleDict"
        )


def check_budget(budget_bytes: Any) -> None:
    """Raise unless ``budget_bytes`` is a whole number of bytes."""
    whole_number(budget_bytes, "budget_bytes", "write 4 MB as 4_000_000", " of bytes")


def checked_device(device: Any) -> torch.device:
    """``device`` of a process that has shards; raise ``ValueError`` where none can be there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device must be 'cpu', 'cuda' or one of several, as 'cuda:1', got {device!r}; give "
            f"the one that this process computes on"
        )
    return found


def check_names(names: Any, example: str) -> None:
    """Raise ``TypeError`` unless ``names`` is a list of names; ``example`` is one."""
    if isinstance(names, str) or not isinstance(names, Collection):
        way = names if isinstance(names, str) else example
        raise TypeError(f"names must be a list of names, got {names!r}; write [{way!r}]")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"names must be a list of names, and {name!r} in it is of type "
                f"{type(name).__name__}; write names of tables or patterns, as [{example!r}]"
            )


def check_options(options: Any, method: str, allowed: str) -> None:
    """Raise ``TypeError`` unless ``options`` of ``method`` are by name; ``allowed`` are these."""
    if not isinstance(options, Mapping):
        raise TypeError(
            f"{method}: options must be a dict from names to values, got {options!r}; options "
            f"are: {allowed}"
        )


def whole_number(value: Any, name: str, advice: str, unit: str = "") -> int:
    """``value`` as an int; raise unless it is a whole number >= 0. ``unit`` is " of ...".

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number{unit}, got {value!r}; {advice}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, got {value}; {advice}")
    return int(value)
