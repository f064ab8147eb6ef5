"""A lock that keeps a second process away from an output folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["FolderInUse", "locked"]


class FolderInUse(ValueError):
    """Another process writes an output folder."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Be the only process that writes `out`; FolderInUse at once when another one does.

    The lock is a file beside `out`, held by the operating system: a killed process holds nothing.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.parent / f".{out.name}.lock"
    while True:
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderInUse(
                    f"another run is writing {out} just now (it holds {lock}); wait for it or "
                    f"choose another folder"
                ) from error
            if not _is_at(handle, lock):
                continue  # the run before took the file away between our two calls
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
