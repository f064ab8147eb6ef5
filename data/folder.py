"""A data folder appears whole or not at all: built beside its place, renamed at the end."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compactrec.data.manifest import MANIFEST_NAME
from compactrec.locks import locked

__all__ = ["RUN_FILES", "building"]

RUN_FILES = ("*.safetensors", "result.json", "search.json", "tune.json", "compare.json")
"""What runs leave in their folders and no data folder has."""


@contextmanager
def building(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `out` to build in; renamed to `out` when the block ends well.

    Leftovers of a run that was killed are removed by the next one; a lock tells them from a run
    that is still going. An existing `out` is replaced only with `overwrite`, and only when it is a
    data folder that holds no run (or empty). Raises ValueError where that forbids it, OSError in
    words when the disk is full.
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
        raise ValueError(
            f"{out} is a data folder already; choose another folder, or overwrite it (--overwrite, "
            f"in Python overwrite=True)"
        )
    if run := next((path for name in RUN_FILES for path in out.rglob(name)), None):
        raise ValueError(
            f"{out} is a data folder with a run in it ({run.relative_to(out)}), which overwriting "
            f"would delete; move that away, or choose another folder"
        )
