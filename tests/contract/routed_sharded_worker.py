"""What each process of the routed sharding test runs. A file of its own, for spawned processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.model import build_model
from compactrec.embeddings import FusedOptimizer, RoutedPlan, dense_parameters
from compactrec.embeddings.sharding import gather_state, shard
from compactrec.embeddings.sharding_config import Sharding, TableSharding
from compactrec.models.routed import RoutedModel
from tests.contract.findings import Findings
from tests.contract.sharded_setups import kinds_of
from tests.contract.sharded_worker import check_apart, join
from tests.models.test_routed import NUM_DENSE, config_of

LEARNING_RATE, EPS = 0.1, 1e-4
STEPS = 20
TOLERANCE = {"sgd": 1e-6, "rowwise_adagrad": 1e-5}
TABLE = ".embedding_bags."

__all__ = ["STEPS", "TOLERANCE", "RoutedSetup", "Rows", "routed", "run_worker"]

Rows = tuple[Tensor, KeyedJaggedTensor]


@dataclass(frozen=True)
class RoutedSetup:
    """One way to train one plan."""

    name: str
    plan: RoutedPlan
    optimizer: str

    def __str__(self) -> str:
        return f"{self.name} {self.optimizer}"


def run_worker(
    rank: int,
    world_size: int,
    port: int,
    setups: Sequence[RoutedSetup],
    batches: Sequence[list[list[Rows]]],
) -> None:
    """Train every setup on ``world_size`` gloo processes; raise where it differs from one."""
    join(rank, world_size, port)
    try:
        findings = Findings("routed setups", f"routed-{world_size}.json")
        for setup, given in zip(setups, batches, strict=True):
            with findings.trying(str(setup)) as wrong:
                for when, found in _differences(setup, given, rank, world_size).items():
                    limit = TOLERANCE[setup.optimizer]
                    kind = f"{setup.optimizer}, {when}"
                    wrong += findings.difference(str(setup), kind, found, limit)
        findings.finish()
    finally:
        dist.destroy_process_group()


def routed(plan: RoutedPlan) -> RoutedModel:
    """Every weight away from its start."""
    model, _ = build_model(config_of(), plan, NUM_DENSE)
    assert isinstance(model, RoutedModel)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.uniform_(-0.4, 0.4)
    model.calibration.copy_(torch.arange(len(model.experts)))
    return model


def _differences(
    setup: RoutedSetup, batches: list[list[Rows]], rank: int, world_size: int
) -> dict[str, float]:
    """The largest difference from one process: of logits and weights, before and after training."""
    plan, asked = setup.plan, batches[-1][rank]
    alone = routed(plan)
    for step in batches:  # an expert that one process skips would leave the others waiting for it
        for _, bags in step:
            assert alone.clusters(bags).unique().numel() == plan.num_clusters
    sharded = _sharded(routed(plan), setup)
    _check_sharded(sharded.module, plan)
    check_apart(sharded, alone)
    found = {"before": _apart(sharded, alone, asked)}
    before = alone(*asked).detach()
    ours = _optimizers(sharded, dense_parameters(sharded), setup.optimizer)
    theirs = _optimizers(alone, [p for p in alone.parameters() if p.requires_grad], setup.optimizer)
    for step in batches[:STEPS]:
        for optimizer in ours + theirs:
            optimizer.zero_grad()
        (sharded(*step[rank]) - 1.0).square().mean().backward()
        # The global loss is the mean over ranks, as DistributedDataParallel averages it.
        for part in step:
            ((alone(*part) - 1.0).square().mean() / world_size).backward()
        for optimizer in ours + theirs:
            optimizer.step()
    found["trained"] = _apart(sharded, alone, asked)
    if torch.allclose(alone(*asked), before, atol=1e-3):
        raise AssertionError("training moved nothing")
    expected = alone.state_dict()
    weights = {k: w for k, w in gather_state(sharded.module).items() if w.is_floating_point()}
    found["weights"] = max(float((w - expected[name]).abs().max()) for name, w in weights.items())
    alone.eval()
    sharded.eval()
    return found | {"in evaluation": _apart(sharded, alone, asked)}


@torch.no_grad()
def _apart(sharded: nn.Module, alone: nn.Module, rows: Rows) -> float:
    return float((sharded(*rows) - alone(*rows)).abs().max())


def _optimizers(model: nn.Module, trained: Sequence[nn.Parameter], name: str) -> list[Any]:
    """SGD for what is dense; for tables that have gradients what the others have in backward."""
    ids = {id(p) for p in trained}
    split: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for key, parameter in model.named_parameters():
        if id(parameter) in ids:
            split[TABLE in key].append(parameter)
    found: list[Any] = [torch.optim.SGD(split[False], lr=LEARNING_RATE)]
    if split[True] and name == "rowwise_adagrad":
        found.append(RowWiseAdagrad(split[True], lr=LEARNING_RATE, eps=EPS))
    elif split[True]:
        found.append(torch.optim.SGD(split[True], lr=LEARNING_RATE))
    return found


def _check_sharded(model: nn.Module, plan: RoutedPlan) -> None:
    """The tables of every expert, or the shared ones, are sharded."""
    places = (
        ["shared"] if plan.shared else [f"experts.{k}.embeddings" for k in range(len(plan.plans))]
    )
    for place in places:
        kind = type(model.get_submodule(f"{place}.tables")).__name__
        if kind != "ShardedEmbeddingBagCollection":
            raise AssertionError(f"the tables of {place} are a {kind}")


def _sharded(model: RoutedModel, setup: RoutedSetup) -> DistributedModelParallel:
    """The tables take turns over the kinds.

    Tables of one expert are not cut by rows: it has more examples on one process than on another,
    and torchrec sums the vectors of such tables over processes in parts of equal size.
    """
    names = sorted({n.split(".")[-2] for n, _ in model.named_parameters() if TABLE in n})
    kinds = kinds_of(setup.optimizer)
    if not setup.plan.shared:
        kinds = tuple(kind for kind in kinds if "row_wise" not in kind)
    tables = {
        name: TableSharding.model_validate({"kind": kinds[i % len(kinds)]})
        for i, name in enumerate(names)
    }
    options = {"name": setup.optimizer, "learning_rate": LEARNING_RATE, "eps": EPS}
    return shard(model, Sharding(tables=tables), optimizer=FusedOptimizer.model_validate(options))
