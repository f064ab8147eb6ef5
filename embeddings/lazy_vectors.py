"""Vectors that are on their way between processes: waited for when they are looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchrec.distributed.types import LazyAwaitable
from torchrec.sparse.jagged_tensor import KeyedTensor

__all__ = ["LazyVectors"]


class LazyVectors(LazyAwaitable[KeyedTensor]):
    """Combined vectors of a sharded collection; any attribute is that of the ``KeyedTensor``.

    What a model computes between the call of a collection and the first look at its output runs
    while the vectors travel, and its backward pass while their gradients do.

    Args:
        pooled: of the physical tables.
        combine: from these to logical vectors; without autocast, as all of a collection.
        device_type: where.
    """

    def __init__(
        self,
        pooled: LazyAwaitable[KeyedTensor],
        combine: Callable[[KeyedTensor], KeyedTensor],
        device_type: str,
    ) -> None:
        super().__init__()
        self._pooled, self._combine, self._device_type = pooled, combine, device_type

    def _wait_impl(self) -> KeyedTensor:
        with torch.autocast(self._device_type, enabled=False):
            return self._combine(self._pooled.wait())
