"""Several processes train the same numbers as one, for every case of every method.

Each case is trained once: kinds of sharding and the planner, optimizers, plain and weighted bags,
pipelined and not take turns over the cases. ``COMPACTREC_SHARDED=all`` trains every case in every
way, a test for each optimizer and kind of bags; with ``COMPACTREC_SHARDED=kinds`` every case meets
every kind with every optimizer, and only the bags and the pipeline take turns. Both take long. What
goes wrong is said at the end, all of it, and ``COMPACTREC_SHARDED_RESULTS=<folder>`` gets a file
from each test.
"""

import os
from itertools import product
from typing import get_args

import pytest
import torch
import torch.multiprocessing as mp
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ShardingType

from tests.cases import CASES
from tests.contract.sharded_setups import KINDS, OPTIMIZERS, PLANNER, Setup, Tried, setups_of
from tests.contract.sharded_worker import run_worker
from tests.ports import free_port

ASKED: dict[str, Tried] = {"all": "all", "kinds": "kinds"}
TRIED: Tried = ASKED.get(os.environ.get("COMPACTREC_SHARDED", ""), "turns")
LONG = TRIED != "turns"
PARTS: list[tuple[str, bool] | None] = list(product(OPTIMIZERS, (False, True))) if LONG else [None]
"""Optimizer and whether bags are weighted, or all at once."""


def _part(part: tuple[str, bool] | None) -> list[Setup]:
    return [s for s in _setups() if part in (None, (s.optimizer, s.weighted))]


def _setups(tried: Tried = TRIED) -> list[Setup]:
    return [
        setup
        for turn, case in enumerate(CASES)
        for setup in setups_of(str(case), case.plan, tried=tried, turn=turn)
    ]


@pytest.mark.parametrize("tried", get_args(Tried))
def test_the_ways_of_training_that_are_tried(tried: Tried) -> None:
    """By turns all optimizers meet all else; more of it, for every case, when it is asked for."""
    setups = _setups(tried)
    assert {s.name for s in setups} == {str(case) for case in CASES}
    for optimizer in OPTIMIZERS:
        found = [s for s in setups if s.optimizer == optimizer]
        assert {(s.weighted, s.pipelined) for s in found} == set(product((False, True), repeat=2))
        allowed = set(KINDS) - ({"column_wise"} if optimizer == "rowwise_adagrad" else set())
        assert {s.kinds[0] for s in found} == {*allowed, *PLANNER}
    if tried == "turns":
        return
    assert {(s.kinds, s.weighted, s.pipelined) for s in setups if s.optimizer == "sgd"} == {
        (s.kinds, *both)
        for s in setups
        if s.optimizer == "sgd"
        for both in product((False, True), repeat=2)
    }
    ways = {s.name: set[object]() for s in setups}
    for s in setups:
        once = (s.weighted, s.pipelined) if tried == "all" else ()
        ways[s.name].add((s.kinds, s.optimizer, *once))
    times = 4 if tried == "all" else 1
    assert {len(of_case) for of_case in ways.values()} == {times * (7 + 7 + 6)}
    assert len(setups) == len(ways) * times * (7 + 7 + 6)
    for name in ways:
        mine = [s for s in setups if s.name == name]
        assert {s.weighted for s in mine} == {s.pipelined for s in mine} == {False, True}


def test_every_kind_that_torchrec_has_is_tried_or_known_not_to_be() -> None:
    """Columns over the processes of one machine, and both at once, are not offered."""
    left_out = {"table_column_wise", "grid_shard"}
    assert {kind.value for kind in ShardingType} - left_out == set(KINDS)
    sharder = EmbeddingBagCollectionSharder()
    assert set(sharder.sharding_types("cpu")) - left_out <= set(KINDS)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(6 * 3600 if LONG else 900)
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
    for kernel in ("fused_uvm", "fused_uvm_caching"):
        held = gpu_setups(kernel)
        assert 0 < len(held) < len(_setups())
        assert all(s.kernel == kernel and s.kinds != PLANNER for s in held)


@pytest.mark.gpu
@pytest.mark.dist
@pytest.mark.timeout(6 * 3600 if LONG else 900)
@pytest.mark.parametrize("kernel", ["fused", "fused_uvm", "fused_uvm_caching"])
def test_sharded_equals_unsharded_on_gpus(world_size: int, kernel: str) -> None:
    """Bytes are compared on the CPU: their estimate does not know what a cache takes."""
    if torch.cuda.device_count() < world_size:
        world_size = 1  # one GPU: the same code, and what is in the host's memory
    setups = gpu_setups(kernel)
    mp.spawn(run_worker, args=(world_size, free_port(), setups, "nccl"), nprocs=world_size)
