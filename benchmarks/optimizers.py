"""The optimizers of a model: torch's for what has gradients, the tables' own inside backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from compactrec.benchmarks.config import TrainConfig
from compactrec.embeddings import CompressedEmbeddingBagCollection, dense_parameters

__all__ = ["Optimizers"]


class Optimizers:
    """Everything that is updated in a step.

    Engine ``fused``: the tables are updated inside backward, and one torch optimizer has the rest.
    Engine ``eager``: the tables have gradients, and a second torch optimizer with the tables'
    settings.

    Args:
        model: holds ``tables`` somewhere inside.
        tables: the embedding collection.
        config: names, learning rates and schedule.
    """

    def __init__(
        self, model: nn.Module, tables: CompressedEmbeddingBagCollection, config: TrainConfig
    ) -> None:
        self._tables, self._config = tables, config
        self._last_rates = (config.dense_learning_rate, config.table_learning_rate)
        in_tables = _table_weights(model)
        parameters = dense_parameters(model)
        dense = [p for p in parameters if id(p) not in in_tables]
        eager = [p for p in parameters if id(p) in in_tables]
        self._dense = _torch_optimizer(
            config.dense_optimizer, dense, config.dense_learning_rate,
            eps=1e-10, weight_decay=config.dense_weight_decay,
        )  # fmt: skip
        self._all = [self._dense]
        self._eager: torch.optim.Optimizer | None = None
        if eager:
            rate, eps = config.table_learning_rate, config.table_eps
            self._eager = _torch_optimizer(config.table_optimizer, eager, rate, eps=eps)
            self._all.append(self._eager)

    def zero_grad(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self._all:
            optimizer.step()

    def set_rates(self, step: int) -> None:
        """Set the learning rates of ``step`` (1 is the first), where they change."""
        config = self._config
        rates = (
            config.schedule.rate(config.dense_learning_rate, step),
            config.schedule.rate(config.table_learning_rate, step),
        )
        if rates == self._last_rates:
            return
        self._last_rates = rates
        _set_rate(self._dense, rates[0])
        if self._eager is not None:
            _set_rate(self._eager, rates[1])
        else:
            self._tables.set_learning_rate(rates[1])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state, as tensors by name and JSON."""
        tensors = {f"tables.{k}": t for k, t in self._tables.optimizer_state_dict().items()}
        groups = []
        for i, optimizer in enumerate(self._all):
            state = optimizer.state_dict()
            groups.append(state["param_groups"])
            for index, values in state["state"].items():
                for name, value in values.items():
                    if value is not None:  # SGD keeps a momentum of None
                        tensors[f"torch.{i}.{index}.{name}"] = torch.as_tensor(value)
        return tensors, {"param_groups": groups}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        own = {k.removeprefix("tables."): t for k, t in tensors.items() if k.startswith("tables.")}
        self._tables.load_optimizer_state_dict(own)
        for i, (optimizer, groups) in enumerate(zip(self._all, state["param_groups"], strict=True)):
            values: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"torch.{i}."):
                    _, _, index, name = key.split(".")
                    values.setdefault(int(index), {})[name] = tensor
            optimizer.load_state_dict({"state": values, "param_groups": groups})
        self._last_rates = (-1.0, -1.0)  # unknown: the next step sets them


def _torch_optimizer(
    name: str, parameters: list[nn.Parameter], rate: float, *, eps: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    # fused=True: one pass in C++ over all parameters, much faster for Adam on a CPU.
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=weight_decay, fused=True)
    if name == "adagrad":
        return torch.optim.Adagrad(
            parameters, lr=rate, eps=eps, weight_decay=weight_decay, fused=True
        )
    if name == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay, fused=True)
    raise ValueError(f"optimizer must be 'sgd', 'adagrad' or 'adam', got {name!r}")


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _table_weights(model: nn.Module) -> set[int]:
    """Identities of all weights in torchrec's tables."""
    kinds = (EmbeddingBagCollection, EmbeddingCollection)
    collections = [module for module in model.modules() if isinstance(module, kinds)]
    return {id(p) for collection in collections for p in collection.parameters()}
