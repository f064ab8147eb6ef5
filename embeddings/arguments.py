"""What people give to the functions of this package, checked before anything is done."""

from numbers import Integral
from typing import Any

from torch import nn

__all__ = ["check_model", "whole_number"]


def check_model(model: Any, who: str) -> None:
    """Raise ``TypeError`` unless ``model`` is a module; ``who`` takes it."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{who} takes a model, a torch.nn.Module, got {type(model).__name__}; give it module "
            f"by module, or all in an nn.ModuleDict"
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
