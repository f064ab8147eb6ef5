"""How the C library treats freed memory; a matter of a program, so no library code calls this."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Keep freed blocks of any size for the next step; False where the C library is not glibc.

    glibc returns large blocks to the system at once, so every step gets its large tensors as fresh
    pages, which can take longer than the step itself. The price is memory that stays with the
    process: its peak, not its present need.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
