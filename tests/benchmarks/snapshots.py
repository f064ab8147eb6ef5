"""Saving and restoring models and optimizers that have no loader."""

from pathlib import Path
from typing import Any

from torch import nn

from compactrec.benchmarks import snapshot
from compactrec.benchmarks.snapshot import Stateful
from compactrec.embeddings.checkpointing import CheckpointFolder

__all__ = ["put_back", "save"]


class _Nowhere:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}


def save(folder: Path, model: nn.Module, optimizers: Stateful) -> None:
    """Into a new checkpoint."""
    with CheckpointFolder(folder, {}) as store:
        snapshot.save(store, 1, model, optimizers, {}, {}, None)


def put_back(folder: Path, model: nn.Module, optimizers: Stateful) -> None:
    """What :func:`save` saved."""
    with CheckpointFolder(folder, {}) as store:
        found = store.load()
        assert found is not None
        snapshot.restore(store, found, model, optimizers, _Nowhere())
