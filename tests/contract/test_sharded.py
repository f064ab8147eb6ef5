"""Several processes train the same numbers as one, for every case of every method.

Each case is trained once, over all kinds of sharding; optimizers, plain and weighted bags,
pipelined and not take turns over the cases. ``COMPACTREC_SHARDED=all`` trains every case in every
way, which takes long.
"""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from tests.cases import CASES
from tests.contract.sharded_worker import Setup, run_worker, setups_of

EVERY = os.environ.get("COMPACTREC_SHARDED") == "all"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _setups() -> list[Setup]:
    return [
        setup
        for turn, case in enumerate(CASES)
        for setup in setups_of(str(case), case.plan, every=EVERY, turn=turn)
    ]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(7200 if EVERY else 900)
def test_sharded_equals_unsharded(world_size: int) -> None:
    mp.spawn(run_worker, args=(world_size, free_port(), _setups()), nprocs=world_size)


@pytest.mark.gpu
@pytest.mark.dist
@pytest.mark.parametrize("kernel", ["fused", "fused_uvm_caching"])
def test_sharded_equals_unsharded_on_gpus(world_size: int, kernel: str) -> None:
    if torch.cuda.device_count() < world_size:
        world_size = 1  # one GPU: the same code, and what is in the host's memory
    setups = [Setup(**{**vars(setup), "kernel": kernel}) for setup in _setups()]
    mp.spawn(run_worker, args=(world_size, free_port(), setups, "nccl"), nprocs=world_size)
