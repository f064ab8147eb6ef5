"""The fused engine: FBGEMM's table-batched lookups, the optimizer inside the backward pass.

State-dict keys and shapes are those of a plain ``EmbeddingBagCollection``; the weights registered
here are views into FBGEMM's one buffer. Under a dense weight decay the rows that no batch has held
lately are behind (``decay.py``): ``state_dict()``, ``eval()`` and ``catch_up()`` bring them up to
date, and who reads the parameters directly calls one of these first.

FBGEMM is told to check no row, so what is in range is what came before it: the rewrite refuses ids
out of range, and a lowering refuses arrays with rows out of range. A collection built with
``check_ids=False`` has the second check only, and nobody looks at the arrays of a state dict that
is loaded. A row out of range reads, and in training writes, another feature's table or memory that
is no table at all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn

from compactrec.embeddings.contract import Table
from compactrec.embeddings.decay import LazyDecay
from compactrec.embeddings.fused_decay import FusedDecay, Lookup
from compactrec.embeddings.fused_optimizer import FusedOptimizer

__all__ = ["FusedTables"]

_KINDS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}

_LIVE = ("_operator", "_modules", "_decay")
"""Attributes that are made anew in a copy."""


class _Weight(nn.Module):
    """Holder of one table's weight, so that keys read ``embedding_bags.<table>.weight``."""

    weight: nn.Parameter

    def __init__(self) -> None:
        super().__init__()


class FusedTables(nn.Module):
    """All physical tables in one table-batched operator.

    Args:
        tables: the physical tables.
        part_tables: for every part of the input, the table it reads.
        optimizer: what the backward pass applies.
        device: where the weights live, for good.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        part_keys: Sequence[str],
        part_tables: Sequence[str],
        optimizer: FusedOptimizer,
        device: torch.device,
    ) -> None:
        super().__init__()
        if device.type == "meta":
            raise ValueError("the fused engine cannot be built on meta; use engine='eager' there")
        self.tables = tuple(tables)
        self.optimizer = optimizer
        self.device = device
        index = {table.name: i for i, table in enumerate(tables)}
        feature_tables = [index[name] for name in part_tables]
        # FBGEMM needs the parts of a table side by side.
        self._order = sorted(range(len(part_keys)), key=lambda i: feature_tables[i])
        self._permute = self._order != list(range(len(part_keys)))
        self.part_keys = tuple(part_keys[i] for i in self._order)
        self.part_dims = tuple(tables[feature_tables[i]].dim for i in self._order)
        self._feature_tables = [feature_tables[i] for i in self._order]
        self.embedding_bags = nn.ModuleDict({table.name: _Weight() for table in tables})
        self._build()

    def forward(
        self, values: Tensor, lengths: Tensor, weights: Tensor | None, num_bags: int
    ) -> Tensor:
        """Sum-pooled rows ``(B, sum of part dims)`` in :attr:`part_keys` order."""
        if self._permute:
            values, lengths, weights = self._permuted(values, lengths, weights, num_bags)
        offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        if self._decay is not None:
            lookup = Lookup(
                values, lengths, weights, num_bags, tuple(self._feature_tables), self.part_dims
            )
            return self._decay.look_up(lambda: self._tbe()(values, offsets, weights), lookup)
        pooled: Tensor = self._tbe()(values, offsets, weights)
        return pooled

    def _permuted(
        self, values: Tensor, lengths: Tensor, weights: Tensor | None, num_bags: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        grid = lengths.view(-1, num_bags)
        counts = grid.sum(1).tolist()
        pieces = values.split(counts)
        values = torch.cat([pieces[i] for i in self._order])
        if weights is not None:
            weight_pieces = weights.split(counts)
            weights = torch.cat([weight_pieces[i] for i in self._order])
        return values, grid[self._order].reshape(-1), weights

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate from the next backward on."""
        if self._decay is not None:
            self._decay.set_rate(learning_rate)
        self._tbe().set_learning_rate(learning_rate)

    @property
    def lazy_decay(self) -> LazyDecay | None:
        """What rows have missed, under a dense weight decay."""
        return None if self._decay is None else self._decay.lazy

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring all rows up to date with the decay that they have missed."""
        if self.lazy_decay is not None:
            self.lazy_decay.catch_up_all()

    def train(self, mode: bool = True) -> "FusedTables":
        """As for any module; all rows are up to date for evaluation."""
        if not mode:
            self.catch_up()
        return super().train(mode)

    def optimizer_state_dict(self) -> dict[str, Tensor]:
        """State per table, as views, by ``<table>.momentum1``; empty for SGD."""
        self.catch_up()
        return self._momenta()

    def _momenta(self) -> dict[str, Tensor]:
        out = {}
        names = [table.name for table in self.tables]
        states = self._tbe().split_optimizer_states() or [()] * len(names)  # SGD has none
        for name, state in zip(names, states, strict=True):
            for i, tensor in enumerate(state):
                if tensor.numel():
                    out[f"{name}.momentum{i + 1}"] = tensor
        return out

    def load_optimizer_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state in; raise ``ValueError`` naming keys or shapes that do not fit."""
        own = self._momenta()
        if own.keys() != state.keys():
            differing = sorted(own.keys() ^ state.keys())
            raise ValueError(f"optimizer state of other tables or another optimizer: {differing}")
        for key, tensor in own.items():
            if tensor.shape != state[key].shape:
                raise ValueError(
                    f"optimizer state {key!r} has shape {tuple(state[key].shape)}, expected "
                    f"{tuple(tensor.shape)}"
                )
            tensor.copy_(state[key])

    def _build(self) -> None:
        cuda = self.device.type == "cuda"
        location = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
        compute = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
        operator = SplitTableBatchedEmbeddingBagsCodegen(
            [(t.num_rows, t.dim, location, compute) for t in self.tables],
            feature_table_map=self._feature_tables,
            optimizer=_KINDS[self.optimizer.name],
            learning_rate=self.optimizer.learning_rate,
            eps=self.optimizer.eps,
            stochastic_rounding=False,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # see above
            device=self.device,
        )
        # Outside the module tree: its flat buffer is not part of the state dict.
        object.__setattr__(self, "_operator", operator)
        self._tie()
        self._decay: FusedDecay | None = None
        if self.optimizer.weight_decay:
            # `.data`: autograd must not count what happens between a lookup and its update.
            weights = [view.data for view in self._views()]
            self._decay = FusedDecay(
                self.optimizer,
                weights,
                list(self._momenta().values()),
                [i for i, table in enumerate(self.tables) if not table.is_constant],
            )

    def _tbe(self) -> SplitTableBatchedEmbeddingBagsCodegen:
        found = self.__dict__["_operator"]
        assert isinstance(found, SplitTableBatchedEmbeddingBagsCodegen)
        return found

    def _views(self) -> list[Tensor]:
        views: list[Tensor] = self._tbe().split_embedding_weights()
        return views

    def _tie(self) -> None:
        for table, view in zip(self.tables, self._views(), strict=True):
            holder = self.embedding_bags[table.name]
            assert isinstance(holder, _Weight)
            holder.weight = nn.Parameter(view.detach(), requires_grad=False)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.catch_up()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.catch_up()  # what is loaded over it has missed nothing
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedTables":
        probe = fn(torch.empty(0, device=self.device))
        if probe.device != self.device or probe.dtype != torch.float32:
            raise ValueError(
                f"the fused engine lives on {self.device} in float32 and cannot be moved to "
                f"{probe.device} {probe.dtype}: build it there and load the state dict"
            )
        return self

    def __getstate__(self) -> dict[str, Any]:
        lazy = self.lazy_decay
        state = {k: v for k, v in self.__dict__.items() if k not in _LIVE}
        state["_saved"] = (
            [view.clone() for view in self._views()],
            {k: v.clone() for k, v in self._momenta().items()},
            self._decay.rate if self._decay else float(self._tbe().get_learning_rate()),
            {k: v.clone() for k, v in lazy.state().items()} if lazy is not None else None,
        )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weights, momenta, learning_rate, missed = state.pop("_saved")
        self.__dict__.update(state)
        self.__dict__["_modules"] = {}
        self.embedding_bags = nn.ModuleDict({table.name: _Weight() for table in self.tables})
        self._build()
        for view, weight in zip(self._views(), weights, strict=True):
            view.copy_(weight)
        self.load_optimizer_state_dict(momenta)
        self.set_learning_rate(learning_rate)
        if self.lazy_decay is not None:
            self.lazy_decay.load(missed)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedTables":
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__setstate__(self.__getstate__())  # the weights in it are copies already
        return clone
