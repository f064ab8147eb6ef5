"""The optimizer of tables that have gradients (engine ``eager``), with the decay modes of tables.

Gradients are dense here: rows that no batch held have a gradient of 0. Under SGD and Adagrad they
stay as they are anyhow; under Adam, whose moments go on, they do not. So ``touched_rows`` needs to
know which rows were looked up, and that is noted in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.lamb import Lamb
from compactrec.benchmarks.lazy_adam import LazyAdam
from compactrec.benchmarks.moments import BETAS
from compactrec.embeddings import CompressedEmbeddingBagCollection

__all__ = ["TableOptimizer", "TouchedRows"]


class TouchedRows:
    """The physical rows that were looked up since :meth:`clear`, as far as backward passes went.

    Args:
        collection: an eager one; its tables' forward pass is listened to.
    """

    def __init__(self, collection: CompressedEmbeddingBagCollection) -> None:
        ids = collection.rewrite.ids
        self._table_of = dict(zip(ids.part_keys, ids.part_tables, strict=True))
        self._found: dict[str, list[Tensor]] = {}
        collection.tables.register_forward_hook(self._listen)

    def rows(self, table: str) -> Tensor:
        """Rows of ``table``, without repeats; int64."""
        found = self._found.get(table, [])
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.int64)

    def clear(self) -> None:
        """Forget them: a step is done."""
        self._found.clear()

    def _listen(
        self, module: nn.Module, args: tuple[KeyedJaggedTensor], output: KeyedTensor
    ) -> None:
        if torch.is_grad_enabled() and output.values().requires_grad:
            output.values().register_hook(lambda grad: self._note(args[0]))

    def _note(self, physical: KeyedJaggedTensor) -> None:
        pieces = physical.values().split(physical.length_per_key())
        for key, piece in zip(physical.keys(), pieces, strict=True):
            self._found.setdefault(self._table_of[key], []).append(piece)


class TableOptimizer:
    """One torch optimizer for all tables, and the decay around it.

    ``dense_coupled`` is the optimizer's own L2 term, or added to gradients that are clipped;
    ``dense_decoupled`` scales all rows before the optimizer's step (under Adam: AdamW);
    ``touched_rows`` adds ``wd w`` to the gradients of the rows of the batch. Adam and AMSGrad are
    lazy under ``touched_rows``, whatever the decay; LAMB knows this mode alone, and adds ``wd w``
    to its direction itself.

    Args:
        collections: where the tables are.
        weights: those to train.
        config: optimizer, rate, decay and mode.
    """

    def __init__(
        self,
        collections: Sequence[CompressedEmbeddingBagCollection],
        weights: Sequence[nn.Parameter],
        config: TrainConfig,
    ) -> None:
        self._decay, self._mode = config.table_decay, config.decay_mode
        self._clipped = config.max_grad_norm is not None
        self._weights = list(weights)
        self.torch = _torch_optimizer(config, self._weights)
        self._touched: dict[int, tuple[TouchedRows, str]] = {}
        by_row = isinstance(self.torch, LazyAdam | Lamb)
        if self._mode == "touched_rows" and (self._decay or by_row):
            self._touched = _watch(collections, self._weights)

    def zero_grad(self) -> None:
        """Forget gradients, and the rows that have them."""
        self.torch.zero_grad(set_to_none=True)
        self._clear()

    @torch.no_grad()
    def prepare(self) -> None:
        """Decay: what comes before a step, and before gradients are clipped."""
        if self._mode == "touched_rows":
            self._prepare_touched()
        elif self._decay or isinstance(self.torch, torch.optim.Adam):
            self._prepare_dense()

    def step(self) -> None:
        """Update; :meth:`prepare` was called before."""
        self.torch.step()
        self._clear()

    def _prepare_dense(self) -> None:
        factor = 1 - self.torch.param_groups[0]["lr"] * self._decay
        for weight in self._weights:
            if not weight.requires_grad:  # frozen: no step, no decay
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if self._mode == "dense_decoupled" and self._decay:
                weight.mul_(factor)
            if self._mode == "dense_coupled" and self._clipped:
                weight.grad.add_(weight, alpha=self._decay)

    def _prepare_touched(self) -> None:
        rows = {key: touched.rows(table) for key, (touched, table) in self._touched.items()}
        if self._decay and not isinstance(self.torch, Lamb):
            for weight in self._weights:
                if weight.grad is not None:
                    weight.grad[rows[id(weight)]] += self._decay * weight[rows[id(weight)]]
        if isinstance(self.torch, LazyAdam | Lamb):
            self.torch.set_rows(rows)

    def _clear(self) -> None:
        for touched, _ in self._touched.values():
            touched.clear()


def _watch(
    collections: Sequence[CompressedEmbeddingBagCollection], weights: Sequence[nn.Parameter]
) -> dict[int, tuple[TouchedRows, str]]:
    """Who knows the touched rows of each weight."""
    found: dict[int, tuple[TouchedRows, str]] = {}
    for collection in collections:
        touched = TouchedRows(collection)
        for name, weight in collection.tables.named_parameters():
            found[id(weight)] = (touched, name.split(".")[1])  # embedding_bags.<table>.weight
    strange = sum(id(weight) not in found for weight in weights)
    if strange:
        raise ValueError(
            f"the model has {strange} tables outside the {len(collections)} collections given, and "
            f"decay_mode 'touched_rows' must know what each batch looks up; give all collections, "
            f"or exclude those weights"
        )
    return found


def _torch_optimizer(config: TrainConfig, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, eps = config.table_learning_rate, config.table_eps
    inside = config.decay_mode == "dense_coupled" and config.max_grad_norm is None
    l2 = config.table_decay if inside else 0.0
    amsgrad = config.table_optimizer == "amsgrad"
    # fused=True: one pass in C++ over all tables.
    match config.table_optimizer:
        case "sgd":
            return torch.optim.SGD(weights, lr=rate, weight_decay=l2, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(weights, lr=rate, eps=eps, weight_decay=l2, fused=True)
        case "rowwise_adagrad":  # of tables that are replicated
            return RowWiseAdagrad(weights, lr=rate, eps=eps)
        case "adam" | "amsgrad" if config.decay_mode == "touched_rows":
            return LazyAdam(weights, rate, eps, amsgrad=amsgrad)
        case "adam" | "amsgrad":
            return torch.optim.Adam(
                weights, lr=rate, betas=BETAS, eps=eps, weight_decay=l2, amsgrad=amsgrad, fused=True
            )
        case "lamb":
            return Lamb(weights, rate, eps=eps, weight_decay=config.table_decay, by_row=True)
        case name:
            raise ValueError(
                f"tables with gradients are trained with 'sgd', 'adagrad', 'rowwise_adagrad', "
                f"'adam', 'amsgrad' or 'lamb', got {name!r}"
            )
