"""``checkpoint.json``: which files a checkpoint is made of, and what it is a checkpoint of."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.embeddings.checkpoint_io import CheckpointError, write_atomically
from compactrec.file_hash import file_sha256

__all__ = [
    "FORMAT",
    "INDEX_NAME",
    "VERSION",
    "Chunk",
    "Index",
    "StoredFile",
    "StoredTensor",
    "TensorSet",
    "canonical",
    "check_file",
    "differences",
    "first_few",
    "read_index",
    "warn_of_strays",
    "write_index",
]

FORMAT, VERSION = "compactrec.checkpoint", 2
INDEX_NAME = "checkpoint.json"
_MANY = 5
_LONG = 100
"""Characters of a value beyond which an error names it without showing it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Frozen):
    """A safetensors file, with the hash and the number of its bytes."""

    name: str
    sha256: str
    num_bytes: int


class Chunk(_Frozen):
    """A box of a tensor that lies in one file."""

    file: int
    """Place in the list of files."""
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


class StoredTensor(_Frozen):
    """A tensor, whole or in pieces."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of its values."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def key(self, name: str, chunk: Chunk) -> str:
        """What a chunk of this tensor is called in its file: ``name`` alone where it is whole."""
        if chunk.shape == self.shape:
            return name
        return f"{name}@{','.join(map(str, chunk.offsets))}"


class TensorSet(_Frozen):
    """Tensors that were written together, by one process or by several."""

    name: str
    files: tuple[StoredFile, ...]
    tensors: dict[str, StoredTensor]


class Index(_Frozen):
    """All that ``checkpoint.json`` says."""

    identity: dict[str, Any]
    step: int
    world_size: int
    tensors: TensorSet
    best: TensorSet | None
    state: dict[str, Any]
    ranks: tuple[dict[str, Any], ...]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file that is needed."""
        return self.tensors.files + (self.best.files if self.best is not None else ())


def write_index(folder: Path, index: Index) -> None:
    """Put ``index`` in the place of the one that is there: from now on it counts."""
    body = {"format": FORMAT, "version": VERSION, **index.model_dump(mode="json")}
    text = json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False)
    write_atomically(folder / INDEX_NAME, text.encode())


def read_index(folder: Path, identity: Mapping[str, Any]) -> Index | None:
    """The index of ``folder``; None when there is none.

    Raises:
        CheckpointError: it is damaged, of another version, or of something else than ``identity``.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_bytes())
        found = (body.pop("format", None), body.pop("version", None))
        digest = body.pop("sha256", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(_damaged(path, "it is not a JSON object")) from error
    if found != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} has format and version {found}, this program reads {(FORMAT, VERSION)}; "
            "go on with the program that wrote it, or start anew in another folder"
        )
    if digest != _digest({"format": FORMAT, "version": VERSION, **body}):
        raise CheckpointError(_damaged(path, "its checksum differs"))
    try:
        index = Index.model_validate(body)
    except ValidationError as error:
        raise CheckpointError(_damaged(path, "it is not a whole index")) from error
    if others := differences(index.identity, identity):
        raise CheckpointError(
            f"{path} belongs to another run: {'; '.join(others)}. Go on with the same settings, "
            "or start anew in another folder"
        )
    return index


def warn_of_strays(folder: Path) -> None:
    """Warn where ``folder`` has files of tensors and no index, so that it holds no checkpoint."""
    if strays := sorted(path.name for path in folder.glob("step-*.safetensors")):
        warnings.warn(
            f"{folder} has {', '.join(first_few(strays))} but no {INDEX_NAME}, so there is no "
            f"checkpoint in it, and the next save removes them: a first save was cut off, or "
            f"{INDEX_NAME} was removed; restore it if there was one",
            stacklevel=3,
        )


def check_file(folder: Path, file: StoredFile) -> None:
    """Raise CheckpointError unless every byte of ``file`` is the one that was written."""
    path = folder / file.name
    if not path.is_file():
        raise CheckpointError(_damaged(path, "the file is missing"))
    if (size := path.stat().st_size) != file.num_bytes:
        raise CheckpointError(_damaged(path, f"it has {size} bytes instead of {file.num_bytes}"))
    if file_sha256(path) != file.sha256:
        raise CheckpointError(_damaged(path, "its checksum differs"))


def canonical(value: object) -> str:
    """The same text for the same JSON value; ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs, by dotted name, outermost names first: `config.batch_size is 2048 there and
    1024 here`. After the first few the rest is counted."""
    found = _differences(theirs, ours, "")
    found.sort(key=lambda text: text.split(" ")[0].count("."))
    return first_few(found)


def first_few(texts: Sequence[str]) -> list[str]:
    """What an error shows of ``texts``: the first ones, and how many more there are."""
    more = len(texts) - _MANY
    return list(texts) if more <= 0 else [*texts[:_MANY], f"and {more} more"]


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{name}.")
        elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
            found += _differences(_numbered(there), _numbered(here), f"{prefix}{name}.")
        elif there != here and max(len(repr(there)), len(repr(here))) > _LONG:
            found.append(f"{prefix}{name} differs")
        elif there != here:
            found.append(f"{prefix}{name} is {there!r} there and {here!r} here")
    return found


def _numbered(values: list[Any]) -> dict[str, Any]:
    return {str(i): value for i, value in enumerate(values)}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; restore it, or remove its folder and start anew"
