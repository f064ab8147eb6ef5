"""What each process of the sharding tests runs: train sharded, compare with one process.

A file of its own, so that spawned processes can import it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.pipeline import InputPipeline, LossModel
from compactrec.data.batch import KjtBatch
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    FusedOptimizer,
    Plan,
    dense_parameters,
)
from compactrec.embeddings.sharding import gather_state, shard
from compactrec.embeddings.sharding_config import Sharding, TableSharding
from tests.contract.support import make_batch, scramble

__all__ = ["KINDS", "Setup", "check_apart", "join", "run_worker", "setups_of"]

LEARNING_RATE, EPS = 0.1, 1e-4
STEPS = 20
KINDS = ("table_wise", "row_wise", "column_wise", "table_row_wise", "data_parallel")
TOLERANCE = {"sgd": 1e-6, "adagrad": 1e-5, "rowwise_adagrad": 1e-5}


@dataclass(frozen=True)
class Setup:
    """One way to train one plan; table ``i`` is sharded as ``kinds[i % len(kinds)]``."""

    name: str
    plan: Plan
    kinds: tuple[str, ...]
    optimizer: str
    weighted: bool
    pipelined: bool
    kernel: str = "fused"

    def __str__(self) -> str:
        words = [self.name, "+".join(self.kinds), self.optimizer]
        words += [w for w in ("weighted", "pipelined") if getattr(self, w)]
        return " ".join(words)


def setups_of(name: str, plan: Plan, *, every: bool, turn: int) -> list[Setup]:
    """Ways to train a plan: all of them, or one that goes by turns through all there is."""
    rowwise = tuple(kind for kind in KINDS if kind != "column_wise")
    if every:
        found = [
            Setup(name, plan, (kind,), optimizer, weighted, pipelined)
            for optimizer in TOLERANCE
            for kind in (*(rowwise if optimizer == "rowwise_adagrad" else KINDS), "planner")
            for weighted in (False, True)
            for pipelined in (False, True)
        ]
        return found
    flip, by = bool(turn % 2), turn % len(KINDS)
    turned = KINDS[by:] + KINDS[:by]
    by %= len(rowwise)
    weighted = bool(turn // 2 % 2)
    if flip:
        return [Setup(name, plan, turned, "sgd", weighted, pipelined=bool(turn // 4 % 2))]
    kinds = rowwise[by:] + rowwise[:by]
    return [Setup(name, plan, kinds, "rowwise_adagrad", weighted, pipelined=bool(turn // 4 % 2))]


class Model(nn.Module):
    """A collection and a linear layer on top of it."""

    def __init__(self, plan: Plan, engine: str, weighted: bool, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = CompressedEmbeddingBagCollection(
            plan,
            engine=engine,  # type: ignore[arg-type]  # one of the three
            is_weighted=weighted,
            device=device,
        )
        width = sum(c.embedding_dim for c in self.embeddings.embedding_bag_configs())
        self.over = nn.Linear(width, 1, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        out: Tensor = self.over(self.embeddings(features).values()).squeeze(1)
        return out


def join(rank: int, world_size: int, port: int, backend: str = "gloo") -> str:
    """Become a process of the group; the device to use."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
    }  # fmt: skip
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, rank=rank, world_size=world_size)
    return f"cuda:{rank}" if backend == "nccl" else "cpu"


def run_worker(
    rank: int, world_size: int, port: int, setups: Sequence[Setup], backend: str = "gloo"
) -> None:
    """Train every setup on ``world_size`` processes; raise where it differs from one."""
    device = join(rank, world_size, port, backend)
    try:
        for setup in setups:
            difference = largest_difference(setup, rank, world_size, device)
            limit = TOLERANCE[setup.optimizer] * (10 if backend == "nccl" else 1)
            if not difference < limit:
                raise AssertionError(f"{setup}: sharded differs by {difference}")
    finally:
        dist.destroy_process_group()


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the examples of a rank: the same number on each."""
    return binary_cross_entropy_with_logits(logits, labels)


def largest_difference(setup: Setup, rank: int, world_size: int, device: str) -> float:
    """The largest difference of weights and predictions from one process, after ``STEPS``."""
    alone = Model(setup.plan, "eager", setup.weighted, device)
    model = Model(setup.plan, "sharded", setup.weighted, device)
    options = {"name": setup.optimizer, "learning_rate": LEARNING_RATE, "eps": EPS}
    sharded = shard(
        LossModel(model, lambda logits, batch: (loss_of(logits, batch.labels), logits.detach())),
        _sharding(setup, model),
        optimizer=FusedOptimizer.model_validate(options),
        device=device,
    )
    _check_start(model, alone)
    torch.manual_seed(1)
    scramble(alone.embeddings, setup.plan)
    model.load_state_dict(alone.state_dict())
    check_apart(sharded, alone)
    ours, theirs = _Optimizers(sharded, model, setup), _Optimizers(alone, alone, setup)
    batches = [
        [_batch(setup, STEPS * r + step, device) for r in range(world_size)]
        for step in range(STEPS)
    ]
    mine = [of_step[rank] for of_step in batches]
    if setup.pipelined:
        _train_pipelined(sharded, ours, mine, device)
    else:
        for batch in mine:
            ours.zero_grad()
            sharded(batch)[0].backward()
            ours.step()
    for of_step in batches:
        theirs.zero_grad()
        for batch in of_step:  # equal sizes: the mean over ranks is the mean over all examples
            (loss_of(alone(batch.dense, batch.features), batch.labels) / world_size).backward()
        theirs.step()
    return _difference(model, alone, mine[0])


def _train_pipelined(
    sharded: Any, optimizers: "_Optimizers", batches: list[KjtBatch], device: str
) -> None:
    pipeline, source, count = InputPipeline(sharded, optimizers, device), iter(batches), 0
    while pipeline.step(source) is not None:
        count += 1
        if pipeline.num_pipelined != 2:
            raise AssertionError(f"{pipeline.num_pipelined} of rewrite and tables are pipelined")
        if count == STEPS // 2:  # as validation and checkpoints do
            pipeline.detach()
    pipeline.detach()
    if count != len(batches):
        raise AssertionError(f"{count} steps of {len(batches)}")


class _Optimizers:
    """SGD for what is dense, the setup's optimizer for the tables that have gradients."""

    def __init__(self, trained: nn.Module, model: Model, setup: Setup) -> None:
        constant = {id(p) for p in model.embeddings.constant_parameters()}
        holders: Any = model.embeddings.tables.embedding_bags
        in_tables = {id(holders[t.name].weight) for t in model.embeddings.physical_tables}
        left = [p for p in dense_parameters(trained) if id(p) not in constant]
        tables = [p for p in left if id(p) in in_tables]
        dense = [p for p in left if id(p) not in in_tables]
        if trained is not model:
            _check_fused(model, {id(p) for p in left})
        kinds: dict[str, Any] = {
            "sgd": lambda of: torch.optim.SGD(of, lr=LEARNING_RATE),
            "adagrad": lambda of: torch.optim.Adagrad(of, lr=LEARNING_RATE, eps=EPS),
            "rowwise_adagrad": lambda of: RowWiseAdagrad(of, lr=LEARNING_RATE, eps=EPS),
        }
        self._all = [torch.optim.SGD(dense, lr=LEARNING_RATE)]
        self._all += [kinds[setup.optimizer](tables)] if tables else []

    def zero_grad(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self._all:
            optimizer.step()


def _check_fused(model: Model, left: set[int]) -> None:
    """What backward updates by itself is all tables but the replicated ones."""
    tables: Any = model.embeddings.tables
    constant = {id(p) for p in model.embeddings.constant_parameters()}
    for name, chosen in tables.module_sharding_plan.items():
        weight = tables.embedding_bags[name].weight
        replicated = chosen.sharding_type == "data_parallel"
        if (id(weight) in left) != (replicated and id(weight) not in constant):
            raise AssertionError(
                f"{name} ({chosen.sharding_type}) is not trained, or trained twice"
            )


def _batch(setup: Setup, seed: int, device: str) -> KjtBatch:
    made = make_batch(setup.plan, "multi", weighted=setup.weighted, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(made.size, generator=generator) < 0.5).float()
    return KjtBatch(torch.zeros(made.size, 1), made.kjt(), labels, made.size).to(device)


def _sharding(setup: Setup, model: Model) -> Sharding:
    if setup.kinds == ("planner",):
        return Sharding()
    tables = {}
    for i, table in enumerate(model.embeddings.physical_tables):
        kind = setup.kinds[i % len(setup.kinds)]
        kernel = "fused" if kind == "data_parallel" else setup.kernel
        tables[table.name] = TableSharding.model_validate({"kind": kind, "kernel": kernel})
    return Sharding(tables=tables)


def _check_start(model: Model, alone: Model) -> None:
    """Keys are those of one process, and so are the initial weights."""
    expected = alone.state_dict()
    if list(model.state_dict()) != list(expected):
        raise AssertionError("the state dict of the sharded model has other keys")
    for name, weight in gather_state(model).items():
        if not torch.equal(weight, expected[name].cpu() if weight.is_cpu else expected[name]):
            raise AssertionError(f"{name} starts differently when it is sharded")


def check_apart(sharded: nn.Module, alone: nn.Module) -> None:
    """The two models must not share memory, or the comparison would compare nothing."""
    ours = {p.data_ptr() for p in alone.parameters() if p.numel()}
    theirs = {p.data_ptr() for p in sharded.parameters() if p.numel()}
    if ours & theirs:
        raise AssertionError("the sharded model shares memory with the unsharded one")


@torch.no_grad()
def _difference(model: Model, alone: Model, batch: KjtBatch) -> float:
    found = [model(batch.dense, batch.features) - alone(batch.dense, batch.features)]
    expected = alone.state_dict()
    for name, weight in gather_state(model).items():
        if weight.is_floating_point():
            found.append(weight.cpu() - expected[name].cpu())
    return max(float(part.abs().max()) for part in found if part.numel())
