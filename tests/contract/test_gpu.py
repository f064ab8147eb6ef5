"""The same numbers on a GPU as on a CPU, for every case; skipped, with the reason, without one."""

import pytest
import torch

from compactrec.embeddings import CompressedEmbeddingBagCollection, FusedOptimizer
from compactrec.embeddings.collection import Engine
from tests.cases import CASES
from tests.contract.support import build, make_batch
from tests.methods.base import Case

pytestmark = pytest.mark.gpu
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("engine", ["eager", "fused"])
@each_case
def test_forward_is_that_of_the_cpu(case: Case, engine: Engine) -> None:
    here = build(case.plan)
    there = CompressedEmbeddingBagCollection(case.plan, engine=engine, device="cuda")
    there.load_state_dict(here.state_dict())
    batch = make_batch(case.plan, "multi").kjt()
    found = there(batch.to(torch.device("cuda"))).values().cpu()
    torch.testing.assert_close(found, here(batch).values(), rtol=1e-5, atol=1e-5)


@each_case
def test_a_fused_step_is_that_of_the_cpu(case: Case) -> None:
    optimizer = FusedOptimizer(name="sgd", learning_rate=0.1)
    here = build(case.plan, engine="fused", optimizer=optimizer)
    there = CompressedEmbeddingBagCollection(
        case.plan, engine="fused", device="cuda", optimizer=optimizer
    )
    there.load_state_dict(here.state_dict())
    batch = make_batch(case.plan, "multi").kjt()
    here(batch).values().square().sum().backward()
    there(batch.to(torch.device("cuda"))).values().square().sum().backward()
    for (key, ours), theirs in zip(
        here.state_dict().items(), there.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-5, atol=1e-5, msg=key)
