"""What weight decay does to tables: the same in every engine, step by step, and in the long run."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.optimizers import Optimizers, fused_optimizer
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
)
from tests.cases import CASES
from tests.contract.support import Batch
from tests.contract.support import make_batch as any_batch
from tests.reference.decay import DecayedTable

MODES = ("dense_coupled", "dense_decoupled", "touched_rows")
KINDS = [
    ("eager", "sgd"),
    ("eager", "adagrad"),
    ("eager", "adam"),
    ("eager", "amsgrad"),
    ("fused", "sgd"),
    ("fused", "adagrad"),
    ("fused", "rowwise_adagrad"),
    ("fbgemm", "sgd"),
    ("fbgemm", "rowwise_adagrad"),
]
"""Engine, or kernel of the fused engine, and optimizer."""
LAZY = [("fused", "adam"), ("eager", "lamb")]
"""Under ``touched_rows`` alone."""
each_mode = pytest.mark.parametrize("mode", MODES)
each_kind = pytest.mark.parametrize(("engine", "optimizer"), KINDS)
FEATURES = (
    Feature(name="a", num_ids=37, dim=8, max_bag=4),
    Feature(name="b", num_ids=21, dim=4, max_bag=4, pooling="mean"),
    Feature(name="c", num_ids=11, dim=4, max_bag=4),
    Feature(name="d", num_ids=21, dim=4, max_bag=4),
)
PLAN = Plan(
    features=FEATURES,
    groups=tuple(
        Group(features=names, config=FullConfig()) for names in (("a",), ("b", "d"), ("c",))
    ),
)
"""Tables of two widths, one of them read by two features that are not neighbours."""
STEPS = range(1, 81)
"""More than what is replayed at once."""
SCHEDULE = {"warmup_steps": 7, "decay_start_step": 20, "num_decay_steps": 40}
"""Rates that differ from step to step."""
EPS = 0.05
"""So large that it counts."""


def settings(engine: str, optimizer: str, mode: str, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "data": Path(), "out": Path(), "method": "full",
            "engine": "fused" if engine == "fbgemm" else engine,
            "kernel": "fbgemm" if engine == "fbgemm" else "auto",
            "table_optimizer": optimizer, "table_learning_rate": 0.05, "table_eps": EPS,
            "table_decay": 0.3, "decay_mode": mode, "schedule": SCHEDULE, **changes,
        }
    )  # fmt: skip


def build(
    config: TrainConfig, plan: Plan = PLAN, *, weighted: bool = False
) -> tuple[CompressedEmbeddingBagCollection, Optimizers]:
    torch.manual_seed(3)
    collection = CompressedEmbeddingBagCollection(
        plan, engine=config.engine, optimizer=fused_optimizer(config), is_weighted=weighted,
        kernel=config.kernel,
    )  # fmt: skip
    with torch.no_grad():
        for weight in collection.state_dict().values():
            if weight.is_floating_point():
                weight.normal_()
    return collection, Optimizers(collection, collection, config)


def make_batch(seed: int, weighted: bool = False) -> Batch:
    """Bags of 0 to 4 ids with repeats; mostly few ids, so that others stay away for long."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(0, high, (), generator=generator))

    bags, weights = {}, {}
    for feature in FEATURES:
        high = feature.num_ids if seed % 9 == 0 else 5
        assert high is not None
        bags[feature.name] = [[draw(high) for _ in range(draw(5))] for _ in range(3)]
        weights[feature.name] = [[0.5 + draw(4) for _ in bag] for bag in bags[feature.name]]
    return Batch(bags, weights if weighted else None)


def loss_of(collection: CompressedEmbeddingBagCollection, batch: Batch, seed: int) -> Tensor:
    out = collection(batch.kjt()).values()
    generator = torch.Generator().manual_seed(seed)
    return (out * torch.randn(out.shape, generator=generator) + 0.05 * out**2).sum()


def run(
    collection: CompressedEmbeddingBagCollection,
    optimizers: Optimizers,
    steps: range,
    weighted: bool = False,
) -> None:
    for number in steps:
        optimizers.set_rates(number)
        loss = loss_of(collection, make_batch(number, weighted), number)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: t.clone() for key, t in model.state_dict().items() if t.is_floating_point()}


@cache
def reference(optimizer: str, mode: str, decay: float, weighted: bool) -> dict[str, Tensor]:
    """The same run with the literal table; gradients come from an eager collection."""
    engine = "fused" if optimizer == "rowwise_adagrad" else "eager"
    config = settings(engine, optimizer, mode).model_copy(update={"table_decay": decay})
    collection, _ = build(settings("eager", "sgd", "touched_rows"), weighted=weighted)
    named = dict(collection.tables.named_parameters())
    tables = {
        name: DecayedTable(
            weight.tolist(), config.table_optimizer, config.decay_mode, config.table_decay,
            config.table_eps,
        )
        for name, weight in named.items()
    }  # fmt: skip
    table_of = {"a": 0, "b": 1, "c": 2, "d": 1}
    names = sorted(named, key=lambda n: "abc".index(n.split(".")[1].removeprefix("t_")[0]))
    for number in STEPS:
        with torch.no_grad():
            for name, weight in named.items():
                weight.copy_(torch.tensor(tables[name].rows))
        collection.zero_grad()
        batch = make_batch(number, weighted)
        loss_of(collection, batch, number).backward()
        rate = config.schedule.rate(config.table_learning_rate, number)
        for i, name in enumerate(names):
            grad = named[name].grad
            assert grad is not None
            bags = [bag for key, bag in batch.bags.items() if table_of[key] == i]
            touched = {id_ for feature in bags for bag in feature for id_ in bag}
            tables[name].step({r: grad[r].tolist() for r in touched}, rate)
    return {f"tables.{name}": torch.tensor(table.rows) for name, table in tables.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("engine", "optimizer", "mode"),
    [
        *((*kind, mode) for kind in KINDS for mode in MODES),
        *((*kind, "touched_rows") for kind in LAZY),
    ],
)
def test_many_steps_equal_the_literal_table(
    engine: str, optimizer: str, mode: str, weighted: bool
) -> None:
    config = settings(engine, optimizer, mode)
    collection, optimizers = build(config, weighted=weighted)
    start = weights(collection)
    run(collection, optimizers, STEPS, weighted)
    expected = reference(optimizer, mode, config.table_decay, weighted)
    found = weights(collection)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=2e-4, atol=2e-5, msg=key)
        assert not torch.equal(tensor, start[key])
    undecayed = reference(optimizer, "touched_rows", 0.0, weighted)
    assert any((undecayed[key] - found[key]).abs().max() > 0.01 for key in found)


@each_mode
@each_kind
def test_one_hot_rows_stay_as_they_are(engine: str, optimizer: str, mode: str) -> None:
    """They carry the weights of ids; decayed, they would take the vectors with them."""
    config = settings(engine, optimizer, mode)
    plans = [c.plan for c in CASES if any(t.is_constant for p in c.plan.lower() for t in p.tables)]
    assert plans
    for plan in plans:
        collection = CompressedEmbeddingBagCollection(
            plan, engine=config.engine, optimizer=fused_optimizer(config), kernel=config.kernel
        )
        optimizers = Optimizers(collection, collection, config)
        constants = collection.constant_parameters()
        before = [c.clone() for c in constants]
        assert constants
        rest = weights(collection)
        for seed in range(3):
            optimizers.zero_grad()
            collection(any_batch(plan, "multi", seed=seed).kjt()).values().square().sum().backward()
            optimizers.step()
        assert all(torch.equal(a, b) for a, b in zip(before, constants, strict=True))
        after = weights(collection)
        assert any(not torch.equal(after[key], value) for key, value in rest.items())


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_a_table_that_missed_nothing_can_be_read(optimizer: str) -> None:
    features = (Feature(name="few", num_ids=2, dim=4), Feature(name="many", num_ids=9, dim=4))
    plan = Plan(features, tuple(Group((f.name,), FullConfig()) for f in features))
    collection, optimizers = build(settings("fused", optimizer, "dense_coupled"), plan)
    batch = Batch({"few": [[0], [1]], "many": [[3], [4]]}, None)
    optimizers.set_rates(1)
    collection(batch.kjt()).values().sum().backward()
    assert all(bool(t.isfinite().all()) for t in weights(collection).values())
