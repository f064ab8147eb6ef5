"""What ``shard`` refuses, in words, before anything is trained."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    full_plan,
)
from compactrec.embeddings.sharding import shard
from compactrec.embeddings.sharding_config import Sharding

PLAN = full_plan(
    (
        Feature(name="a", num_ids=400, dim=16, max_bag=3),
        Feature(name="b", num_ids=101, dim=8),
        Feature(name="c", num_ids=3, dim=4),
    )
)


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model(engine: Any = "sharded") -> nn.Module:
    return nn.Sequential(CompressedEmbeddingBagCollection(PLAN, engine=engine))


def test_there_must_be_a_process_group() -> None:
    with pytest.raises(ValueError, match=r"no process group to shard over; start with torchrun"):
        shard(model())


@pytest.mark.usefixtures("group")
def test_there_must_be_a_table() -> None:
    with pytest.raises(ValueError, match=r"no CompressedEmbeddingBagCollection with tables"):
        shard(nn.Sequential(nn.Linear(2, 1)))


@pytest.mark.usefixtures("group")
def test_the_engine_must_be_for_several_processes() -> None:
    with pytest.raises(ValueError, match=r"'0' are of engine 'fused', .* engine='sharded'"):
        shard(model("fused"))


@pytest.mark.usefixtures("group")
def test_a_collection_must_be_in_a_module() -> None:
    with pytest.raises(ValueError, match="a collection alone cannot be sharded; put it into a"):
        shard(CompressedEmbeddingBagCollection(PLAN, engine="sharded"))


def test_adam_and_decay_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no optimizer 'adam': FBGEMM .* take 'rowwise_adagrad'"):
        shard(model(), optimizer=FusedOptimizer(name="adam"))
    with pytest.raises(ValueError, match=r"a sharded table has no weight decay, got 0\.1"):
        shard(model(), optimizer=FusedOptimizer(weight_decay=0.1))


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    ("kind", "copies", "text"),
    [("row_wise", 1, "alone is too large: shard it"), ("data_parallel", 2, "which more ranks do")],
)
def test_more_memory_than_a_rank_has_is_refused(kind: str, copies: int, text: str) -> None:
    num_bytes = 4 * copies * (400 * 16 + 101 * 8 + 3 * 4)
    for memory in (num_bytes, 25_599):
        sharding = Sharding.model_validate({"default": kind, "rank_memory_bytes": memory})
        if memory == num_bytes:
            shard(model(), sharding, optimizer=FusedOptimizer(name="sgd"))
            continue
        with pytest.raises(ValueError, match=rf"needs {num_bytes:,} bytes and has .* {text}"):
            shard(model(), sharding, optimizer=FusedOptimizer(name="sgd"))
    assert torch.distributed.is_initialized()
