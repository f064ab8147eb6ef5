"""What processes do that save with random states of their own and go on from there, and a check."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactrec.benchmarks import snapshot
from compactrec.embeddings.checkpoint_state import load_checkpoint, save_checkpoint
from compactrec.embeddings.checkpointing import CheckpointFolder

__all__ = ["WAYS", "draws", "load", "save"]

WAYS = ("checkpoint", "snapshot")
"""Of people's own loops, and of training runs."""
RATE = 0.025


class Loader:
    """Its position is the rank that saved it."""

    def __init__(self, rank: int = -1) -> None:
        self.rank = rank

    def state_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"rank": self.rank}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From JSON."""
        self.rank = state["rank"]


class Stepped:
    """One Adam of two groups, without decay of tables."""

    def __init__(self, model: nn.Module) -> None:
        groups = [{"params": [p], "lr": 0.1 * i} for i, p in enumerate(model.parameters(), 1)]
        self.adam = torch.optim.Adam(groups, betas=(0.5, 0.9))

    @property
    def stepped(self) -> Sequence[torch.optim.Optimizer]:
        """All there are."""
        return [self.adam]

    def behind(self) -> AbstractContextManager[None]:
        """No row has missed a decay."""
        return nullcontext()

    def decay_state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_decay_state(self, tensors: Any) -> None:
        """None."""
        assert not tensors


def draws() -> list[float]:
    """Of every generator; normal numbers come in pairs, the second of which is kept."""
    return [
        *torch.rand(2).tolist(),
        *np.random.standard_normal(2).tolist(),
        *np.random.random_sample(2).tolist(),
        random.gauss(0, 1),
        random.random(),
    ]


def save(path: Path, way: str, seed: int = 0) -> list[float]:
    """Save what a process with this rank's seed has; what it then draws."""
    model = nn.Linear(3, 2)
    optimizers = Stepped(model)
    with CheckpointFolder(path, {}) as folder:
        rank = folder.processes.rank
        torch.manual_seed(seed + rank)
        np.random.seed(seed + rank)
        random.seed(seed + rank)
        draws()
        np.random.standard_normal()
        random.gauss(0, 1)
        _step(model, optimizers)
        optimizers.adam.param_groups[1] |= {"lr": RATE, "betas": (0.25, 0.75)}
        if way == "checkpoint":
            save_checkpoint(folder, model, optimizers.stepped, step=1)
        else:
            loader = Loader(rank)
            snapshot.save(folder, 1, model, optimizers, loader.state_dict(), {}, None)
    return draws()


def load(path: Path, way: str, saved_by: int) -> list[float]:
    """Load it into a process that has drawn and trained otherwise; what it then draws."""
    model = nn.Linear(3, 2)
    optimizers, loader = Stepped(model), Loader(saved_by)
    draws()
    _step(model, optimizers)
    with CheckpointFolder(path, {}) as folder:
        if way == "checkpoint":
            assert load_checkpoint(folder, model, optimizers.stepped) is not None
        else:
            found = folder.load()
            assert found is not None
            snapshot.restore(folder, found, model, optimizers, loader)
    assert loader.rank == saved_by
    numbers = [(group["lr"], group["betas"]) for group in optimizers.adam.param_groups]
    assert numbers == [(0.1, (0.5, 0.9)), (RATE, (0.25, 0.75))], numbers
    return draws()


def _step(model: nn.Module, optimizers: Stepped) -> None:
    model(torch.ones(2, 3)).square().sum().backward()
    optimizers.adam.step()
