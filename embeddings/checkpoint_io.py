"""Files that are whole or not there at all, whatever stops the process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from compactrec.file_hash import file_sha256

__all__ = [
    "PARTIAL",
    "CheckpointError",
    "copy_atomically",
    "write_atomically",
    "write_tensors",
]

PARTIAL = ".partial"
"""End of the name of a file that is being written."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or cannot be used for this run."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there, also after a power cut."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file, without using more disk where the file system has hard links."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
            _sync(partial)
        _rename(partial, path)
    finally:
        # Renaming a link to the file that is there already does nothing, by POSIX.
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Write a safetensors file as :func:`write_atomically` does; its sha256 and its bytes."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # safetensors lets nobody else read
        save_file({key: t.detach().contiguous() for key, t in tensors.items()}, str(partial))
        partial.chmod(mode)
        _sync(partial)
        digest, num_bytes = file_sha256(partial), partial.stat().st_size
        _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return digest, num_bytes


def _rename(partial: Path, path: Path) -> None:
    os.replace(partial, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Until a file's bytes, or a folder's names, are on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
