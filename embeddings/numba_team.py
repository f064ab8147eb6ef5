"""Compiled loops on the threads that torch itself computes with.

The threads of torch's OpenMP library go on spinning for some milliseconds after each operation.
Threads of Python beside them would share their cores, so work is handed to the same team, by
``GOMP_parallel``, which the libraries of GNU, LLVM and Intel have. Where none is found, threads of
Python it is.

Work is cut into pieces. A *share* is a compiled function that takes the address of a job, int64:
``[next piece, number of pieces, arguments ...]``, claims pieces until none is left, and does them.
What a piece computes may not depend on who does it.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch

__all__ = ["FEW", "Share", "has_numba", "num_threads", "run"]

FEW = 4096
"""Fewer ids are not worth another thread."""

Share = Any
"""What ``numba_jit.share`` makes: a function of C, ``void (int64 address_of_job)``."""

_PROCESS = os.getpid()


@cache
def has_numba() -> bool:
    """False where it is not installed, or something forbids it."""
    try:
        return importlib.util.find_spec("numba") is not None
    except ImportError:
        return False


def num_threads() -> int:
    """As many as torch has; one in a forked process, where the team's threads are missing."""
    return torch.get_num_threads() if os.getpid() == _PROCESS else 1


def run(share: Share, pieces: int, *arguments: int, few: bool = False) -> None:
    """All pieces of a job, on :func:`num_threads` threads or fewer; returns when all are done.

    ``few``: on this thread alone.
    """
    job = np.array([0, pieces, *arguments], np.int64)
    threads = 1 if few else min(pieces, num_threads())
    if threads <= 1:
        share.ctypes(job.ctypes.data)
    elif (parallel := _parallel()) is not None:
        parallel(share.address, job.ctypes.data, threads, 0)
    else:
        _in_threads(lambda: share.ctypes(job.ctypes.data), threads)


def _in_threads(work: Callable[[], None], count: int) -> None:
    others = [Thread(target=work, daemon=True) for _ in range(count - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()


@cache
def _parallel() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch has loaded, or None."""
    loaded = os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0)
    root = Path(torch.__file__).parent
    found = [*root.glob("lib/lib*omp*"), *root.parent.glob("torch.libs/lib*omp*")]
    for name in [*map(str, found), "libgomp.so.1", "libiomp5.so", "libomp.so"]:
        try:
            function = ctypes.CDLL(name, mode=loaded).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        return function
    return None
