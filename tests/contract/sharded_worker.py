"""What each process of the sharding test runs: train sharded, compare with one process.

A file of its own, so that spawned processes can import it.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingType
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Plan

__all__ = ["largest_difference", "run_worker"]

LEARNING_RATE = 0.1
STEPS = 4


class Model(nn.Module):
    """A collection and a linear layer on top of it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.embeddings = CompressedEmbeddingBagCollection(plan)
        width = sum(c.embedding_dim for c in self.embeddings.embedding_bag_configs())
        self.over = nn.Linear(width, 1)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        out: Tensor = self.over(self.embeddings(features).values()).squeeze(1)
        return out


def run_worker(rank: int, world_size: int, port: int, plans: list[Plan], batches: Any) -> None:
    """Train every plan on ``world_size`` gloo processes; raise where it differs from one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        for plan in plans:
            difference = largest_difference(plan, batches[plan.digest], rank, world_size)
            if not difference < 1e-6:
                method = plan.groups[0].config.method
                raise AssertionError(f"{method}: sharded differs by {difference}")
    finally:
        dist.destroy_process_group()


def largest_difference(
    plan: Plan, batches: list[list[KeyedJaggedTensor]], rank: int, world_size: int
) -> float:
    """The largest difference of predictions between sharded and one-process training."""
    torch.manual_seed(0)
    alone = Model(plan)
    torch.manual_seed(1)
    sharded = _sharded(plan, alone.state_dict(), world_size)
    kinds = {type(m).__name__ for m in sharded.modules()}
    if "ShardedEmbeddingBagCollection" not in kinds:
        raise AssertionError("the tables were not sharded at all")
    dense = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    optimizer = torch.optim.SGD(dense.values(), lr=LEARNING_RATE)
    alone_optimizer = torch.optim.SGD(alone.parameters(), lr=LEARNING_RATE)
    for step in batches[:STEPS]:
        optimizer.zero_grad()
        alone_optimizer.zero_grad()
        loss = (sharded(step[rank]) - 1.0).square().mean()
        loss.backward()
        # The global loss is the mean over ranks, as DistributedDataParallel averages it.
        for shard in step:
            ((alone(shard) - 1.0).square().mean() / world_size).backward()
        optimizer.step()
        alone_optimizer.step()
    _check_apart(sharded, alone)
    with torch.no_grad():
        return float((sharded(batches[-1][rank]) - alone(batches[-1][rank])).abs().max())


def _check_apart(sharded: nn.Module, alone: nn.Module) -> None:
    """The two models must not share memory, or the comparison would compare nothing."""
    ours = {p.data_ptr() for p in alone.parameters() if p.numel()}
    theirs = {p.data_ptr() for p in sharded.parameters() if p.numel()}
    if ours & theirs:
        raise AssertionError("the sharded model shares memory with the unsharded one")


def _sharded(plan: Plan, state: dict[str, Tensor], world_size: int) -> DistributedModelParallel:
    model = Model(plan)
    sharders: list[ModuleSharder[Any]] = [
        EmbeddingBagCollectionSharder(
            fused_params={"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": LEARNING_RATE}
        )
    ]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size, "cpu"), constraints=_constraints(model)
    )
    found = planner.collective_plan(model, sharders, dist.group.WORLD)
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=found,
        sharders=sharders,
    )
    sharded.load_state_dict(state)
    return sharded


def _constraints(model: Model) -> dict[str, ParameterConstraints]:
    """Every other table on one rank, the others replicated: both ways in every model."""
    kinds = (ShardingType.TABLE_WISE.value, ShardingType.DATA_PARALLEL.value)
    tables = model.embeddings.tables.embedding_bag_configs()
    return {
        table.name: ParameterConstraints(sharding_types=[kinds[i % 2]])
        for i, table in enumerate(tables)
    }
