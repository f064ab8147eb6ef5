"""The optimizers of a step: every weight is trained, once, at its own rate, in both engines."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.data.batch import Batch
from compactrec.embeddings import Feature, Plan, make_plan, method_names
from tests.benchmarks.snapshots import put_back, save

SIZES = {"C1": 30, "C2": 50, "C3": 11}
FEATURES = [Feature(name=name, num_ids=n, dim=8) for name, n in SIZES.items()]
BATCH = 40
NARROW = next(name for name in ("mixed", "uniform") if name in method_names())
"""A method with dense parts (projections) beside its tables."""


def plan(method: str = "full") -> Plan:
    return make_plan(method, FEATURES, 10**6 if method == "full" else 2_200, threshold=0)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, n, (BATCH,), generator=generator) for n in SIZES.values()]
    return Batch(
        dense=torch.randn(BATCH, 3, generator=generator),
        values=torch.cat(ids),
        lengths=torch.ones(BATCH * len(SIZES), dtype=torch.int32),
        labels=torch.randint(0, 2, (BATCH,), generator=generator).float(),
        keys=tuple(SIZES),
    )


def build(engine: str, method: str = "full", **changes: Any) -> tuple[nn.Module, Optimizers]:
    config = TrainConfig.model_validate(
        {
            "data": Path(), "out": Path(), "method": "full", "engine": engine, "bottom": (6,),
            "top": (6, 1), "dense_learning_rate": 0.1, "table_learning_rate": 0.1,
            "table_optimizer": "adagrad", **changes,
        }
    )  # fmt: skip
    model, embeddings = build_model(config, plan(method), num_dense=3)
    return model, Optimizers(model, embeddings, config)


def step(model: nn.Module, optimizers: Optimizers, number: int) -> None:
    data = batch(number)
    optimizers.set_rates(number)
    loss = binary_cross_entropy_with_logits(model(data.dense, data.kjt()), data.labels)
    optimizers.zero_grad()
    loss.backward()
    optimizers.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("dense_optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("table_optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("method", ["full", NARROW])
def test_eager_and_fused_train_alike(
    table_optimizer: str, dense_optimizer: str, method: str
) -> None:
    changes: dict[str, Any] = {
        "table_optimizer": table_optimizer, "dense_optimizer": dense_optimizer,
        "dense_weight_decay": 0.01 * (method == "full"),
        "schedule": {"warmup_steps": 3, "decay_start_step": 4, "num_decay_steps": 4},
    }  # fmt: skip
    eager, eager_optimizers = build("eager", method, **changes)
    fused, fused_optimizers = build("fused", method, **changes)
    fused.load_state_dict(eager.state_dict())
    start = weights(eager)
    for number in range(1, 7):
        step(eager, eager_optimizers, number)
        step(fused, fused_optimizers, number)
    end = weights(fused)
    for key, tensor in weights(eager).items():
        torch.testing.assert_close(end[key], tensor, atol=2e-5, rtol=1e-4, msg=key)
        if tensor.is_floating_point():
            assert not torch.equal(tensor, start[key]), f"{key} was not trained"


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_each_rate_reaches_its_own_weights(engine: str) -> None:
    changes: dict[str, Any] = {"table_optimizer": "sgd", "dense_optimizer": "sgd"}
    for still, moving in (
        ("dense_learning_rate", {"embeddings"}),
        ("table_learning_rate", {"bottom", "top"}),
    ):
        model, optimizers = build(engine, "full", **{**changes, still: 1e-30})
        start = weights(model)
        step(model, optimizers, 1)
        end = weights(model)
        moved = {key.split(".")[0] for key in end if not torch.equal(end[key], start[key])}
        assert moved == moving


@pytest.mark.parametrize(
    ("engine", "table_optimizer"),
    [
        ("eager", "sgd"),
        ("eager", "adagrad"),
        ("fused", "sgd"),
        ("fused", "adagrad"),
        ("fused", "rowwise_adagrad"),
        ("eager", "amsgrad"),
        ("eager", "lamb"),
    ],
)
@pytest.mark.parametrize("dense_optimizer", ["sgd", "adagrad", "adam", "amsgrad", "lamb"])
def test_a_snapshot_goes_on_bit_by_bit(
    tmp_path: Path, engine: str, table_optimizer: str, dense_optimizer: str
) -> None:
    changes = {"table_optimizer": table_optimizer, "dense_optimizer": dense_optimizer}
    model, optimizers = build(engine, **changes)
    for number in (1, 2, 3):
        step(model, optimizers, number)
    save(tmp_path / "c", model, optimizers)
    drawn = torch.rand(3), np.random.rand(3).tolist(), random.random()
    other, other_optimizers = build(engine, **changes, seed=5)
    put_back(tmp_path / "c", other, other_optimizers)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3).tolist(), random.random()) == drawn[1:]
    for number in (4, 5, 6):
        step(model, optimizers, number)
        step(other, other_optimizers, number)
    end = weights(other)
    for key, tensor in weights(model).items():
        assert torch.equal(tensor, end[key]), key


def test_perceptrons_start_alike_whatever_the_tables_are() -> None:
    full, _ = build("fused", "full")
    narrow, _ = build("fused", NARROW)
    other_seed, _ = build("fused", "full", seed=1)
    for key, tensor in weights(full).items():
        if not key.startswith("embeddings."):
            assert torch.equal(tensor, weights(narrow)[key])
            assert not torch.equal(tensor, weights(other_seed)[key])


def test_a_restored_run_has_the_rate_of_its_step(tmp_path: Path) -> None:
    schedule = {"warmup_steps": 4}  # step 4 has the base rate again, step 3 had not
    model, optimizers = build("fused", schedule=schedule, table_optimizer="sgd")
    for number in (1, 2, 3):
        step(model, optimizers, number)
    save(tmp_path / "c", model, optimizers)
    other, other_optimizers = build("fused", schedule=schedule, table_optimizer="sgd")
    put_back(tmp_path / "c", other, other_optimizers)
    step(model, optimizers, 4)
    step(other, other_optimizers, 4)
    end = weights(other)
    assert all(torch.equal(tensor, end[key]) for key, tensor in weights(model).items())
