"""What ``shard`` refuses, in words, before anything is trained."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    MixedConfig,
    compress,
    full_plan,
)
from compactrec.embeddings.sharding import gather_state, shard
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
    [("row_wise", 1, "2 ranks or more could hold"), ("data_parallel", 2, "which more ranks do")],
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


@pytest.mark.usefixtures("group")
def test_layers_are_not_sharded() -> None:
    layers = nn.ModuleDict({"user": nn.Embedding(90, 8), "item": nn.Embedding(70, 8)})
    compress(layers, {"_default": MixedConfig(dims=(4,))}, report=False)
    with pytest.raises(
        ValueError,
        match=r"compressed layers alone \(user, item\), and layers are not sharded, only "
        r"collections are: wrap it in DistributedDataParallel, .* EmbeddingBagCollection and comp",
    ):
        shard(layers)


@pytest.mark.usefixtures("group")
def test_a_swapped_collection_is_sharded_with_equal_outputs() -> None:
    config = EmbeddingBagConfig(
        name="t", embedding_dim=8, num_embeddings=90, feature_names=["user", "friend"]
    )
    model = nn.ModuleDict({"ebc": EmbeddingBagCollection([config]), "top": nn.Linear(16, 1)})
    compress(model, {"_default": MixedConfig(dims=(4,))}, report=False)
    ids = KeyedJaggedTensor(
        ["user", "friend"], torch.tensor([3, 89, 7, 0, 3, 44]), lengths=torch.tensor([1, 2, 2, 1])
    )
    before = model["ebc"](ids).values().detach().clone()
    assert before.abs().min() > 0
    sharding = Sharding.model_validate({"default": "table_wise"})
    sharded = shard(model, sharding, optimizer=FusedOptimizer(name="sgd"))
    assert torch.equal(sharded.module["ebc"](ids).values(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sharding": {"t_.*": "row_wise"}},
            "sharding must be a Sharding, got {'t_.*': 'row_wise'}; write "
            "Sharding.model_validate({'default': 'row_wise'}) for all tables, or "
            "Sharding.model_validate({'tables': {'t_C1__.*': 'row_wise'}}) for some",
        ),
        (
            {"optimizer": "sgd"},
            "optimizer must be a FusedOptimizer, got 'sgd'; tables are updated inside the backward "
            "pass: write FusedOptimizer(name='sgd', learning_rate=0.1), and give dense_param",
        ),
        (
            {"optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1)},
            "optimizer must be a FusedOptimizer, got SGD; tables are updated inside",
        ),
        ({"model": None}, "shard takes a model, a torch.nn.Module, got NoneType; give it module"),
    ],
)
def test_wrong_types_are_told_what_is_right(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        shard(**{"model": model(), **arguments})


@pytest.mark.usefixtures("group")
def test_gathering_is_quiet_about_what_torchrec_keeps_shards_in() -> None:
    sharded = shard(model(), Sharding.model_validate({"default": "row_wise"}))
    shapes = {tuple(t.shape) for name, t in gather_state(sharded).items() if "tables" in name}
    assert shapes == {(400, 16), (101, 8), (3, 4)}


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:x", None, 1.5])
def test_a_device_is_one_that_has_shards(device: Any) -> None:
    message = f"device must be 'cpu', 'cuda' or one of several, as 'cuda:1', got {device!r}; give"
    with pytest.raises(ValueError, match=re.escape(message)):
        shard(model(), device=device)
