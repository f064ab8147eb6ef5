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
from compactrec.embeddings import CompressedEmbeddingBagCollection

__all__ = ["LazyAdam", "TableOptimizer", "TouchedRows"]

BETAS = 0.9, 0.999


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


class LazyAdam(torch.optim.Optimizer):
    """Adam on the rows of a batch: the moments and weights of all other rows stay.

    For a row of the batch ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2`` and
    ``w <- w - lr m' / (sqrt(v') + eps)`` with ``m' = m / (1 - b1^t)``, ``v' = v / (1 - b2^t)``. The
    ``t`` of the bias correction counts the steps of the optimizer, not those of the row, as in
    ``torch.optim.SparseAdam`` (where ``eps`` is added to ``sqrt(v)``). With every row in every
    batch this is ``torch.optim.Adam``. Bytes: 8 per weight.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, eps: float) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "betas": BETAS})
        self._rows: dict[int, Tensor] = {}

    def set_rows(self, rows: dict[int, Tensor]) -> None:
        """The rows of the next step, without repeats, by the parameter's ``id``."""
        self._rows = rows

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the rows that were set."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, self._rows[id(weight)], group)

    def _update(self, weight: nn.Parameter, rows: Tensor, group: dict[str, object]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        assert weight.grad is not None
        (beta1, beta2), step = BETAS, float(state["step"])
        g = weight.grad[rows]
        first = state["exp_avg"][rows].lerp_(g, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = first, second
        root = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weight[rows] -= first / root * (group["lr"] / (1 - beta1**step))


class TableOptimizer:
    """One torch optimizer for all tables, and the decay around it.

    ``dense_coupled`` is the optimizer's own L2 term, or added to gradients that are clipped;
    ``dense_decoupled`` scales all rows before the optimizer's step (under Adam: AdamW);
    ``touched_rows`` adds ``wd w`` to the gradients of the rows of the batch. Adam is lazy under
    ``touched_rows``, whatever the decay.

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
        lazy = isinstance(self.torch, LazyAdam)
        if self._mode == "touched_rows" and (self._decay or lazy):
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
        if self._decay:
            for weight in self._weights:
                if weight.grad is not None:
                    weight.grad[rows[id(weight)]] += self._decay * weight[rows[id(weight)]]
        if isinstance(self.torch, LazyAdam):
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
    # fused=True: one pass in C++ over all tables.
    match config.table_optimizer:
        case "sgd":
            return torch.optim.SGD(weights, lr=rate, weight_decay=l2, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(weights, lr=rate, eps=eps, weight_decay=l2, fused=True)
        case "rowwise_adagrad":  # of tables that are replicated
            return RowWiseAdagrad(weights, lr=rate, eps=eps)
        case "adam" if config.decay_mode == "touched_rows":
            return LazyAdam(weights, rate, eps)
        case "adam":
            return torch.optim.Adam(
                weights, lr=rate, betas=BETAS, eps=eps, weight_decay=l2, fused=True
            )
        case name:
            raise ValueError(
                f"tables with gradients are trained with 'sgd', 'adagrad', 'rowwise_adagrad' or "
                f"'adam', got {name!r}"
            )
