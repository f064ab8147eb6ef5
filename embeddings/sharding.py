"""Shard a model's tables over processes; what is left of it is replicated.

torchrec's DistributedModelParallel takes the ``tables`` of every CompressedEmbeddingBagCollection
inside a model: plain EmbeddingBagCollections, so nothing of it is subclassed or patched. Rewrite
and combine are as they were. Sharded tables are updated inside the backward pass; what torchrec
replicates and all dense weights get the mean gradient over ranks and are for an optimizer over
:func:`compactrec.embeddings.dense_parameters`. So the loss of a rank is the mean over its own
examples, and equal batches on n ranks are one batch n times as large on one.

Initial weights are those of the other engines: every rank draws table after table and keeps its
shards. Memory while that is done: its shards and the largest table.
"""

from __future__ import annotations

import hashlib
import mmap
import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.comm import get_local_size
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ShardingEnv,
    ShardingPlan,
    ShardingType,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from compactrec.embeddings.arguments import check_model, checked_device
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.equal_batches import keep_equal, needs_equal_batches
from compactrec.embeddings.fused_optimizer import FusedOptimizer
from compactrec.embeddings.shard_warnings import quiet_torch, sharded_tensors_touched
from compactrec.embeddings.sharding_bytes import Ranks
from compactrec.embeddings.sharding_config import Sharding
from compactrec.embeddings.sharding_estimate import RankCost, add_bytes, check_fits
from compactrec.embeddings.sharding_plan import check_patterns, plan_tables, quiet_torchrec
from compactrec.embeddings.single import SingleFeature

__all__ = ["check_optimizer", "gather_state", "shard"]


def check_optimizer(optimizer: FusedOptimizer) -> None:
    """Raise ``ValueError`` on what a sharded table cannot do."""
    if optimizer.name == "adam":
        raise ValueError(
            "a sharded table has no optimizer 'adam': FBGEMM has no CPU operator for it; take "
            "'rowwise_adagrad', 'adagrad' or 'sgd', or train with engine 'fused' on one process"
        )
    if optimizer.weight_decay:
        raise ValueError(
            f"a sharded table has no weight decay, got {optimizer.weight_decay:g}: FBGEMM's CPU "
            f"operators ignore it; set it to 0, or train with engine 'fused' on one process"
        )


def shard(
    model: nn.Module,
    sharding: Sharding | None = None,
    *,
    optimizer: FusedOptimizer | None = None,
    device: torch.device | str = "cpu",
) -> DistributedModelParallel:
    """Shard ``model`` in place over the processes of the default group; call what is returned.

    Args:
        model: holds CompressedEmbeddingBagCollections of engine ``sharded``, whose tables are not
            allocated yet, or ``eager``, whose weights are kept. All weights, drawn or kept, are
            those of rank 0, whatever the other ranks have.
        sharding: which table goes where; None leaves it to torchrec's planner.
        optimizer: of the tables, inside backward; row-wise Adagrad by default.
        device: of this process, cpu or cuda.

    Raises:
        ValueError: there is no process group, no table, a table of engine ``fused``, or a sharding
            that the backend, the optimizer or ``rank_memory_bytes`` does not allow; and where
            ranks made unlike plans.

    Example::

        dist.init_process_group("gloo")  # torchrun sets the environment
        collection = CompressedEmbeddingBagCollection(plan, engine="sharded")
        model = shard(DLRM(collection, num_dense=13), optimizer=FusedOptimizer(name="sgd"))
        dense = torch.optim.Adam(dense_parameters(model))
    """
    check_model(model, "shard")
    sharding, optimizer = _sharding(sharding), _optimizer(optimizer)
    check_optimizer(optimizer)
    quiet_torch()
    device = checked_device(device)
    if not dist.is_initialized():
        raise ValueError(
            "there is no process group to shard over; start with torchrun and call "
            "torch.distributed.init_process_group first"
        )
    world = dist.get_world_size()
    with quiet_torchrec():
        ranks = Ranks(world, get_local_size(world) if world > 1 else 1, device.type)
    collections = _shardable(model)
    check_patterns(sharding, [t.name for c in collections.values() for t in c.physical_tables])
    plans: dict[str, EmbeddingModuleShardingPlan] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    costs = [RankCost(rank) for rank in range(world)]
    for path, collection in collections.items():
        tables = cast(EmbeddingBagCollection, collection.tables)
        plans[path] = plan_tables(tables, sharding, ranks, optimizer.name)
        add_bytes(
            costs, tables.embedding_bag_configs(), plans[path], ranks, optimizer.name,
            collection.constant_tables,
        )  # fmt: skip
    check_fits(costs, sharding.rank_memory_bytes)
    for path, collection in collections.items():
        tables = cast(EmbeddingBagCollection, collection.tables)
        _fuse(tables, plans[path], optimizer)
        if collection.engine == "eager":
            weights[path] = {k: v.detach().clone() for k, v in tables.state_dict().items()}
    _check_equal("plan", [c.plan.digest for c in collections.values()])
    _check_equal("sharding plan", [(path, sorted(plan.items())) for path, plan in plans.items()])
    sharders: list[ModuleSharder[Any]] = [EmbeddingBagCollectionSharder()]
    with quiet_torchrec(), warnings.catch_warnings():
        # torchrec 1.8 calls DistributedDataParallel by an argument that torch 2.13 renamed.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        sharded = DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(cast(dist.ProcessGroup, dist.group.WORLD)),
            device=device,
            plan=ShardingPlan({f"{path}.tables": plan for path, plan in plans.items()}),
            sharders=sharders,
        )
    for path, collection in collections.items():
        if path in weights:
            collection.tables.load_state_dict(
                {name: _of_first(weight) for name, weight in weights[path].items()}
            )
        else:
            collection.seed = int(_of_first(torch.tensor(collection.seed)))
            _draw(collection)
        if needs_equal_batches(collection):
            keep_equal(model, collection)
    return sharded


@sharded_tensors_touched()
def gather_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tables on rank 0; other ranks get it without the sharded ones.

    Every rank must call it. Keys and shapes are those of the other engines; so what rank 0 gets
    loads into a model that is not sharded.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            whole = torch.empty(value.size()) if dist.get_rank() == 0 else None
            value.gather(0, whole)
            if whole is not None:
                state[name] = whole
        else:
            state[name] = value
    return state


def _sharding(given: Any) -> Sharding:
    if given is None or isinstance(given, Sharding):
        return given or Sharding()
    raise TypeError(
        f"sharding must be a Sharding, got {given!r}; write "
        f"Sharding.model_validate({{'default': 'row_wise'}}) for all "
        f"tables, or Sharding.model_validate({{'tables': {{'t_C1__.*': 'row_wise'}}}}) for some"
    )


def _optimizer(given: Any) -> FusedOptimizer:
    if given is None:
        return FusedOptimizer()
    if not isinstance(given, FusedOptimizer):
        shown = repr(given) if isinstance(given, str) else type(given).__name__
        raise TypeError(
            f"optimizer must be a FusedOptimizer, got {shown}; tables are updated inside the "
            f"backward pass: write FusedOptimizer(name='sgd', learning_rate=0.1), and give "
            f"dense_parameters(model) to an optimizer of torch"
        )
    return given


def _shardable(model: nn.Module) -> dict[str, CompressedEmbeddingBagCollection]:
    found: dict[str, CompressedEmbeddingBagCollection] = {}
    for path, module in model.named_modules():
        if not isinstance(module, CompressedEmbeddingBagCollection):
            continue
        if isinstance(module.tables, ShardedEmbeddingBagCollection):
            raise ValueError(f"the tables of {path or 'the model'!r} are sharded already")
        if module.engine not in ("sharded", "eager"):
            raise ValueError(
                f"the tables of {path!r} are of engine {module.engine!r}, which lives in one "
                f"process; build the collection with engine='sharded'"
            )
        if not path:
            raise ValueError(
                "a collection alone cannot be sharded; put it into a module and shard that one"
            )
        if module.physical_tables:
            found[path] = module
    if not found:
        layers = [m.feature.name for m in model.modules() if isinstance(m, SingleFeature)]
        if layers:
            raise ValueError(
                f"the model has compressed layers alone ({', '.join(dict.fromkeys(layers))}), and "
                f"layers are not sharded, only collections are: wrap it in "
                f"DistributedDataParallel, which copies them to every process, or let the model "
                f"read an EmbeddingBagCollection and compress that"
            )
        raise ValueError(
            "the model has no CompressedEmbeddingBagCollection with tables, so there is nothing "
            "to shard; see compactrec.embeddings.CompressedEmbeddingBagCollection"
        )
    return found


def _fuse(
    tables: EmbeddingBagCollection, plan: EmbeddingModuleShardingPlan, optimizer: FusedOptimizer
) -> None:
    """Attach the optimizer to every table that is not replicated, and no initialiser to any."""
    kinds: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
        "sgd": (torch.optim.SGD, {}),
        "adagrad": (torch.optim.Adagrad, {"eps": optimizer.eps}),
        "rowwise_adagrad": (RowWiseAdagrad, {"eps": optimizer.eps}),
    }
    kind, options = kinds[optimizer.name]
    for config in tables.embedding_bag_configs():
        config.init_fn = _leave  # the weights are written afterwards
    for name, chosen in plan.items():
        if chosen.sharding_type != ShardingType.DATA_PARALLEL.value:
            weight = cast(nn.Parameter, tables.embedding_bags[name].weight)
            # A dict of its own: torchrec writes into it.
            _apply_optimizer_in_backward(kind, [weight], {"lr": optimizer.learning_rate, **options})


def _leave(weight: Tensor) -> Tensor:
    return weight


def _check_equal(what: str, made: object) -> None:
    """Raise unless all ranks have made the same, by its ``repr``."""
    digest = hashlib.sha256(repr(made).encode()).digest()
    mine = torch.tensor(list(digest), dtype=torch.uint8)
    if dist.get_backend() == "nccl":
        mine = mine.cuda()
    of_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(of_ranks, mine)
    others = [rank for rank, of in enumerate(of_ranks) if not torch.equal(of, of_ranks[0])]
    if others:
        named = "ranks {} have" if len(others) > 1 else "rank {} has"
        raise ValueError(
            f"{named.format(', '.join(map(str, others)))} another {what} than rank 0; start every "
            f"process with the same model, plan file and settings"
        )


def _of_first(tensor: Tensor) -> Tensor:
    """That of rank 0."""
    sent = tensor.cuda() if dist.get_backend() == "nccl" else tensor
    dist.broadcast(sent, 0)
    return sent.to(tensor.device)


@torch.no_grad()
def _draw(collection: CompressedEmbeddingBagCollection) -> None:
    """The initial weights of the other engines, each rank its part of them."""
    tables = cast(ShardedEmbeddingBagCollection, collection.tables)
    local = tables.state_dict()
    generator = torch.Generator().manual_seed(collection.seed)
    for table in collection.physical_tables:
        whole = _scratch(table.num_rows, table.dim)
        table.init_fn(whole, generator)
        _keep_part(local[f"embedding_bags.{table.name}.weight"], whole)


def _keep_part(target: Tensor | ShardedTensor, whole: Tensor) -> None:
    """Copy what is this rank's of a whole tensor."""
    if not isinstance(target, ShardedTensor):
        target.copy_(whole)
        return
    for part in target.local_shards():
        row, column = part.metadata.shard_offsets
        rows, columns = part.metadata.shard_sizes
        part.tensor.copy_(whole[row : row + rows, column : column + columns])


def _scratch(num_rows: int, dim: int) -> Tensor:
    """Memory that goes back to the system with the tensor, whatever the C library does."""
    buffer = mmap.mmap(-1, 4 * num_rows * dim)
    return torch.frombuffer(buffer, dtype=torch.float32).view(num_rows, dim)
