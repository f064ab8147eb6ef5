"""Checkpoints: safetensors and JSON, whole or not there at all, and refused when they do not fit.

A checkpoint is ``checkpoint.json`` and the tensor files that it names with their sha256. Tensor
files are written first, under new names; replacing ``checkpoint.json`` is the moment at which the
new checkpoint takes over. So a kill at any instant, or a full disk, leaves the last good one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "TensorFile",
    "copy_atomically",
    "differences",
    "write_atomically",
]

FORMAT, VERSION = "compactrec.checkpoint", 1
_INDEX = "checkpoint.json"
_PARTIAL = ".partial"
_MANY = 5
_LONG = 100
"""Characters of a value beyond which an error names it without showing it."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or cannot be used for this run."""


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file of the store and the hash of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """What :meth:`CheckpointStore.load` gives back."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    best: TensorFile | None
    """The selected weights so far, read with :meth:`CheckpointStore.read`."""


class CheckpointStore:
    """The checkpoint of one run.

    Args:
        folder: made when the first file is written.
        identity: what must be equal for a checkpoint to be usable: JSON values by name (config,
            plan, data, versions). A difference is refused by its name.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(_canonical(identity))
        self.last_step: int | None = None
        self._in_use: set[str] = set()

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> TensorFile:
        """Write a tensor file; a later :meth:`save` must name it, or it will be removed."""
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = _write_tensors(path, tensors)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(self._failure(path, error)) from error
        return TensorFile(name, digest)

    def discard(self, file: TensorFile) -> None:
        """Delete a tensor file, unless the checkpoint on disk names it."""
        if file.name not in self._in_use:
            (self.folder / file.name).unlink(missing_ok=True)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        best: TensorFile | None = None,
    ) -> None:
        """Replace the checkpoint by one of ``step``; ``state`` holds JSON values.

        Raises:
            CheckpointError: it could not be written; the one before is still whole.
        """
        file = self.write(f"step-{step:09d}.safetensors", tensors)
        body = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "step": step,
            "tensors": {"name": file.name, "sha256": file.sha256},
            "best": None if best is None else {"name": best.name, "sha256": best.sha256},
            "state": dict(state),
        }
        path = self.folder / _INDEX
        try:
            text = json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False)
            write_atomically(path, text.encode())
        except OSError as error:
            raise CheckpointError(self._failure(path, error)) from error
        self.last_step = step
        self._in_use = {file.name} | ({best.name} if best else set())
        self._remove_unused()

    def load(self) -> Checkpoint | None:
        """The checkpoint, every byte verified; None when there is none.

        Raises:
            CheckpointError: it was changed or damaged, or belongs to another run.
        """
        path = self.folder / _INDEX
        if not path.is_file():
            return None
        body = self._read_index(path)
        tensors = self.read(TensorFile(**body["tensors"]))
        best = None if body["best"] is None else TensorFile(**body["best"])
        if best is not None:
            self._verify(best)
        self.last_step = body["step"]
        self._in_use = {body["tensors"]["name"]} | ({best.name} if best else set())
        return Checkpoint(tensors, body["state"], best)

    def read(self, file: TensorFile) -> dict[str, Tensor]:
        """The tensors of a file, after comparing its hash."""
        return load_file(str(self._verify(file)))

    def remove(self) -> None:
        """Delete the checkpoint (the run is finished)."""
        (self.folder / _INDEX).unlink(missing_ok=True)  # first, so that no half one stays usable
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_index(self, path: Path) -> dict[str, Any]:
        try:
            body = json.loads(path.read_bytes())
            found = (body.get("format"), body.get("version"))
            digest = body.pop("sha256", None)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(_damaged(path, "it is not a JSON object")) from error
        if found != (FORMAT, VERSION):
            raise CheckpointError(
                f"{path} has format and version {found}, this program reads {(FORMAT, VERSION)}; "
                "go on with the program that wrote it, or start anew in another folder"
            )
        if digest != _digest(body):
            raise CheckpointError(_damaged(path, "its checksum differs"))
        found_other = differences(body["identity"], self.identity)
        if found_other:
            raise CheckpointError(
                f"{path} belongs to another run: {'; '.join(found_other)}. Go on with the same "
                "settings, or start anew in another folder"
            )
        return dict(body)

    def _verify(self, file: TensorFile) -> Path:
        path = self.folder / file.name
        if not path.is_file():
            raise CheckpointError(_damaged(path, "the file is missing"))
        if _file_sha256(path) != file.sha256:
            raise CheckpointError(_damaged(path, "its checksum differs"))
        return path

    def _failure(self, path: Path, error: Exception) -> str:
        kept = "there is no earlier one"
        if self.last_step is not None:
            kept = f"the one of step {self.last_step} is whole"
        return f"{path} could not be written ({error}); {kept}. Free space and run again to go on"

    def _remove_unused(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in self._in_use and path.suffix in (".safetensors", _PARTIAL):
                path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there, also after a power cut."""
    partial = path.with_name(path.name + _PARTIAL)
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
    partial = path.with_name(path.name + _PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        _rename(partial, path)
    finally:
        # Renaming a link to the file that is there already does nothing, by POSIX.
        partial.unlink(missing_ok=True)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    partial = path.with_name(path.name + _PARTIAL)
    try:
        save_file({k: t.detach().contiguous() for k, t in tensors.items()}, str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        digest = _file_sha256(partial)
        _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _rename(partial: Path, path: Path) -> None:
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; restore it, or remove its folder and start anew"


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs, by dotted name, outermost names first: `config.batch_size is 2048 there and
    1024 here`. After the first few the rest is counted."""
    found = _differences(theirs, ours, "")
    found.sort(key=lambda text: text.split(" ")[0].count("."))
    more = len(found) - _MANY
    return found if more <= 0 else [*found[:_MANY], f"and {more} more"]


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{name}.")
        elif there != here and max(len(repr(there)), len(repr(here))) > _LONG:
            found.append(f"{prefix}{name} differs")
        elif there != here:
            found.append(f"{prefix}{name} is {there!r} there and {here!r} here")
    return found
