"""How our loops are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

__all__ = ["jit"]

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compiled at the first call, without the interpreter's lock, and kept on disk if possible."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: F = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the folder of its file nor the user's cache can be written
        compiled = njit(**options)(function)
    return compiled
