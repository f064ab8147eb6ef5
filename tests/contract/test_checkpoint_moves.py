"""A checkpoint of four processes loads into four, two, one and plain tables.

Cases whose features have different names are put together into one plan, so that there are fewer
collections. The first and the last of these plans are trained, with Adagrad, whose state is cut by
rows and by columns. ``COMPACTREC_SHARDED=all`` trains all of them, with every optimizer.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from compactrec.embeddings import Plan
from tests.cases import CASES, mixture
from tests.contract.checkpoint_worker import MAX_IDS, STEPS, Bags, Job, run_worker
from tests.contract.sharded_setups import OPTIMIZERS
from tests.contract.support import make_batch
from tests.methods.base import Case
from tests.ports import free_port

EVERY = os.environ.get("COMPACTREC_SHARDED") == "all"


def _closed(case: Case) -> bool:
    """Whether plain tables can hold it."""
    features = case.plan.features
    few = all(f.num_ids is not None and f.num_ids <= MAX_IDS for f in features)
    return few and sum(len(part.outputs) for part in case.plan.lower()) == len(features)


def _packed(cases: Sequence[Case]) -> list[Plan]:
    """Few plans that hold all cases; what can be materialized stays apart from what cannot."""
    packs: list[list[Case]] = []
    for case in cases:
        for pack in packs:
            if _closed(pack[0]) == _closed(case) and not _names(pack) & _names([case]):
                pack.append(case)
                break
        else:
            packs.append([case])
    return [mixture(f"p{i}", pack).plan for i, pack in enumerate(packs)]


def _names(cases: Sequence[Case]) -> set[str]:
    return {
        name
        for case in cases
        for name in (*(f.name for f in case.plan.features), *case.plan.arrays)
    }


def _bags(plan: Plan, seed: int) -> Bags:
    made = make_batch(plan, "multi", seed=seed).kjt()
    return made.keys(), made.values().tolist(), made.lengths().tolist()


def _jobs(every: bool) -> list[Job]:
    """All plans with every optimizer, or two plans with one."""
    singles = [case for case in CASES if not case.name.startswith("all_methods")]
    plans = {f"p{i}": plan for i, plan in enumerate(_packed(CASES if every else singles))}
    if not every:
        plans = {name: plans[name] for name in (min(plans), max(plans))}
    batches = {name: [_bags(p, seed) for seed in range(STEPS + 2)] for name, p in plans.items()}
    return [Job(name, plans, batches) for name in (OPTIMIZERS if every else ("adagrad",))]


def test_every_case_moves_where_it_is_asked_for() -> None:
    jobs = _jobs(every=True)
    assert {job.optimizer for job in jobs} == set(OPTIMIZERS)
    expected = {feature.name for case in CASES for feature in case.plan.features}
    for job in jobs:
        moved = [feature.name for plan in job.plans.values() for feature in plan.features]
        assert set(moved) == expected
        assert len(moved) == sum(len(case.plan.features) for case in CASES)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(7200 if EVERY else 300)
def test_a_checkpoint_moves_between_numbers_of_processes(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(2)]
    mp.spawn(run_worker, args=(ports, _jobs(EVERY), str(tmp_path)), nprocs=4)
