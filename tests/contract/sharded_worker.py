"""What each process of the sharding tests runs: train sharded, compare with one process.

A file of its own, so that spawned processes can import it.
"""

import os
from collections.abc import Sequence
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
from tests.contract.findings import Findings
from tests.contract.sharded_bytes import wrong_bytes
from tests.contract.sharded_setups import PLANNER, Setup
from tests.contract.support import make_batch, scramble

__all__ = ["check_apart", "join", "run_worker"]

LEARNING_RATE, EPS = 0.1, 1e-4
STEPS = 20
TOLERANCE = {"sgd": 1e-6, "adagrad": 1e-5, "rowwise_adagrad": 1e-5}


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
    """Train every setup on ``world_size`` processes; raise where they differ from one."""
    device = join(rank, world_size, port, backend)
    try:
        findings, alone = Findings("setups", _file(setups, world_size, backend)), None
        for setup in setups:
            with findings.trying(str(setup)) as wrong:
                if alone is None or not alone.suits(setup):
                    alone = Alone(setup, world_size, device)
                limit = TOLERANCE[setup.optimizer] * (10 if backend == "nccl" else 1)
                difference = _compared(setup, alone, rank, wrong)
                wrong += findings.difference(str(setup), setup.optimizer, difference, limit)
        findings.finish()
    finally:
        dist.destroy_process_group()


def _file(setups: Sequence[Setup], world_size: int, backend: str) -> str:
    """Where results are written: by what all setups have in common."""
    optimizers, weighted = {s.optimizer for s in setups}, {s.weighted for s in setups}
    words = [backend, str(world_size), *({s.kernel for s in setups} - {"fused"})]
    words += optimizers if len(optimizers) == 1 else ()
    return "-".join([*words, *(["weighted"] if weighted == {True} else ())]) + ".json"


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the examples of a rank: the same number on each."""
    return binary_cross_entropy_with_logits(logits, labels)


class Alone:
    """What one process trains on the batches of all; it does not depend on the sharding."""

    def __init__(self, setup: Setup, world_size: int, device: str) -> None:
        self._setup, self.world_size, self.device = setup, world_size, device
        self.batches = [
            [_batch(setup, STEPS * r + step, device) for r in range(world_size)]
            for step in range(STEPS)
        ]
        self.model = Model(setup.plan, "eager", setup.weighted, device)
        self.initial = _copied(self.model)
        torch.manual_seed(1)
        scramble(self.model.embeddings, setup.plan)
        self.start = _copied(self.model)
        optimizers = _Optimizers(self.model, self.model, setup)
        for of_step in self.batches:
            optimizers.zero_grad()
            for batch in of_step:  # equal sizes: the mean over ranks is that over all examples
                logits = self.model(batch.dense, batch.features)
                (loss_of(logits, batch.labels) / world_size).backward()
            optimizers.step()

    def suits(self, setup: Setup) -> bool:
        """Whether it is what ``setup`` has to be compared with."""
        mine = self._setup
        return setup.plan is mine.plan and (setup.optimizer, setup.weighted) == (
            mine.optimizer, mine.weighted,
        )  # fmt: skip


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _compared(setup: Setup, alone: Alone, rank: int, wrong: list[str]) -> float:
    """The largest difference of weights and predictions from one process, after ``STEPS``.

    What else is wrong is put into ``wrong``.
    """
    device = alone.device
    model = Model(setup.plan, "sharded", setup.weighted, device)
    options = {"name": setup.optimizer, "learning_rate": LEARNING_RATE, "eps": EPS}
    sharding = _sharding(setup, model)
    sharded = shard(
        LossModel(model, lambda logits, batch: (loss_of(logits, batch.labels), logits.detach())),
        sharding,
        optimizer=FusedOptimizer.model_validate(options),
        device=device,
    )
    wrong += _wrong_start(model, alone)
    model.load_state_dict(alone.start)
    check_apart(sharded, alone.model)
    optimizers = _Optimizers(sharded, model, setup)
    wrong += optimizers.wrong
    mine = [of_step[rank] for of_step in alone.batches]
    if setup.pipelined:
        wrong += _train_pipelined(sharded, optimizers, mine, device)
    else:
        for batch in mine:
            optimizers.zero_grad()
            sharded(batch)[0].backward()
            optimizers.step()
    if device == "cpu":
        wrong += wrong_bytes(
            sharded, optimizers.all, setup.plan, sharding, setup.optimizer, rank, alone.world_size,
            is_weighted=setup.weighted,
        )  # fmt: skip
    return _difference(model, alone.model, mine[0])


def _train_pipelined(
    sharded: Any, optimizers: "_Optimizers", batches: list[KjtBatch], device: str
) -> list[str]:
    pipeline, source, count = InputPipeline(sharded, optimizers, device), iter(batches), 0
    pipelined = set()
    while pipeline.step(source) is not None:
        count += 1
        pipelined.add(pipeline.num_pipelined)
        if count == STEPS // 2:  # as validation and checkpoints do
            pipeline.detach()
    pipeline.detach()
    wrong = [] if pipelined == {2} else [f"{pipelined} of rewrite and tables are pipelined"]
    return wrong if count == len(batches) else [*wrong, f"{count} steps of {len(batches)}"]


class _Optimizers:
    """SGD for what is dense, the setup's optimizer for the tables that have gradients."""

    def __init__(self, trained: nn.Module, model: Model, setup: Setup) -> None:
        constant = {id(p) for p in model.embeddings.constant_parameters()}
        holders: Any = model.embeddings.tables.embedding_bags
        in_tables = {id(holders[t.name].weight) for t in model.embeddings.physical_tables}
        left = [p for p in dense_parameters(trained) if id(p) not in constant]
        tables = [p for p in left if id(p) in in_tables]
        dense = [p for p in left if id(p) not in in_tables]
        self.wrong = [] if trained is model else _wrong_fused(model, {id(p) for p in left})
        kinds: dict[str, Any] = {
            "sgd": lambda of: torch.optim.SGD(of, lr=LEARNING_RATE),
            "adagrad": lambda of: torch.optim.Adagrad(of, lr=LEARNING_RATE, eps=EPS),
            "rowwise_adagrad": lambda of: RowWiseAdagrad(of, lr=LEARNING_RATE, eps=EPS),
        }
        self.all = [torch.optim.SGD(dense, lr=LEARNING_RATE)]
        self.all += [kinds[setup.optimizer](tables)] if tables else []

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self.all:
            optimizer.step()


def _wrong_fused(model: Model, left: set[int]) -> list[str]:
    """What backward updates by itself is all tables but the replicated ones."""
    tables: Any = model.embeddings.tables
    constant = {id(p) for p in model.embeddings.constant_parameters()}
    wrong = []
    for name, chosen in tables.module_sharding_plan.items():
        weight = tables.embedding_bags[name].weight
        replicated = chosen.sharding_type == "data_parallel"
        if (id(weight) in left) != (replicated and id(weight) not in constant):
            wrong.append(f"{name} ({chosen.sharding_type}) is not trained, or trained twice")
    return wrong


def _batch(setup: Setup, seed: int, device: str) -> KjtBatch:
    made = make_batch(setup.plan, "multi", weighted=setup.weighted, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(made.size, generator=generator) < 0.5).float()
    return KjtBatch(torch.zeros(made.size, 1), made.kjt(), labels, made.size).to(device)


def _sharding(setup: Setup, model: Model) -> Sharding:
    if setup.kinds == PLANNER:
        return Sharding()
    tables = {}
    for i, table in enumerate(model.embeddings.physical_tables):
        kind = setup.kinds[i % len(setup.kinds)]
        kernel = "fused" if kind == "data_parallel" else setup.kernel
        given: dict[str, Any] = {"kind": kind, "kernel": kernel}
        if kernel == "fused_uvm_caching" and i % 2:  # the others have the default
            given["cache_load_factor"] = 0.3
        tables[table.name] = TableSharding.model_validate(given)
    return Sharding(tables=tables)


def _wrong_start(model: Model, alone: Alone) -> list[str]:
    """Keys are those of one process, and so are the initial weights."""
    expected = alone.initial
    if list(model.state_dict()) != list(expected):
        return ["the state dict of the sharded model has other keys"]
    return [
        f"{name} starts differently when it is sharded"
        for name, weight in gather_state(model).items()
        if not torch.equal(weight, expected[name].cpu() if weight.is_cpu else expected[name])
    ]


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
