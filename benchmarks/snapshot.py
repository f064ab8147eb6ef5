"""The whole state of a run as tensors and JSON, and back: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_optimizer import OptimizerNames
from compactrec.embeddings.checkpoint_random import take_random
from compactrec.embeddings.checkpoint_state import (
    check_same_optimizers,
    model_tensors,
    prefixed,
    put_all,
    without,
)
from compactrec.embeddings.checkpointing import Checkpoint, CheckpointFolder

__all__ = ["Resumable", "Stateful", "origin", "restore", "save"]


class Resumable(Protocol):
    """A loader whose position is JSON."""

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


class Stateful(Protocol):
    """The optimizers of a run, and the decay that rows of its tables have missed."""

    @property
    def stepped(self) -> Sequence[torch.optim.Optimizer]:
        """Those outside the backward pass."""
        ...

    def behind(self) -> AbstractContextManager[None]:
        """Within it weights are as they are: the decay that rows have missed is left to come."""
        ...

    def decay_state(self) -> dict[str, Tensor]:
        """What rows of the tables have missed, by name."""
        ...

    def load_decay_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`decay_state` gave."""
        ...


def save(
    folder: CheckpointFolder,
    step: int,
    model: nn.Module,
    optimizers: Stateful,
    position: Mapping[str, Any],
    state: Mapping[str, Any],
    best: TensorSet | None,
    names: OptimizerNames | None = None,
    *,
    asynchronous: bool = False,
) -> None:
    """Weights, optimizer state, position in the data and random states of every process.

    ``position`` is the loader's state, ``state`` what else the loop remembers, ``best`` the
    selected weights. ``names`` are those of the optimizers' state, where the model that has them is
    wrapped. ``asynchronous``: see :meth:`CheckpointFolder.save`.
    """
    words, generators = take_random()
    with optimizers.behind():
        names = names or OptimizerNames(model, optimizers.stepped)
        tensors = {
            **prefixed("model.", model_tensors(model)),
            **prefixed("optimizer.", names.tensors()),
            **prefixed("decay.", optimizers.decay_state()),
            **prefixed(f"random.{folder.processes.rank}.", words),
        }
    own = {"loader": dict(position), "optimizers": names.settings(), "random": generators}
    folder.save(step, tensors, state, best, rank_state=own, asynchronous=asynchronous)


def origin(folder: CheckpointFolder, checkpoint: Checkpoint, place: str) -> str:
    """Where a run goes on, and with how many processes where that is new, to be shown."""
    saved, here = len(checkpoint.ranks), folder.processes.size
    moved = f", which {saved} processes saved and {here} take up" if saved != here else ""
    return f"goes on from {place}, in {folder.path}{moved}"


def restore(
    folder: CheckpointFolder,
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: Stateful,
    loader: Resumable,
    names: OptimizerNames | None = None,
) -> None:
    """Put back, in place, what :func:`save` saved.

    Where other processes saved, this one takes the random states of rank ``r mod k``. Raises
    CheckpointError, in all processes, where it is of other optimizers.
    """
    names = names or OptimizerNames(model, optimizers.stepped)

    def put() -> None:
        check_same_optimizers(checkpoint, names)
        found, saved = put_all(folder, checkpoint, model, names, also=["decay."])
        optimizers.load_decay_state(without("decay.", found))
        loader.load_state_dict(saved["loader"])

    folder.processes.together(put)
