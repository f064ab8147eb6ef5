"""What each process of the routed sharding test runs. A file of its own, for spawned processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.model import build_model
from compactrec.embeddings import FusedOptimizer, RoutedPlan, dense_parameters
from compactrec.embeddings.sharding import shard
from compactrec.embeddings.sharding_config import Sharding, TableSharding
from compactrec.models.routed import RoutedModel
from tests.contract.sharded_worker import check_apart, join
from tests.models.test_routed import NUM_DENSE, config_of

LEARNING_RATE = 0.1
STEPS = 4

__all__ = ["STEPS", "run_worker"]

Rows = tuple[Tensor, KeyedJaggedTensor]


def run_worker(
    rank: int, world_size: int, port: int, plans: dict[str, RoutedPlan], batches: list[list[Rows]]
) -> None:
    """Train every plan on ``world_size`` gloo processes; raise where it differs from one."""
    join(rank, world_size, port)
    try:
        for name, plan in plans.items():
            for step, difference in enumerate(differences(plan, batches, rank, world_size)):
                if not difference < 1e-6:
                    raise AssertionError(f"{name}: sharded differs by {difference}, step {step}")
    finally:
        dist.destroy_process_group()


def routed(plan: RoutedPlan) -> RoutedModel:
    model, _ = build_model(config_of(), plan, NUM_DENSE)
    assert isinstance(model, RoutedModel)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.uniform_(-0.4, 0.4)
    model.calibration.copy_(torch.arange(len(model.experts)))
    return model


def differences(
    plan: RoutedPlan, batches: list[list[Rows]], rank: int, world_size: int
) -> list[float]:
    """The largest difference of logits from one process: before training, after, in evaluation."""
    alone = routed(plan)
    for step in batches:  # an expert that one process skips would leave the others waiting for it
        for _, bags in step:
            assert alone.clusters(bags).unique().numel() == plan.num_clusters
    sharded = _sharded(routed(plan))
    _check_sharded(sharded.module, plan)
    check_apart(sharded, alone)
    optimizer = torch.optim.SGD(dense_parameters(sharded), lr=LEARNING_RATE)
    theirs = [p for p in alone.parameters() if p.requires_grad]
    alone_optimizer = torch.optim.SGD(theirs, lr=LEARNING_RATE)

    def difference() -> float:
        with torch.no_grad():
            return float((sharded(*batches[-1][rank]) - alone(*batches[-1][rank])).abs().max())

    found = [difference()]
    before = alone(*batches[-1][rank]).detach()
    for step in batches[:STEPS]:
        optimizer.zero_grad()
        alone_optimizer.zero_grad()
        (sharded(*step[rank]) - 1.0).square().mean().backward()
        # The global loss is the mean over ranks, as DistributedDataParallel averages it.
        for part in step:
            ((alone(*part) - 1.0).square().mean() / world_size).backward()
        optimizer.step()
        alone_optimizer.step()
    found.append(difference())
    if torch.allclose(alone(*batches[-1][rank]), before, atol=1e-3):
        raise AssertionError("training moved nothing")
    alone.eval()
    sharded.eval()
    return [*found, difference()]


def _check_sharded(model: nn.Module, plan: RoutedPlan) -> None:
    """The tables of every expert, or the shared ones, are sharded."""
    places = (
        ["shared"] if plan.shared else [f"experts.{k}.embeddings" for k in range(len(plan.plans))]
    )
    for place in places:
        kind = type(model.get_submodule(f"{place}.tables")).__name__
        if kind != "ShardedEmbeddingBagCollection":
            raise AssertionError(f"the tables of {place} are a {kind}")


def _sharded(model: RoutedModel) -> DistributedModelParallel:
    """Every other table on one rank, the others replicated."""
    names = sorted({n.split(".")[-2] for n, _ in model.named_parameters() if "embedding_bags" in n})
    kinds = ("table_wise", "data_parallel")
    tables = {
        name: TableSharding.model_validate({"kind": kinds[i % 2]}) for i, name in enumerate(names)
    }
    return shard(
        model,
        Sharding(tables=tables),
        optimizer=FusedOptimizer(name="sgd", learning_rate=LEARNING_RATE),
    )
