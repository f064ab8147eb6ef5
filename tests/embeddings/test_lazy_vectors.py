"""Vectors of a sharded collection are waited for at the first look, and DLRM looks late."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.types import LazyAwaitable
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection
from compactrec.embeddings.lazy_vectors import LazyVectors
from compactrec.embeddings.sharding import shard
from compactrec.models.dlrm import DLRM, DLRMConfig
from tests.cases import CASES
from tests.contract.support import make_batch

KEYS, DIM, BATCH = ["a", "b", "c"], 4, 5


class _Pooled(LazyAwaitable[KeyedTensor]):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def _wait_impl(self) -> KeyedTensor:
        self._events.append("waited")
        values = torch.arange(float(BATCH * DIM * len(KEYS))).view(BATCH, -1)
        return KeyedTensor(KEYS, [DIM] * len(KEYS), values)


class _Travelling(nn.Module):
    """What a sharded collection does: its vectors are on their way when it returns."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(name=k, embedding_dim=DIM, num_embeddings=3, feature_names=[k])
            for k in KEYS
        ]

    def forward(self, features: object) -> LazyVectors:
        self.events.append("sent")
        return LazyVectors(_Pooled(self.events), lambda pooled: pooled, "cpu")


def test_vectors_are_waited_for_once_and_when_they_are_looked_at() -> None:
    events: list[str] = []

    def combine(pooled: KeyedTensor) -> KeyedTensor:
        events.append(f"combined, autocast {torch.is_autocast_enabled('cpu')}")
        return KeyedTensor(KEYS, [DIM] * len(KEYS), pooled.values() * 2)

    vectors: Any = LazyVectors(_Pooled(events), combine, "cpu")
    assert events == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vectors.values()
    assert events == ["waited", "combined, autocast False"]
    assert torch.equal(found, 2.0 * torch.arange(60.0).view(BATCH, -1))
    assert vectors.keys() == KEYS
    assert len(events) == 2


def test_a_sharded_collection_gives_them() -> None:
    case = next(case for case in CASES if len(case.plan.features) >= 3)
    model = nn.Sequential(CompressedEmbeddingBagCollection(case.plan, engine="sharded"))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sharded = shard(model)
        found = sharded(make_batch(case.plan, "multi", seed=3).kjt())
        assert isinstance(found, LazyVectors)
        assert sorted(found.keys()) == sorted(feature.name for feature in case.plan.features)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_dlrm_computes_its_bottom_while_they_travel(interaction: Any) -> None:
    events: list[str] = []
    config = DLRMConfig(bottom=(8,), top=(8, 1), interaction=interaction)
    model = DLRM(_Travelling(events), 2, config)  # type: ignore[arg-type]  # a stand-in
    assert model.bottom is not None
    model.bottom.register_forward_hook(lambda *_: events.append("bottom"))
    logits = model(torch.randn(BATCH, 2), None)  # the stand-in reads no features
    assert logits.shape == (BATCH,)
    assert events == ["sent", "bottom", "waited"]
