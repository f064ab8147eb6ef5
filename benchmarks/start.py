"""The weights that a run starts from, where they come from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from compactrec.file_hash import file_sha256

__all__ = ["START_EPOCHS", "load_start", "start_epochs", "start_path", "start_sha256"]

START_EPOCHS = "epochs"
"""Key of the file's metadata: how many epochs whoever made the start asks for."""

MOST_NAMED = 5
"""Keys that a message names, where a start is of another model."""


def start_path(plan: Path) -> Path:
    """Where the weights to start from lie beside a plan file."""
    return plan.with_name(f"{plan.stem}.start.safetensors")


def start_sha256(path: Path | None) -> str | None:
    """Hash of the file's bytes, by which a run knows its start; None without one.

    Raises:
        ValueError: there is no such file.
    """
    if path is None:
        return None
    _require_file(path)
    return file_sha256(path)


def start_epochs(path: Path) -> int | None:
    """Epochs that a search asks for with its start, 0 to serve it as it is; None where it does not.

    Raises:
        ValueError: there is no such file, or it is no safetensors file.
    """
    _require_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            asked = (file.metadata() or {}).get(START_EPOCHS)
    except SafetensorError as error:
        raise ValueError(f"start {path} is not a whole safetensors file ({error})") from error
    return None if asked is None else int(asked)


def load_start(model: nn.Module, path: Path) -> None:
    """Put the weights and integer state of ``path`` into ``model``.

    Raises:
        ValueError: the file is no safetensors file, or its keys, shapes or types are not exactly
            those of the model.
    """
    try:
        found = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"start {path} is not a whole safetensors file ({error})") from error
    own = model.state_dict()
    wrong = [f"{key} is missing" for key in own.keys() - found.keys()]
    wrong += [f"{key} is not of this model" for key in found.keys() - own.keys()]
    for key in own.keys() & found.keys():
        theirs, ours = _kind(found[key]), _kind(own[key])
        if theirs != ours:
            wrong.append(f"{key} is {theirs} there and {ours} here")
    if wrong:
        raise ValueError(
            f"start {path} does not fit the model: {_listed(sorted(wrong))}. Give the plan and the "
            f"model settings that it was saved with"
        )
    model.load_state_dict(found)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(
            f"start (--start) {path} is not a file; give a safetensors file with the state dict of "
            f"the model, as 'compactrec search' leaves it beside a plan"
        )


def _listed(wrong: list[str]) -> str:
    more = len(wrong) - MOST_NAMED
    return "; ".join(wrong[:MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def _kind(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
