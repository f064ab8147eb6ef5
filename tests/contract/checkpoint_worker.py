"""What each process of the checkpoint test runs: four save; four, two, one and one load.

A file of its own, so that spawned processes import no more than they need.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    FusedOptimizer,
    Plan,
    dense_parameters,
    materialize,
)
from compactrec.embeddings.checkpoint_optimizer import OptimizerNames
from compactrec.embeddings.checkpoint_state import load_checkpoint, model_tensors, save_checkpoint
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.sharding import shard
from compactrec.embeddings.sharding_config import Sharding, TableSharding

__all__ = ["KINDS", "MAX_IDS", "Bags", "Job", "Model", "Trained", "run_worker"]

Bags = tuple[list[str], list[int], list[int]]
"""Keys, ids and lengths of one batch: lists, which go to other processes as they are."""

RATE, EPS = 0.1, 1e-6
STEPS = 2
PREDICTED = -1
"""Place among the batches of the one that is not trained on."""
KINDS = ("table_wise", "row_wise", "column_wise", "data_parallel")
MAX_IDS = 10_000
"""Plain tables are made of collections whose vocabularies are no larger."""


@dataclass(frozen=True)
class Job:
    """One model, one optimizer, and the batches by plan."""

    optimizer: str
    plans: dict[str, Plan]
    batches: dict[str, list[Bags]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Row-wise Adagrad has no shards of columns."""
        rowwise = self.optimizer == "rowwise_adagrad"
        return tuple(kind for kind in KINDS if not (rowwise and kind == "column_wise"))

    def batch(self, index: int) -> dict[str, KeyedJaggedTensor]:
        """One batch of every plan."""
        return {name: _kjt(batches[index]) for name, batches in self.batches.items()}

    def folder(self, path: Path) -> CheckpointFolder:
        identity = {"plans": {name: plan.to_json() for name, plan in self.plans.items()}}
        return CheckpointFolder(path / self.optimizer, identity)


class Model(nn.Module):
    """A collection for every plan, and weights of order one."""

    def __init__(self, job: Job, engine: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        fused = _fused(job) if engine == "fused" else None
        self.parts = nn.ModuleDict(
            {
                name: CompressedEmbeddingBagCollection(plan, engine=engine, optimizer=fused)
                for name, plan in job.plans.items()
            }
        )

    def forward(self, batches: dict[str, KeyedJaggedTensor]) -> list[Tensor]:
        """The vectors of every plan."""
        return [part(batches[name]).values() for name, part in self.parts.items()]


class Trained:
    """A model with its optimizers: of one process, or over those of the group.

    Args:
        shift: which of the kinds of sharding the first table gets.
    """

    def __init__(self, job: Job, engine: str = "sharded", shift: int = 0) -> None:
        self.job = job
        self.model: nn.Module = Model(job, "eager" if engine == "sharded" else engine)
        parts: Any = self.model.get_submodule("parts")
        _scramble(parts, job)
        if engine == "sharded":
            self.model = shard(self.model, _sharding(job, parts, shift), optimizer=_fused(job))
        constant = {id(p) for part in parts.values() for p in part.constant_parameters()}
        left = [
            (name, p)
            for name, p in self.model.named_parameters()
            if any(p is other for other in dense_parameters(self.model)) and id(p) not in constant
        ]
        tables = [p for name, p in left if ".embedding_bags." in name]
        dense = [p for name, p in left if ".embedding_bags." not in name]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, lr=RATE)]
        if tables:
            self.optimizers.append(_of_tables(job, tables))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state, shards as they lie here."""
        state = OptimizerNames(self.model, self.optimizers).tensors()
        weights = {f"model.{k}": t for k, t in model_tensors(self.model).items()}
        return weights | {f"optimizer.{k}": t for k, t in state.items()}

    def train(self, step: int) -> None:
        """One step; every process has batches of its own."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        outputs = self.model(self.job.batch((step + rank) % (STEPS + 1)))
        sum((out - 1).square().mean() for out in outputs).backward()
        for optimizer in self.optimizers:
            optimizer.step()

    @torch.no_grad()
    def predict(self) -> list[Tensor]:
        """The vectors of the batch that is not trained on."""
        found: list[Tensor] = self.model(self.job.batch(PREDICTED))
        return [vectors.clone() for vectors in found]


@dataclass(frozen=True)
class Saved:
    """What four processes saved: every tensor whole, and what they predicted."""

    tensors: dict[str, Tensor]
    predictions: list[Tensor]


def run_worker(rank: int, ports: Sequence[int], jobs: Sequence[Job], path: str) -> None:
    """Four processes; then a group of two, and two alone."""
    torch.set_num_threads(1)
    root = Path(path)
    with _joined(rank, 4, ports[0]):
        saved = [_save(job, root / "four") for job in jobs]
    if rank < 2:
        with _joined(rank, 2, ports[1]):
            for job, what in zip(jobs, saved, strict=True):
                _load_into_two(job, what, root / "four")
    else:
        for job, what in zip(jobs, saved, strict=True):
            _load_into_one(job, what, root / "four", "eager" if rank == 2 else "fused")


def _save(job: Job, path: Path) -> Saved:
    """Save while training goes on; what is loaded goes on bit for bit."""
    four = Trained(job)
    torch.manual_seed(1 + dist.get_rank())
    for step in range(STEPS):
        four.train(step)
    for group in (group for optimizer in four.optimizers for group in optimizer.param_groups):
        group["lr"] = RATE / 4
    predictions = four.predict()
    with job.folder(path) as folder:
        save_checkpoint(
            folder, four.model, four.optimizers, step=STEPS, state={"seen": STEPS},
            asynchronous=True,
        )  # fmt: skip
        four.train(STEPS)  # while it is written
        draw = torch.rand(3)  # by every process another one
    again = Trained(job)
    # DDP groups gradients anew after its first steps, and sums of more than two processes depend on
    # how they are grouped; so this one has made steps too, which loading then takes back.
    again.train(0)
    again.train(1)
    with job.folder(path) as folder:
        found = load_checkpoint(folder, again.model, again.optimizers)
        assert found is not None
        assert (found.step, found.state) == (STEPS, {"seen": STEPS})
        assert len(found.tensors.files) == 4
        saved = Saved(folder.read(found.tensors), predictions)
    _assert_cut(again, saved)
    again.train(STEPS)
    assert torch.equal(draw, torch.rand(3))
    _assert_same(again.tensors(), four.tensors())
    return saved


def _load_into_two(job: Job, saved: Saved, path: Path) -> None:
    """Tables lie elsewhere than they did."""
    two = Trained(job, shift=1)
    assert _differ(two, saved)
    with job.folder(path) as folder:
        load_checkpoint(folder, two.model, two.optimizers)
    _assert_cut(two, saved)
    _assert_close(two.predict(), saved.predictions)


def _load_into_one(job: Job, saved: Saved, path: Path, engine: str) -> None:
    if engine == "eager" and job.optimizer == "rowwise_adagrad":
        one = Trained(job, "eager")  # which trains tables otherwise: its weights load
        with job.folder(path) as folder:
            load_checkpoint(folder, one.model)
    else:
        one = Trained(job, engine)
        with job.folder(path) as folder:
            load_checkpoint(folder, one.model, one.optimizers)
        _assert_same(one.tensors(), saved.tensors)
    _assert_close(one.predict(), saved.predictions)
    if engine == "eager":
        _assert_plain(one, saved)


def _assert_plain(one: Trained, saved: Saved) -> None:
    """Plain tables give the same vectors to a server that knows nothing of plans."""
    parts: Any = one.model.get_submodule("parts")
    batches = one.job.batch(PREDICTED)
    tried = 0
    for (name, part), expected in zip(parts.items(), saved.predictions, strict=True):
        features = part.plan.features
        few = all(f.num_ids is not None and f.num_ids <= MAX_IDS for f in features)
        if few and len(part.embedding_bag_configs()) == len(features):
            plain = materialize(copy.deepcopy(part))
            assert type(plain).__module__.startswith("torchrec")
            vectors = plain(batches[name]).values()
            torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-5)
            tried += 1
    assert tried, "no plan has plain tables of this size"


@contextmanager
def _joined(rank: int, world_size: int, port: int) -> Iterator[None]:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
    }  # fmt: skip
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _kjt(bags: Bags) -> KeyedJaggedTensor:
    keys, values, lengths = bags
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.tensor(values, dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.int32),
    )


def _fused(job: Job) -> FusedOptimizer:
    options = {"name": job.optimizer, "learning_rate": RATE, "eps": EPS}
    return FusedOptimizer.model_validate(options)


def _of_tables(job: Job, tables: list[nn.Parameter]) -> torch.optim.Optimizer:
    if job.optimizer == "sgd":
        return torch.optim.SGD(tables, lr=RATE)
    if job.optimizer == "adagrad":
        return torch.optim.Adagrad(tables, lr=RATE, eps=EPS)
    return RowWiseAdagrad(tables, lr=RATE, eps=EPS)


def _sharding(job: Job, parts: nn.ModuleDict, shift: int) -> Sharding:
    names = dict.fromkeys(
        table.name
        for part in parts.values()
        for table in part.physical_tables  # type: ignore[union-attr]  # a collection
    )
    kinds = job.kinds
    return Sharding(
        tables={
            name: TableSharding.model_validate({"kind": kinds[(i + shift) % len(kinds)]})
            for i, name in enumerate(names)
        }
    )


@torch.no_grad()
def _scramble(parts: nn.ModuleDict, job: Job) -> None:
    """Values of order one; one-hot tables stay as they are."""
    for name, part in parts.items():
        lowered = job.plans[name].lower()
        fixed = {t.name for one in lowered for t in one.tables if t.init.kind == "identity"}
        for key, weight in part.state_dict().items():
            if weight.is_floating_point() and key.split(".")[-2] not in fixed:
                weight.uniform_(0 if key.endswith(".threshold") else -1, 1)


def _pieces(tensor: Tensor) -> list[tuple[tuple[slice, ...], Tensor]]:
    """Where in the whole tensor each of this process's pieces lies."""
    if not isinstance(tensor, ShardedTensor):
        return [(tuple(slice(0, n) for n in tensor.shape), tensor)]
    return [
        (
            tuple(
                slice(start, start + length)
                for start, length in zip(
                    part.metadata.shard_offsets, part.metadata.shard_sizes, strict=True
                )
            ),
            part.tensor,
        )
        for part in tensor.local_shards()
    ]


def _differ(model: Trained, saved: Saved) -> list[str]:
    """The tensors of which a piece here is not, bit for bit, its part of what was saved."""
    return [
        name
        for name, tensor in model.tensors().items()
        for box, piece in _pieces(tensor)
        if name not in saved.tensors or not torch.equal(piece, saved.tensors[name][box])
    ]


def _assert_cut(model: Trained, saved: Saved) -> None:
    assert any(isinstance(t, ShardedTensor) for t in model.tensors().values())
    assert not (found := _differ(model, saved)), found


def _assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours
    assert ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        for (_, a), (_, b) in zip(_pieces(tensor), _pieces(theirs[name]), strict=True):
            assert torch.equal(a, b), name


def _assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
