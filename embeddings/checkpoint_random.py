"""The global random generators of a process as tensors and JSON, and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["put_random", "take_random"]


def take_random() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The generators of torch (every CUDA device in use too), numpy and Python."""
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


def put_random(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Set what :func:`take_random` gave."""
    torch.set_rng_state(tensors["torch"])
    for key, tensor in tensors.items():
        if key.startswith("cuda."):
            torch.cuda.set_rng_state(tensor, int(key.removeprefix("cuda.")))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, position, has_gauss, cached = state["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))
