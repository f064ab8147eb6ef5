"""Where results go: a place that cannot take them is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

from compactrec.data.manifest import MANIFEST_NAME

__all__ = ["check_out_file", "check_out_folder"]


def check_out_folder(out: Path, name: str = "out (--out)") -> None:
    """Raise ValueError where `out` can be no folder of a run: a file, below one, or a data folder.

    `name` is what it was given as. A run in a data folder is lost when that is prepared again.
    """
    _check_above(out, name)
    if out.exists() and not out.is_dir():
        raise ValueError(
            f"{name} {out} is a file, and results go into a folder; give another name, such as "
            f"runs/{out.stem}"
        )
    if (out / MANIFEST_NAME).is_file():
        raise ValueError(
            f"{name} {out} is a data folder (it has a {MANIFEST_NAME}), and preparing it again "
            f"would delete what is written there; give a folder of its own, such as runs/{out.name}"
        )


def check_out_file(path: Path, name: str) -> None:
    """Raise ValueError where no file can be written at `path`, which was given as `name`."""
    _check_above(path, name)
    if path.is_dir():
        raise ValueError(f"{name} {path} is a folder, and a file is written; give a name in it")


def _check_above(path: Path, name: str) -> None:
    there = next(above for above in path.absolute().parents if above.exists())
    if not there.is_dir():
        raise ValueError(
            f"{name} {path} is below {there}, which is a file; give a name in a folder"
        )
