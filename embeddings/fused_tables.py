"""The fused engine: all tables behind one lookup, the optimizer inside the backward pass.

What looks up and updates is a kernel: FBGEMM's table-batched operator (``fused.py``), on CPU and
GPU, or loops that Numba compiles (``numba_tables.py``), on CPU. Both give the same numbers.

State-dict keys and shapes are those of a plain ``EmbeddingBagCollection``; the weights registered
here are the kernel's own memory. Under a dense weight decay the rows that no batch has held lately
are behind (``decay.py``): ``state_dict()``, ``eval()`` and ``catch_up()`` bring them up to date,
and who reads the parameters directly calls one of these first.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from compactrec.embeddings.contract import Table
from compactrec.embeddings.decay import LazyDecay
from compactrec.embeddings.fused_decay import FusedDecay, Lookup
from compactrec.embeddings.fused_optimizer import FusedOptimizer

__all__ = ["FusedTables", "Kernel", "TableKernel", "choose_kernel"]

Kernel = Literal["auto", "numba", "fbgemm"]

_LIVE = ("_operator", "_modules", "_decay")
"""Attributes that are made anew in a copy."""


class TableKernel(Protocol):
    """What holds the tables, looks rows up and updates them in the backward pass."""

    decays_in_rule: bool
    """It applies a coupled decay of the rows of the batch itself, in the optimizer's rule."""

    def look_up(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sum-pooled rows; ``values`` are rows by part and bag, ``offsets`` where bags begin."""

    def weights(self) -> list[Tensor]:
        """The tables, in their order; whoever writes into them writes into the kernel."""

    def states(self) -> dict[str, Tensor]:
        """State of the optimizer by ``<table>.<name>``, as views."""

    def learning_rate(self) -> float:
        """Of the next step."""

    def set_learning_rate(self, learning_rate: float) -> None:
        """For the steps from now on."""


def choose_kernel(
    kernel: Kernel, optimizer: FusedOptimizer, device: torch.device
) -> Literal["numba", "fbgemm"]:
    """What ``auto`` is: Numba on a CPU where it is installed, else FBGEMM.

    Raises ``ValueError`` where the kernel cannot do what is asked for.
    """
    installed = importlib.util.find_spec("numba") is not None
    if kernel == "auto":
        kernel = "numba" if installed and device.type == "cpu" else "fbgemm"
    if kernel == "numba" and device.type != "cpu":
        raise ValueError(
            f"kernel 'numba' runs on cpu, got device {str(device)!r}; use kernel='fbgemm' there"
        )
    if kernel == "numba" and not installed:
        raise ValueError(
            "kernel 'numba' needs the package numba, which is not installed; install "
            "'compactrec[kernels]', or use kernel='fbgemm'"
        )
    if kernel == "fbgemm" and optimizer.name == "adam":
        raise ValueError(
            "optimizer 'adam' of engine='fused' is one of kernel 'numba' alone, which needs a cpu "
            "and the package numba ('compactrec[kernels]'); FBGEMM's CPU operator has none. Use "
            "that, or 'adagrad', 'rowwise_adagrad' or 'sgd', or engine='eager'"
        )
    if kernel not in ("numba", "fbgemm"):
        raise ValueError(f"kernel must be 'auto', 'numba' or 'fbgemm', got {kernel!r}")
    return kernel


class _Weight(nn.Module):
    """Holder of one table's weight, so that keys read ``embedding_bags.<table>.weight``."""

    weight: nn.Parameter

    def __init__(self) -> None:
        super().__init__()


class FusedTables(nn.Module):
    """All physical tables behind one lookup.

    Args:
        tables: the physical tables.
        part_tables: for every part of the input, the table it reads.
        optimizer: what the backward pass applies.
        device: where the weights live, for good.
        kernel: what looks up and updates.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        part_keys: Sequence[str],
        part_tables: Sequence[str],
        optimizer: FusedOptimizer,
        device: torch.device,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        if device.type == "meta":
            raise ValueError("the fused engine cannot be built on meta; use engine='eager' there")
        self.tables = tuple(tables)
        self.optimizer = optimizer
        self.device = device
        self.kernel = choose_kernel(kernel, optimizer, device)
        index = {table.name: i for i, table in enumerate(tables)}
        feature_tables = [index[name] for name in part_tables]
        # Kernels need the parts of a table side by side.
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
            return self._decay.look_up(
                lambda: self._kernel().look_up(values, offsets, weights), lookup
            )
        return self._kernel().look_up(values, offsets, weights)

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
        self._kernel().set_learning_rate(learning_rate)

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
        return self._kernel().states()

    def load_optimizer_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state in; raise ``ValueError`` naming keys or shapes that do not fit."""
        own = self._kernel().states()
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
        # Outside the module tree: what it holds is in the state dict as `embedding_bags`.
        object.__setattr__(self, "_operator", self._make_kernel())
        self._tie()
        self._decay: FusedDecay | None = None
        optimizer, kernel = self.optimizer, self._kernel()
        in_rule = kernel.decays_in_rule
        if optimizer.weight_decay and not (in_rule and optimizer.decay_mode == "touched_rows"):
            # `.data`: autograd must not count what happens between a lookup and its update.
            self._decay = FusedDecay(
                optimizer,
                [weight.data for weight in kernel.weights()],
                list(kernel.states().values()),
                [i for i, table in enumerate(self.tables) if not table.is_constant],
                in_rule=in_rule,
            )

    def _make_kernel(self) -> TableKernel:
        if self.kernel == "numba":
            from compactrec.embeddings.numba_tables import NumbaKernel

            return NumbaKernel(self.tables, self._feature_tables, self.optimizer)
        from compactrec.embeddings.fused import FbgemmKernel

        return FbgemmKernel(self.tables, self._feature_tables, self.optimizer, self.device)

    def _kernel(self) -> TableKernel:
        found: TableKernel = self.__dict__["_operator"]
        return found

    def _tie(self) -> None:
        for table, view in zip(self.tables, self._kernel().weights(), strict=True):
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
            [view.clone() for view in self._kernel().weights()],
            {k: v.clone() for k, v in self._kernel().states().items()},
            self._decay.rate if self._decay else self._kernel().learning_rate(),
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
        for view, weight in zip(self._kernel().weights(), weights, strict=True):
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
