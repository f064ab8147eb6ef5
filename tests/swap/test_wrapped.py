"""Models that are wrapped or compiled come too late for compress, and are told the way out."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from compactrec.embeddings import CompressedEmbedding, MixedConfig, compress, materialize
from tests.swap.models import Mixture

SMALLER = {"_default": MixedConfig(dims=(4,))}


class FullyShardedDataParallel(nn.Module):
    """Known by the name of its class: making a real one takes processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_wrapped_model_is_refused_with_the_way_out() -> None:
    wrapped = FullyShardedDataParallel(Mixture())
    for model, where in ((wrapped, "the model is"), (nn.Sequential(wrapped), "'0' is")):
        message = (
            f"{where} wrapped in FullyShardedDataParallel, which has read its parameters "
            f"already; call compress before wrapping: FSDP(compress(model, ...))"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            compress(model, SMALLER)


class FSDPModule:
    """What ``fully_shard`` adds to the class of a model, which stays the same object."""


class ShardedInPlace(FSDPModule, Mixture):
    """A model after ``fully_shard``."""


def test_a_model_that_is_sharded_in_place_has_no_model_inside() -> None:
    message = "call compress before wrapping: fully_shard(compress(model, ...))"
    with pytest.raises(ValueError, match=re.escape(message)):
        compress(ShardedInPlace(), SMALLER)
    message = "already; materialize a model that fully_shard was not called on, from a checkpoint"
    with pytest.raises(ValueError, match=re.escape(message)):
        materialize(ShardedInPlace())


def test_a_compiled_model_is_refused_where_tables_are_inside() -> None:
    tower: Any = torch.compile(nn.Sequential(nn.Embedding(30, 8)), backend="eager")
    for model, where in (
        (torch.compile(Mixture(), backend="eager"), "the model is"),
        (nn.ModuleDict({"tower": tower}), "'tower' is"),
    ):
        message = (
            f"{where} wrapped in OptimizedModule, which is compiled for its tables as they are; "
            f"call compress before wrapping: torch.compile(compress(model, ...))"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            compress(model, SMALLER)
    compiled: Any = torch.compile(nn.Linear(8, 1), backend="eager")
    model = nn.ModuleDict({"user": nn.Embedding(1000, 8), "over": compiled})
    compress(model, SMALLER, report=False)
    assert type(model["user"]) is CompressedEmbedding


def test_real_wrappers_are_refused(tmp_path: Any) -> None:
    from torch.nn.parallel import DistributedDataParallel
    from torchrec.distributed import DistributedModelParallel

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"before wrapping: DDP\(compress"):
            compress(DistributedDataParallel(Mixture()), SMALLER)
        sharded = DistributedModelParallel(Mixture(), device=torch.device("cpu"))
        with pytest.raises(ValueError, match=r"before wrapping: shard\(compress\(model"):
            compress(sharded, SMALLER)
        message = "materialize model.module, which is the model inside; every process must call it"
        with pytest.raises(ValueError, match=message):
            materialize(sharded)
    finally:
        torch.distributed.destroy_process_group()
