"""How our loops are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import cfunc, njit, types

__all__ = ["jit", "share"]

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compiled at the first call, without the interpreter's lock, and kept on disk if possible."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: F = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the folder of its file nor the user's cache can be written
        compiled = njit(**options)(function)
    return compiled


def share(function: F) -> Any:
    """A share of a job (``numba_team.py``), compiled at once and kept on disk if possible."""
    signature = types.void(types.intp)
    try:
        return cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:  # as above
        return cfunc(signature, error_model="numpy")(function)
