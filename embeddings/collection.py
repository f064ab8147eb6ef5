"""CompressedEmbeddingBagCollection: any plan behind torchrec's EmbeddingBagCollection interface."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn
from torchrec.distributed.types import LazyAwaitable
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingBagCollectionInterface,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.embeddings.contract import Table
from compactrec.embeddings.fused_optimizer import FusedOptimizer
from compactrec.embeddings.fused_tables import FusedTables, Kernel
from compactrec.embeddings.kjt_rewrite import KjtRewrite
from compactrec.embeddings.lazy_vectors import LazyVectors
from compactrec.embeddings.logical import LogicalCombine
from compactrec.embeddings.plan import Plan
from compactrec.embeddings.rewrite import Rewrite
from compactrec.embeddings.tracing import as_leaf

__all__ = ["CompressedEmbeddingBagCollection", "Engine"]

Engine = Literal["eager", "fused", "sharded"]


class CompressedEmbeddingBagCollection(EmbeddingBagCollectionInterface):
    """Logical features in, logical vectors out; a plan decides what lies between.

    For feature ``f`` and example ``b`` the output is ``sum_i w_i * e_f(id_i)`` over the bag, where
    ``e_f`` is the *complete* vector of one id: combined first, pooled after, whatever the method.
    ``mean`` divides that by the number of ids in the bag. An empty bag gives zeros.

    Args:
        plan: features and their method configs.
        engine: ``eager`` (a plain EmbeddingBagCollection, dense gradients; for reference and
            export), ``fused`` (optimizer inside backward; one process) or ``sharded`` (tables that
            are allocated by :func:`compactrec.embeddings.sharding.shard`).
        device: where to build, by default as torch does; ``meta`` only with ``eager``, and what is
            looked up there has a shape and no numbers.
        is_weighted: batches carry one weight per id. Without it, weights of a batch are not read,
            as in torchrec.
        optimizer: for ``fused`` only; row-wise Adagrad by default.
        kernel: for ``fused`` only: ``numba`` (CPU), ``fbgemm``, or ``auto``, which is ``numba`` on
            a CPU where it is installed. Same numbers to rounding, same state.
        check_ids: raise on ids out of range. Without, such an id is undefined behaviour: it may
            read another row, another feature's table or, with kernel ``fbgemm``, any memory.

    ``torch.export`` (``strict=False``) takes an ``eager`` collection with any bags; the number of
    ids and the batch size may be dynamic, the latter from 2 on, as torch specialises on 1. In a
    compiled or exported graph what is out of range is a ``RuntimeError`` that names no id.

    Everything is float32, also where the model around it runs under ``torch.autocast``.

    Shapes: KeyedJaggedTensor of F features and B examples, ids int64 or int32 -> KeyedTensor ``(B,
    sum of dims)``, keys in the plan's order. Bytes: :func:`compactrec.embeddings.size`.

    Example::

        collection = CompressedEmbeddingBagCollection(plan, engine="fused")
        vectors = collection(batch.kjt())["C1"]  # (B, 16)
    """

    def __init__(
        self,
        plan: Plan,
        *,
        engine: Engine = "eager",
        device: torch.device | str | None = None,
        is_weighted: bool = False,
        optimizer: FusedOptimizer | None = None,
        kernel: Kernel = "auto",
        check_ids: bool = True,
    ) -> None:
        super().__init__()
        if engine not in ("eager", "fused", "sharded"):
            raise ValueError(f"engine must be 'eager', 'fused' or 'sharded', got {engine!r}")
        if optimizer is not None and engine != "fused":
            raise ValueError(
                f"optimizer is for engine='fused', got engine={engine!r}; train an eager "
                f"collection with a torch.optim optimizer over its parameters(), and give that of "
                f"a sharded one to shard()"
            )
        if kernel != "auto" and engine != "fused":
            raise ValueError(
                f"kernel is for engine='fused', got kernel={kernel!r} and engine={engine!r}; leave "
                f"it out"
            )
        self.plan = plan
        self.plain_names: dict[str, str] = {}
        """Names of the plain tables that ``materialize`` makes, by feature; its name by default."""
        self.engine: Engine = engine
        self._is_weighted = is_weighted
        where = torch.get_default_device() if device is None else torch.device(device)
        self.seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        with where:
            lowered = plan.lower()
        streams = [stream for part in lowered for stream in part.streams]
        self.rewrite = KjtRewrite(
            plan.features, streams, is_weighted=is_weighted, check_ids=check_ids
        )
        if where.type != "meta":
            self.rewrite.to(where)
        self._specs = _table_order([t for part in lowered for t in part.tables], self.rewrite.ids)
        with torch.random.fork_rng():  # what the engines draw while they build is drawn again
            self.tables = self._build_tables(self._specs, optimizer, where, kernel)
        if where.type != "meta" and engine != "sharded":
            self._draw_tables(torch.Generator(where).manual_seed(self.seed))
        by_key = {o.key: o for part in lowered for o in part.outputs}
        order = [o for f in plan.features for o in by_key.values() if o.feature == f.name]
        self.combine = LogicalCombine(order)
        self._keys = [output.key for output in order]
        self._dims = [output.dim for output in order]
        self._mean = [f.name for f in plan.features if f.pooling == "mean"]
        self._output_features = [output.feature for output in order]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Logical vectors.

        Raises ``ValueError`` on missing features, ids out of range and lengths that do not fit.
        """
        if self.engine == "fused" and (leaf := as_leaf(self, features)) is not None:
            return cast(KeyedTensor, leaf)
        kind = self.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self.forward(features)
        if not isinstance(features, fx.Proxy) and features.values().device.type == "meta":
            values = torch.empty(features.stride(), sum(self._dims), device="meta")
            return KeyedTensor(keys=self._keys, length_per_key=self._dims, values=values)
        if self.engine == "sharded" and kind == "meta":
            raise ValueError(
                "the tables of engine 'sharded' are allocated by shard(), which was not called; "
                "call compactrec.embeddings.sharding.shard(model) and use the model that it "
                "returns, or build the collection with engine='fused' or 'eager'"
            )
        physical = self.rewrite(features)
        keys: Sequence[str] = ()
        dims: Sequence[int] = ()
        if not self._specs:  # nothing is kept of any feature
            rows = torch.zeros(features.stride(), 0, device=physical.values().device)
        elif self.engine == "fused":
            rows = self.tables(
                physical.values(), physical.lengths(), physical.weights_or_none(), features.stride()
            )
            keys, dims = self._fused().part_keys, self._fused().part_dims
        else:
            pooled = self.tables(physical)
            if isinstance(pooled, LazyAwaitable):
                later = LazyVectors(pooled, lambda of: self._combined(features, of), kind)
                return cast(KeyedTensor, later)
            return self._combined(features, pooled)
        return self._made(features, self.combine(rows, keys, dims))

    def _combined(self, features: KeyedJaggedTensor, pooled: KeyedTensor) -> KeyedTensor:
        values = self.combine(pooled.values(), pooled.keys(), pooled.length_per_key())
        return self._made(features, values)

    def _made(self, features: KeyedJaggedTensor, values: Tensor) -> KeyedTensor:
        if self._mean:
            values = values * self._mean_scale(features, values)
        return KeyedTensor(keys=self._keys, length_per_key=self._dims, values=values)

    @property
    def physical_tables(self) -> tuple[Table, ...]:
        """The physical tables, in the order in which their initial weights are drawn."""
        return tuple(self._specs)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """One config per logical vector, as a model sees it: name, width, feature."""
        by_name = {feature.name: feature for feature in self.plan.features}
        return [
            EmbeddingBagConfig(
                name=key,
                embedding_dim=dim,
                num_embeddings=by_name[feature].num_ids or 2**63 - 1,
                feature_names=[key],
            )
            for key, dim, feature in zip(self._keys, self._dims, self._output_features, strict=True)
        ]

    def is_weighted(self) -> bool:
        """True where batches carry one weight per id."""
        return self._is_weighted

    @property
    def device(self) -> torch.device:
        """Where the tables are; the CPU where there are none."""
        return next((p.device for p in self.tables.parameters()), torch.device("cpu"))

    def reset_parameters(self) -> None:
        """Draw all initial weights again, e.g. after ``meta`` construction and ``to_empty``."""
        self._draw_tables(None)
        self.combine.reset_parameters()

    def constant_parameters(self) -> list[nn.Parameter]:
        """Weights of one-hot tables. Their gradient is 0, but a weight decay would move them, so no
        optimizer may hold them; the ``fused`` engine leaves them out by itself."""
        names = self.constant_tables
        if not names:
            return []
        holders = cast(nn.ModuleDict, self.tables.embedding_bags)
        return [cast(nn.Parameter, holders[name].weight) for name in names]

    @property
    def constant_tables(self) -> tuple[str, ...]:
        """Names of one-hot tables."""
        return tuple(table.name for table in self._specs if table.is_constant)

    def optimizer_state_dict(self) -> dict[str, Tensor]:
        """State of the optimizer inside backward; empty for ``eager``."""
        return self._fused().optimizer_state_dict() if self.engine == "fused" else {}

    def load_optimizer_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`optimizer_state_dict` gave."""
        if self.engine == "fused":
            self._fused().load_optimizer_state_dict(state)
        elif state:
            raise ValueError("an eager collection has no optimizer state of its own to load")

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the optimizer inside backward."""
        if self.engine == "fused":
            self._fused().set_learning_rate(learning_rate)
        elif self.engine == "sharded":
            optimizer = cast(Any, self.tables).fused_optimizer
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()  # tells FBGEMM the rate; its updates are inside backward
        else:
            raise ValueError("set_learning_rate is for engine='fused'; use your optimizer's groups")

    def catch_up(self) -> None:
        """Let rows make up for the weight decay they missed; for who reads weights in training.

        Not needed for ``state_dict()``, ``eval()`` or ``optimizer_state_dict()``, which call it.
        """
        if self.engine == "fused":
            self._fused().catch_up()

    def decay_state_dict(self) -> dict[str, Tensor]:
        """What rows have missed, so that a run can go on bit by bit; empty without lazy decay.

        Goes with weights and optimizer state that were read under :meth:`behind`.
        """
        lazy = self._fused().lazy_decay if self.engine == "fused" else None
        return {} if lazy is None else lazy.state()

    def load_decay_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`decay_state_dict` gave, after the weights were loaded."""
        lazy = self._fused().lazy_decay if self.engine == "fused" else None
        if lazy is not None:
            lazy.load(state)
        elif state:
            raise ValueError(
                "decay state is for engine='fused' with a dense weight decay, which this "
                "collection has not; build it with the optimizer that was saved"
            )

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Within it weights are read as they are, behind by what :meth:`decay_state_dict` says."""
        lazy = self._fused().lazy_decay if self.engine == "fused" else None
        if lazy is None or lazy.paused:
            yield
            return
        lazy.paused = True
        try:
            yield
        finally:
            lazy.paused = False

    def _fused(self) -> FusedTables:
        return cast(FusedTables, self.tables)

    def _draw_tables(self, generator: torch.Generator | None) -> None:
        """The same numbers from the same seed under every engine."""
        self.catch_up()  # so that nothing is left to be made up for
        for table in self._specs:
            holder = cast(nn.ModuleDict, self.tables.embedding_bags)[table.name]
            table.init_fn(cast(Tensor, holder.weight), generator)

    def _build_tables(
        self,
        tables: list[Table],
        optimizer: FusedOptimizer | None,
        device: torch.device,
        kernel: Kernel,
    ) -> nn.Module:
        ids = self.rewrite.ids
        if self.engine == "fused":
            if not tables:
                raise ValueError(
                    "the plan keeps nothing of any feature, and there is nothing to train; use "
                    "engine='eager' to get its zeros"
                )

            return FusedTables(
                tables,
                ids.part_keys,
                ids.part_tables,
                optimizer or FusedOptimizer(),
                device,
                kernel,
            )
        return EmbeddingBagCollection(
            tables=[_torchrec_config(table, ids) for table in tables],
            is_weighted=self._is_weighted,
            device=torch.device("meta") if self.engine == "sharded" else device,
        )

    def _mean_scale(self, features: KeyedJaggedTensor, values: Tensor) -> Tensor:
        """``1 / number of ids`` in the columns of mean-pooled features, 1 elsewhere."""
        scales = {}
        for name in self._mean:
            count = features[name].lengths().clamp(min=1).to(values.dtype)
            scales[name] = (1.0 / count)[:, None]
        ones = values.new_ones(values.shape[0], 1)
        columns = [
            scales.get(feature, ones).expand(-1, dim)
            for feature, dim in zip(self._output_features, self._dims, strict=True)
        ]
        return torch.cat(columns, dim=1)


def _table_order(tables: list[Table], ids: Rewrite) -> list[Table]:
    """Tables in the order in which the parts read them, so that columns come out in part order."""
    rank = {name: i for i, name in enumerate(dict.fromkeys(ids.part_tables))}
    return sorted(tables, key=lambda table: rank[table.name])


def _torchrec_config(table: Table, ids: Rewrite) -> EmbeddingBagConfig:
    parts = [
        k for k, name in zip(ids.part_keys, ids.part_tables, strict=True) if name == table.name
    ]
    return EmbeddingBagConfig(
        name=table.name,
        embedding_dim=table.dim,
        num_embeddings=table.num_rows,
        feature_names=parts,
        init_fn=table.init_fn,
    )
