"""Several processes train the same numbers as one, for every case of every method.

Each case is trained once: kinds of sharding and the planner, optimizers, plain and weighted bags,
pipelined and not take turns over the cases. ``COMPACTREC_SHARDED=all`` trains every case in every
way, which takes hours, a test for each optimizer and kind of bags, and with
``COMPACTREC_SHARDED_STEP=37`` every 37th of these. What goes wrong is said at the end, all of it,
and ``COMPACTREC_SHARDED_RESULTS=<folder>`` gets a file from each test.
"""

import os
from itertools import product

import pytest
import torch
import torch.multiprocessing as mp
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ShardingType

from tests.cases import CASES
from tests.contract.sharded_setups import KINDS, OPTIMIZERS, PLANNER, Setup, setups_of
from tests.contract.sharded_worker import run_worker
from tests.ports import free_port

EVERY = os.environ.get("COMPACTREC_SHARDED") == "all"
STEP = int(os.environ.get("COMPACTREC_SHARDED_STEP", "1")) if EVERY else 1


PARTS: list[tuple[str, bool] | None] = list(product(OPTIMIZERS, (False, True))) if EVERY else [None]
"""Optimizer and whether bags are weighted, or all at once."""


def _part(part: tuple[str, bool] | None) -> list[Setup]:
    return [s for s in _setups() if part in (None, (s.optimizer, s.weighted))][::STEP]


def _setups(every: bool = EVERY) -> list[Setup]:
    return [
        setup
        for turn, case in enumerate(CASES)
        for setup in setups_of(str(case), case.plan, every=every, turn=turn)
    ]


@pytest.mark.parametrize("every", [False, True])
def test_the_ways_of_training_that_are_tried(every: bool) -> None:
    """By turns all optimizers meet all else; all of it, for every case, when it is asked for."""
    setups = _setups(every)
    assert {s.name for s in setups} == {str(case) for case in CASES}
    for optimizer in OPTIMIZERS:
        found = [s for s in setups if s.optimizer == optimizer]
        assert {(s.weighted, s.pipelined) for s in found} == set(product((False, True), repeat=2))
        allowed = set(KINDS) - ({"column_wise"} if optimizer == "rowwise_adagrad" else set())
        assert {s.kinds[0] for s in found} == {*allowed, *PLANNER}
    if every:
        ways = {s.name: set[object]() for s in setups}
        for s in setups:
            ways[s.name].add((s.kinds, s.optimizer, s.weighted, s.pipelined))
        assert {len(of_case) for of_case in ways.values()} == {4 * (7 + 7 + 6)}


def test_every_kind_that_torchrec_has_is_tried_or_known_not_to_be() -> None:
    """Columns over the processes of one machine, and both at once, are not offered."""
    left_out = {"table_column_wise", "grid_shard"}
    assert {kind.value for kind in ShardingType} - left_out == set(KINDS)
    sharder = EmbeddingBagCollectionSharder()
    assert set(sharder.sharding_types("cpu")) - left_out <= set(KINDS)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(6 * 3600 if EVERY else 900)
@pytest.mark.parametrize("part", PARTS)
def test_sharded_equals_unsharded(world_size: int, part: tuple[str, bool] | None) -> None:
    mp.spawn(run_worker, args=(world_size, free_port(), _part(part)), nprocs=world_size)


def gpu_setups(kernel: str) -> list[Setup]:
    """Those whose rows ``kernel`` holds: the planner and data_parallel go by their own."""
    setups = [Setup(**{**vars(setup), "kernel": kernel}) for setup in _setups()]
    if kernel == "fused":
        return setups
    return [s for s in setups if set(s.kinds) - {*PLANNER, "data_parallel"}]


def test_on_gpus_each_kernel_has_setups_of_its_own() -> None:
    assert len(gpu_setups("fused")) == len(_setups())
    cached = gpu_setups("fused_uvm_caching")
    assert 0 < len(cached) < len(_setups())
    assert all(s.kernel == "fused_uvm_caching" and s.kinds != PLANNER for s in cached)


@pytest.mark.gpu
@pytest.mark.dist
@pytest.mark.timeout(6 * 3600 if EVERY else 900)
@pytest.mark.parametrize("kernel", ["fused", "fused_uvm_caching"])
def test_sharded_equals_unsharded_on_gpus(world_size: int, kernel: str) -> None:
    """Bytes are compared on the CPU: their estimate does not know what a cache takes."""
    if torch.cuda.device_count() < world_size:
        world_size = 1  # one GPU: the same code, and what is in the host's memory
    setups = gpu_setups(kernel)[::STEP]
    mp.spawn(run_worker, args=(world_size, free_port(), setups, "nccl"), nprocs=world_size)
