"""The whole state of a run as tensors and JSON, and back: what a checkpoint holds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Resumable",
    "Stateful",
    "distinct_state",
    "load_distinct_state",
    "restore",
    "take",
]


class Resumable(Protocol):
    """A loader whose position is JSON."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stateful(Protocol):
    """Optimizers whose state is tensors and JSON."""

    def behind(self) -> AbstractContextManager[None]: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None: ...


def take(
    model: nn.Module, optimizers: Stateful, loader: Resumable
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, optimizer state, loader position and random states. Tensors are not copied."""
    with optimizers.behind():
        weights = distinct_state(model)
        optimizer_tensors, optimizer_state = optimizers.state()
    random_tensors, random_state = _take_random()
    tensors = {
        **_prefixed("model.", weights),
        **_prefixed("optimizer.", optimizer_tensors),
        **_prefixed("random.", random_tensors),
    }
    state = {"optimizer": optimizer_state, "loader": loader.state_dict(), "random": random_state}
    return tensors, state


def restore(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizers: Stateful,
    loader: Resumable,
) -> None:
    """Put back, in place, what :func:`take` gave."""
    load_distinct_state(model, _without("model.", tensors))
    optimizers.load(_without("optimizer.", tensors), state["optimizer"])
    loader.load_state_dict(state["loader"])
    _restore_random(_without("random.", tensors), state["random"])


def distinct_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names of one tensor (tied weights), which no file holds."""
    found: dict[tuple[int, torch.Size], str] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or found.setdefault(place, name) == name:
            state[name] = tensor
    return state


def load_distinct_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`distinct_state` gave."""
    own = distinct_state(model)
    if own.keys() != state.keys():
        raise ValueError(f"state of another model: {sorted(own.keys() ^ state.keys())} differ")
    model.load_state_dict(dict(state), strict=False)


def _take_random() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The global generators of torch (every CUDA device in use too), numpy and Python."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    words_numpy = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    tensors = {"torch": torch.get_rng_state(), "numpy": words_numpy}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for i, cuda_state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{i}"] = cuda_state
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [name, position, has_gauss, cached],
    }


def _restore_random(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    for key, tensor in tensors.items():
        if key.startswith("cuda."):
            torch.cuda.set_rng_state(tensor, int(key.removeprefix("cuda.")))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, position, has_gauss, cached = state["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
