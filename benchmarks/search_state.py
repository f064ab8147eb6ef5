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

    def behind(self) -> AbstractContextManager[None]:
        return self.weights.behind()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, state = self.weights.state()
        if self.architecture is None:
            return tensors, {"weights": state}
        own = self.architecture.state_dict()
        for index, values in own["state"].items():
            for name, value in values.items():
                if value is not None:
                    tensors[f"architecture.{index}.{name}"] = torch.as_tensor(value)
        return tensors, {"weights": state, "architecture": own["param_groups"]}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        prefix = "architecture."
        own = {k: t for k, t in tensors.items() if k.startswith(prefix)}
        self.weights.load({k: t for k, t in tensors.items() if k not in own}, state["weights"])
        if self.architecture is None:
            return
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in own.items():
            index, name = key.removeprefix(prefix).split(".", 1)
            values.setdefault(int(index), {})[name] = tensor
        groups = state["architecture"]
        self.architecture.load_state_dict({"state": values, "param_groups": groups})


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
