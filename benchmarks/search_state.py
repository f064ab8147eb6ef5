"""What a search remembers while it trains: progress, optimizers, positions of its loaders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.search_result import SearchEntry
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader

__all__ = ["AllOptimizers", "SearchLoaders", "SearchProgress"]


@dataclass
class SearchProgress:
    """All that the loop remembers. A checkpoint holds every field."""

    phase: int = 0
    step: int = 0
    """In the phase."""
    best_auc: float | None = None
    """Of the phase."""
    evals_since_best: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    """Validations and writing too, up to the last checkpoint."""
    num_samples: int = 0
    entries: list[SearchEntry] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "entries": [e.model_dump(mode="json") for e in self.entries]}

    @staticmethod
    def from_json(values: dict[str, Any]) -> SearchProgress:
        entries = [SearchEntry.model_validate(e) for e in values["entries"]]
        return SearchProgress(**{**values, "entries": entries})


class AllOptimizers:
    """Weights' and architecture's optimizers, as one for a checkpoint."""

    def __init__(self, weights: Optimizers, architecture: torch.optim.Optimizer | None) -> None:
        self.weights, self.architecture = weights, architecture

    @property
    def stepped(self) -> list[torch.optim.Optimizer]:
        own = [] if self.architecture is None else [self.architecture]
        return [*self.weights.stepped, *own]

    def behind(self) -> AbstractContextManager[None]:
        return self.weights.behind()

    def decay_state(self) -> dict[str, Tensor]:
        return self.weights.decay_state()

    def load_decay_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights.load_decay_state(tensors)


class SearchLoaders:
    """Training batches, and validation batches for the architecture, as one for a checkpoint."""

    def __init__(self, config: TrainConfig) -> None:
        size, seed = config.batch_size, config.seed
        self.train = BatchLoader(config.data, "train", size, seed=seed)
        self.validation = BatchLoader(config.data, "validation", size, seed=seed + 1)
        self._validation: Iterator[Batch] | None = None

    def next_validation(self) -> Batch:
        """The next validation batch; the rows begin again, in another order, when they run out."""
        while True:
            if self._validation is None:
                self._validation = iter(self.validation)
            batch = next(self._validation, None)
            if batch is not None:
                return batch
            self._validation = None

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.train.state_dict(), "validation": self.validation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.train.load_state_dict(state["train"])
        self.validation.load_state_dict(state["validation"])
