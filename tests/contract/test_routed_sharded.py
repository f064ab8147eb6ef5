"""A routed model on several gloo processes gives and learns the same numbers as on one.

Every expert must have examples on every process in every step: it is called where it has some, and
a sharded table waits for all processes. That is why ``compactrec train`` refuses routed plans for
engine ``sharded``; what is tried here is :func:`compactrec.embeddings.sharding.shard` itself. Two
plans are trained, ``COMPACTREC_SHARDED=all`` trains all that can be with both optimizers.
"""

import os

import pytest
import torch.multiprocessing as mp

from compactrec.embeddings import RoutedPlan
from tests.contract.routed_sharded_worker import (
    STEPS,
    TOLERANCE,
    RoutedSetup,
    Rows,
    routed,
    run_worker,
)
from tests.models.test_routed import inputs
from tests.models.test_routed_whole import ROUTERS, plan_of
from tests.ports import free_port

EVERY = os.environ.get("COMPACTREC_SHARDED") == "all"
FEW = (("linear-separate", "rowwise_adagrad"), ("gates-element-linear-shared", "sgd"))
IDLE = "gates-field-mlp"
"""The router that gives its third expert no example: not to be trained on several processes."""
ALL = tuple(
    (f"{router}-{tables}", optimizer)
    for router in ROUTERS
    if router != IDLE
    for tables in ("separate", "shared")
    for optimizer in TOLERANCE
)


def _batches(plan: RoutedPlan, world_size: int) -> list[list[Rows]]:
    """By step and process; every expert has examples in each."""
    model = routed(plan)
    found: list[Rows] = []
    for seed in range(1000):
        rows = inputs(48, seed=seed)
        if len(model.clusters(rows[1]).unique()) == len(model.experts):
            found.append(rows)
        if len(found) == (STEPS + 1) * world_size:
            return [found[i : i + world_size] for i in range(0, len(found), world_size)]
    raise AssertionError(f"{len(found)} of 1000 batches have examples for every expert")


@pytest.mark.dist
@pytest.mark.timeout(7200 if EVERY else 300)
def test_a_sharded_routed_model_equals_an_unsharded_one(world_size: int) -> None:
    setups = [
        RoutedSetup(name, plan_of(name), optimizer) for name, optimizer in (ALL if EVERY else FEW)
    ]
    batches = [_batches(setup.plan, world_size) for setup in setups]
    mp.spawn(run_worker, args=(world_size, free_port(), setups, batches), nprocs=world_size)
