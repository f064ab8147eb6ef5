"""A data folder appears whole or not at all: built beside its place, renamed at the end.

`locked` keeps a second process away from any output folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from compactrec.data.manifest import MANIFEST_NAME

__all__ = ["building", "locked"]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Be the only process that writes `out`; ValueError at once when another one does.

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
                raise ValueError(
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


@contextmanager
def building(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `out` to build in; renamed to `out` when the block ends well.

    Leftovers of a run that was killed are removed by the next one; a lock tells them from a run
    that is still going. An existing `out` is replaced only with `overwrite`, and only when it is a
    data folder (or empty). Raises ValueError where that forbids it, OSError in words when the disk
    is full.
    """
    out = out.absolute()
    partial, old = (out.parent / f".{out.name}.{kind}" for kind in ("partial", "old"))
    with locked(out):
        if old.exists() and not out.exists():
            old.rename(out)  # a run was killed between its two last renames
        _check_target(out, overwrite)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if out.exists():
                out.rename(old)
            partial.rename(out)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"the disk of {out.parent} is full; nothing was kept. Preparing needs scratch "
                    f"space there of about the size of the unpacked input",
                ) from error
            raise
        finally:
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise ValueError(f"{out} exists and is not a data folder; choose another folder")
    if not overwrite:
        raise ValueError(f"{out} is a data folder already; choose another folder or overwrite it")
