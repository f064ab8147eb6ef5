"""The optimizers of a model: torch's for what has gradients, the tables' own inside backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.lamb import Lamb
from compactrec.benchmarks.table_optimizer import TableOptimizer
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    FusedOptimizer,
    dense_parameters,
)

__all__ = ["Optimizers", "fused_optimizer", "rates_at"]


def fused_optimizer(config: TrainConfig) -> FusedOptimizer | None:
    """What backward applies to tables, under engines ``fused`` and ``sharded``; else None."""
    if config.engine == "eager":
        return None
    name = config.table_optimizer
    assert name != "amsgrad"  # the config refuses both
    assert name != "lamb"
    return FusedOptimizer(
        name=name, learning_rate=config.table_learning_rate,
        eps=config.table_eps, weight_decay=config.table_decay, decay_mode=config.decay_mode,
    )  # fmt: skip


def rates_at(config: TrainConfig, step: int, num_reductions: int) -> tuple[float, float]:
    """Learning rates of a step: of dense weights, and of tables."""
    dense, tables = config.dense_learning_rate, config.table_learning_rate
    rate = config.schedule.rate
    return rate(dense, step, num_reductions), rate(tables, step, num_reductions)


class Optimizers:
    """Everything that is updated in a step.

    Engine ``fused``: the tables are updated inside backward, and one torch optimizer has the rest.
    Engine ``eager``: the tables have gradients, and a second torch optimizer with the tables'
    settings. Engine ``sharded``: the same for the tables that are replicated.

    Args:
        model: holds ``tables`` somewhere inside.
        tables: the embedding collection, or several.
        config: names, learning rates, decay and schedule.
        exclude: parameters that are somebody else's. A fused table cannot be among them.
        only_tables: update no weight but those of tables.
    """

    def __init__(
        self,
        model: nn.Module,
        tables: CompressedEmbeddingBagCollection | Sequence[CompressedEmbeddingBagCollection],
        config: TrainConfig,
        *,
        exclude: Iterable[nn.Parameter] = (),
        only_tables: bool = False,
    ) -> None:
        if isinstance(tables, CompressedEmbeddingBagCollection):
            tables = [tables]
        self._collections = list(tables)
        self._names = [f"tables.{i}." for i in range(len(tables))]
        if len(tables) == 1:
            self._names = ["tables."]
        self._config = config
        self._last_rates = (config.dense_learning_rate, config.table_learning_rate)
        excluded = {id(p) for p in exclude}
        _check_excluded(self._collections, excluded)
        excluded |= {id(p) for c in self._collections for p in c.constant_parameters()}
        in_tables = _table_weights(model)
        parameters = [p for p in dense_parameters(model) if id(p) not in excluded]
        dense = [p for p in parameters if id(p) not in in_tables]
        eager = [p for p in parameters if id(p) in in_tables]
        self._dense: torch.optim.Optimizer | None = None
        self._all: list[torch.optim.Optimizer] = []
        if dense and not only_tables:
            self._dense = _torch_optimizer(
                config.dense_optimizer, dense, config.dense_learning_rate,
                config.dense_eps, config.dense_weight_decay,
            )  # fmt: skip
            self._all.append(self._dense)
        self._eager: TableOptimizer | None = None
        if eager:
            self._eager = TableOptimizer(self._collections, eager, config)
            self._all.append(self._eager.torch)

    def zero_grad(self) -> None:
        """Forget the gradients of what is updated here."""
        if self._dense is not None:
            self._dense.zero_grad(set_to_none=True)
        if self._eager is not None:
            self._eager.zero_grad()

    def step(self) -> None:
        """Update everything that backward has not updated yet."""
        if self._eager is not None:
            self._eager.prepare()
        if self._config.max_grad_norm is not None:
            every = [p for o in self._all for group in o.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(every, self._config.max_grad_norm)
        if self._dense is not None:
            self._dense.step()
        if self._eager is not None:
            self._eager.step()

    def set_rates(self, step: int, num_reductions: int = 0) -> None:
        """Set the learning rates of ``step`` (1 is the first), where they change.

        Args:
            step: that comes next.
            num_reductions: of the rates, on plateaus so far.
        """
        rates = rates_at(self._config, step, num_reductions)
        if rates == self._last_rates:
            return
        self._last_rates = rates
        if self._dense is not None:
            _set_rate(self._dense, rates[0])
        if self._eager is not None:
            _set_rate(self._eager.torch, rates[1])
        for collection in self._collections:
            if collection.engine != "eager":
                collection.set_learning_rate(rates[1])

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Within it the tables' weights are saved as they are, together with what they missed.

        Saving leaves no trace then: not even a last bit depends on when it was done.
        """
        with ExitStack() as stack:
            for collection in self._collections:
                stack.enter_context(collection.behind())
            yield

    @property
    def stepped(self) -> list[torch.optim.Optimizer]:
        """Those that :meth:`step` steps."""
        return self._all

    def decay_state(self) -> dict[str, Tensor]:
        """What rows of the tables have missed, by collection."""
        return {
            name + k: t
            for name, collection in zip(self._names, self._collections, strict=True)
            for k, t in collection.decay_state_dict().items()
        }

    def load_decay_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`decay_state` gave, after the weights."""
        for name, collection in zip(self._names, self._collections, strict=True):
            collection.load_decay_state_dict(_under(name, tensors))
        self._last_rates = (-1.0, -1.0)  # unknown: the next step sets them


def _torch_optimizer(
    name: str, parameters: list[nn.Parameter], rate: float, eps: float | None, decay: float
) -> torch.optim.Optimizer:
    # fused=True: one pass in C++ over all parameters, much faster for Adam on a CPU.
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
    if name == "adagrad":
        return torch.optim.Adagrad(
            parameters, lr=rate, eps=eps or 1e-10, weight_decay=decay, fused=True
        )
    if name in ("adam", "amsgrad"):
        return torch.optim.Adam(
            parameters, lr=rate, eps=eps or 1e-8, weight_decay=decay, amsgrad=name == "amsgrad",
            fused=True,
        )  # fmt: skip
    if name == "lamb":
        return Lamb(parameters, rate, eps=eps or 1e-6, weight_decay=decay)
    raise ValueError(
        f"optimizer must be 'sgd', 'adagrad', 'adam', 'amsgrad' or 'lamb', got {name!r}"
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _check_excluded(
    collections: Sequence[CompressedEmbeddingBagCollection], excluded: set[int]
) -> None:
    for collection in collections:
        for name, weight in collection.tables.named_parameters():
            if collection.engine == "fused" and id(weight) in excluded:
                raise ValueError(
                    f"{name} is a table of engine 'fused', which is updated in every backward "
                    f"pass and cannot be excluded; build its collection with engine='eager'"
                )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _table_weights(model: nn.Module) -> set[int]:
    """Identities of all weights in torchrec's tables."""
    kinds = (EmbeddingBagCollection, EmbeddingCollection, ShardedEmbeddingBagCollection)
    collections = [module for module in model.modules() if isinstance(module, kinds)]
    return {id(p) for collection in collections for p in collection.parameters()}
