"""What each of two processes runs: a swapped model sharded and trained, compared with one process.

A file of its own, so that started processes can import it.
"""

import copy
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
)
from torchrec.models.dlrm import DLRM

from compactrec.embeddings import FusedOptimizer, MixedConfig, compress, dense_parameters
from compactrec.embeddings.sharding import gather_state, shard
from compactrec.embeddings.sharding_config import Sharding
from tests.contract.sharded_worker import check_apart

__all__ = ["main"]

RATE, EPS, STEPS, BATCH = 0.1, 1e-4, 4, 6
SIZES = {"user": 90, "friend": 90, "item": 300}
USERS = r"t_.*user.*"
"""The tables of the users, spread by rows; the others are whole on one process."""

Examples = tuple[Tensor, KeyedJaggedTensor, Tensor]


class Clicks(nn.Module):
    """torchrec's DLRM, two keys of which read one table, and a sequence beside it."""

    def __init__(self) -> None:
        super().__init__()
        users = EmbeddingBagConfig(
            name="t_users", embedding_dim=8, num_embeddings=90, feature_names=["user", "friend"]
        )
        items = EmbeddingBagConfig(
            name="t_items", embedding_dim=8, num_embeddings=300, feature_names=["item"]
        )
        seen = EmbeddingConfig(
            name="t_seen", embedding_dim=8, num_embeddings=300, feature_names=["item"]
        )
        self.dlrm = DLRM(EmbeddingBagCollection([users, items]), 4, [16, 8], [16, 1])
        self.seen = EmbeddingCollection([seen])
        self.over = nn.Linear(8, 1)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Logits ``(B,)``."""
        sequence = self.seen(ids)["item"]
        total = torch.segment_reduce(sequence.values(), "sum", lengths=sequence.lengths())
        logits: Tensor = self.dlrm(dense, ids) + self.over(total.tanh())
        return logits.squeeze(1)


def main() -> None:
    """Raise where two processes train another model than one, unequal sequences by rows or whole;
    then plan unlike each other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(3)
    model = compress(Clicks(), {"_default": MixedConfig(dims=(4,))}, report=False)
    with torch.no_grad():
        for parameter in model.parameters():  # not those that are drawn
            parameter.uniform_(-0.5, 0.5)
    alone, by_rows, unlike = (copy.deepcopy(model) for _ in range(3))
    if rank:  # those of the first process count
        for parameter in [*model.parameters(), *by_rows.parameters()]:
            torch.nn.init.zeros_(parameter)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _train_alone(alone)
    users_by_rows = {"default": "table_wise", "tables": {USERS: "row_wise"}}
    for trained, kinds in ((model, users_by_rows), (by_rows, {"default": "row_wise"})):
        _train_sharded(trained, alone, Sharding.model_validate(kinds))
        state, expected = gather_state(trained), alone.state_dict()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        if rank == 0:
            assert state.keys() == expected.keys()
            floats = {k: t for k, t in state.items() if t.is_floating_point()}
            same = [k for k, t in floats.items() if torch.equal(t, start[k])]
            assert not same, f"not trained: {same}"
        print(f"as one process, {len(state)} tensors", flush=True)
    other = compress(Clicks(), {"_default": MixedConfig(dims=(2 + rank,))}, report=False)
    try:
        shard(other)
    except ValueError as error:
        print(f"plans: {error}", flush=True)
    shard(unlike, Sharding.model_validate({"default": {"kind": "table_wise", "place": rank}}))


def _train_sharded(model: nn.Module, alone: nn.Module, sharding: Sharding) -> None:
    tables = FusedOptimizer(name="adagrad", learning_rate=RATE, eps=EPS)
    sharded = shard(model, sharding, optimizer=tables)
    check_apart(sharded, alone)
    dense = torch.optim.SGD(dense_parameters(sharded), lr=RATE)
    for step in range(STEPS):
        dense.zero_grad()
        _loss(sharded, _batch(step, dist.get_rank())).backward()
        dense.step()


def _train_alone(model: nn.Module) -> None:
    """On the examples of both processes."""
    in_tables = {id(p) for name, p in model.named_parameters() if ".embedding_bags." in name}
    assert len(in_tables) >= 3

    def parameters(wanted: bool) -> Iterable[nn.Parameter]:
        return [p for p in model.parameters() if (id(p) in in_tables) == wanted]

    optimizers = [
        torch.optim.SGD(parameters(False), lr=RATE),
        torch.optim.Adagrad(parameters(True), lr=RATE, eps=EPS),
    ]
    for step in range(STEPS):
        model.zero_grad()
        for rank in range(2):
            (_loss(model, _batch(step, rank)) / 2).backward()
        for optimizer in optimizers:
            optimizer.step()


def _loss(model: nn.Module, batch: Examples) -> Tensor:
    dense, ids, labels = batch
    return binary_cross_entropy_with_logits(model(dense, ids), labels)


def _batch(step: int, rank: int) -> Examples:
    """Bags of 0 to 3 ids, so that the processes have sequences of unequal lengths."""
    generator = torch.Generator().manual_seed(2 * step + rank)
    lengths = torch.randint(4, (len(SIZES), BATCH), generator=generator)
    ids = [
        torch.randint(size, (int(of.sum()),), generator=generator)
        for size, of in zip(SIZES.values(), lengths, strict=True)
    ]
    return (
        torch.randn(BATCH, 4, generator=generator),
        KeyedJaggedTensor(list(SIZES), torch.cat(ids), lengths=lengths.flatten()),
        torch.randint(2, (BATCH,), generator=generator).float(),
    )
