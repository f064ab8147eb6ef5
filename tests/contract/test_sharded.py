"""Several gloo processes train the same numbers as one, for every case of every method."""

import socket

import pytest
import torch.multiprocessing as mp

from tests.cases import CASES
from tests.contract.sharded_worker import STEPS, run_worker
from tests.contract.support import make_batch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.dist
def test_sharded_equals_unsharded(world_size: int) -> None:
    plans = [case.plan for case in CASES]
    batches = {
        plan.digest: [
            [
                make_batch(plan, "multi", seed=STEPS * rank + step).kjt()
                for rank in range(world_size)
            ]
            for step in range(STEPS + 1)
        ]
        for plan in plans
    }
    mp.spawn(run_worker, args=(world_size, free_port(), plans, batches), nprocs=world_size)
