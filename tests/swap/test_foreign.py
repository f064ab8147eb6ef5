"""Models of libraries that people use, swapped by every method: they train, save and load."""

import functools

import pytest
import torch

from compactrec.embeddings import SwapReport, compress, materialize, plan_swap
from tests.contract.support import assert_near
from tests.swap.foreign_models import FOREIGN, Foreign
from tests.swap.models import METHODS_TO_SWAP, counts_of, num_bytes

STEPS = 12


@functools.cache
def foreign_model(name: str) -> Foreign:
    return FOREIGN[name]()


@functools.cache
def planned(name: str, method: str) -> SwapReport:
    """A third of the bytes of the tables; small ones stay."""
    model = foreign_model(name)
    made = model.make()
    budget = plan_swap(made, {}).before_bytes // 3
    return plan_swap(
        made,
        method,
        budget_bytes=budget,
        counts=counts_of(model.sizes.items()),
        min_num_ids=50,
        max_bags={"C1": 2},
    )


@pytest.mark.parametrize("method", METHODS_TO_SWAP)
@pytest.mark.parametrize("name", list(FOREIGN))
def test_it_trains_saves_and_takes_the_bytes_of_the_plan(name: str, method: str) -> None:
    model, report = foreign_model(name), planned(name, method)
    assert report.plan is not None
    assert {row.names[0] for row in report.rows} == set(model.sizes)
    made = model.make()
    rest = num_bytes(made) - report.before_bytes
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    compress(made, report.plan, optimizers=[optimizer], report=False)
    assert num_bytes(made) - rest == report.after_bytes <= report.before_bytes // 3
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in made.parameters() if p.requires_grad}

    made.train()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(made)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01

    made.eval()
    expected = model.loss(made).detach()
    other = compress(model.make(), report.plan, report=False).eval()
    other.load_state_dict(made.state_dict())
    assert torch.equal(model.loss(other).detach(), expected)
    if name != "deepctr_torch":  # its loss has the norm of the tables in it
        materialize(other)
        assert_near(model.loss(other).detach(), expected)
        plain = model.make().eval()
        plain.load_state_dict(other.state_dict())
        assert_near(model.loss(plain).detach(), expected)
