"""How the C library treats freed memory, for the whole process: called by `train`, by no layer."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

__all__ = ["give_freed_memory_back", "keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Keep freed blocks of any size for the next step; False where the C library is not glibc.

    glibc returns large blocks to the system at once, so every step gets its large tensors as fresh
    pages, which can take longer than the step itself. The price is memory that stays with the
    process: its peak, not its present need.
    """
    mallopt = _from_glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_freed_memory_back() -> None:
    """Return what is kept to the system, once; nothing happens where the C library is not glibc."""
    malloc_trim = _from_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _from_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found
