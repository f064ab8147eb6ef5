"""The plans in a checkpoint: another one is refused by the name of what was built from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from compactrec.embeddings import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedEmbeddingBagCollection,
    CompressedEmbeddingCollection,
    Feature,
    Group,
    Plan,
    get_method,
    method_names,
)
from compactrec.embeddings.checkpoint_plan import plans_of
from compactrec.embeddings.checkpoint_state import load_checkpoint, save_checkpoint
from compactrec.embeddings.checkpointing import CheckpointError, CheckpointFolder
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.sharding import shard

if not {"hash", "compositional"} <= set(method_names()):
    pytest.skip("speaks of options of two methods", allow_module_level=True)

FEATURES = (Feature(name="a", num_ids=90, dim=8), Feature(name="b", num_ids=70, dim=8))
PRODUCT, SUM = (
    get_method("compositional").config.model_validate({"moduli": (10, 9), "operation": o})
    for o in ("product", "sum")
)
SEED_5, SEED_6 = (
    get_method("hash").config.model_validate({"num_rows": 13, "seed": seed}) for seed in (5, 6)
)


def plan(second: MethodConfig) -> Plan:
    return Plan(FEATURES, (Group(("a",), SEED_5), Group(("b",), second)))


def bags(config: MethodConfig) -> nn.Module:
    return CompressedEmbeddingBagCollection(plan(config))


def sequences(config: MethodConfig) -> nn.Module:
    return CompressedEmbeddingCollection(plan(config))


def layer(config: MethodConfig) -> nn.Module:
    return CompressedEmbedding(90, 8, config)


def bag_layer(config: MethodConfig) -> nn.Module:
    return CompressedEmbeddingBag(90, 8, config)


OPERATION = "config.operation is 'product' there and 'sum' here"
SEED = "config.seed is 5 there and 6 here"


@pytest.mark.parametrize(
    ("make", "configs", "message"),
    [
        (
            bags,
            (PRODUCT, SUM),
            rf"collection 'part': groups\.1\.{OPERATION}\. Build the model from",
        ),
        (bags, (SEED_5, SEED_6), rf"collection 'part': groups\.1\.{SEED}\."),
        (sequences, (PRODUCT, SUM), rf"collection 'part\.bags': groups\.1\.{OPERATION}\."),
        (layer, (PRODUCT, SUM), rf"layer 'part': {OPERATION}\."),
        (bag_layer, (SEED_5, SEED_6), rf"layer 'part': {SEED}\. Build the model from the plan"),
    ],
)
@pytest.mark.parametrize("optimizers", [None, []])
def test_another_plan_of_the_same_shapes_is_refused(
    tmp_path: Path,
    make: Callable[[MethodConfig], nn.Module],
    configs: tuple[MethodConfig, MethodConfig],
    message: str,
    optimizers: list[Any] | None,
) -> None:
    one, other, same = (nn.ModuleDict({"part": make(c)}) for c in (*configs, configs[0]))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, one, step=1)
        with pytest.raises(CheckpointError, match=f"is of another plan: {message}"):
            load_checkpoint(folder, other, optimizers)
        assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())
        assert load_checkpoint(folder, same, optimizers) is not None
    assert all(torch.equal(t, one.state_dict()[name]) for name, t in same.state_dict().items())


def test_a_layer_that_is_the_model_has_no_path(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, layer(SEED_5), step=1)
        with pytest.raises(CheckpointError, match=f"another plan: the layer: {SEED}"):
            load_checkpoint(folder, layer(SEED_6))


def test_a_checkpoint_without_plans_still_loads(tmp_path: Path) -> None:
    one, other = bags(PRODUCT), bags(SUM)
    with CheckpointFolder(tmp_path, {}) as folder:
        save_checkpoint(folder, one, step=1)
        found = folder.load()
        assert found is not None
        old = {key: value for key, value in found.ranks[0].items() if key != "plans"}
        assert len(old) == len(found.ranks[0]) - 1
        folder.save(2, folder.read(found.tensors), {}, rank_state=old)
        assert load_checkpoint(folder, other, []) is not None


def test_parts_have_the_same_names_in_a_sharded_model() -> None:
    parts = nn.ModuleDict({"bags": bags(PRODUCT), "user": layer(SUM), "tied": nn.Identity()})
    parts["tied"] = parts["user"]
    model = nn.ModuleDict({"parts": parts, "top": nn.Linear(8, 1)})
    plain = plans_of(model)
    assert list(plain) == ["parts.bags", "parts.user"]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert plans_of(shard(model)) == plain
    finally:
        dist.destroy_process_group()
