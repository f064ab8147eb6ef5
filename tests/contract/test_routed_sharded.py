"""A routed model on several gloo processes gives and learns the same numbers as on one.

Every expert must have examples on every process in every step: it is called where it has some, and
a sharded table waits for all processes.
"""

import pytest
import torch.multiprocessing as mp

from tests.contract.routed_sharded_worker import STEPS, run_worker
from tests.contract.test_sharded import free_port
from tests.models.test_routed import inputs
from tests.models.test_routed_whole import plan_of


@pytest.mark.dist
def test_a_sharded_routed_model_equals_an_unsharded_one(world_size: int) -> None:
    names = [f"{r}-{t}" for r in ("linear", "gates-element-linear") for t in ("separate", "shared")]
    plans = {name: plan_of(name) for name in names}
    batches = [
        [inputs(48, seed=STEPS * rank + step) for rank in range(world_size)]
        for step in range(STEPS + 1)
    ]
    mp.spawn(run_worker, args=(world_size, free_port(), plans, batches), nprocs=world_size)
