"""Models of libraries that people use, swapped by every method: they train, save and load."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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
        max_bags=model.max_bags,
    )


def losses_of(
    model: nn.Module, loss_of: Callable[[nn.Module], Tensor], optimizer: torch.optim.Optimizer
) -> list[float]:
    """Before each of ``STEPS`` steps."""
    losses = []
    for _ in range(STEPS):
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def replaced_tables(model: nn.Module, report: SwapReport) -> dict[str, Tensor]:
    """The plain tables that the new ones stand for: known by their shape, as no layer has it."""
    shapes = {(row.num_ids, row.dim) for row in report.rows if row.method}
    plain = materialize(copy.deepcopy(model)).state_dict()
    found = {name: weight for name, weight in plain.items() if tuple(weight.shape) in shapes}
    assert len(found) >= report.num_replaced > 0
    return found


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
    losses = losses_of(made, model.loss, optimizer)
    assert losses[-1] < losses[0] - 0.01

    made.eval()
    expected = model.loss(made).detach()
    other = compress(model.make(), report.plan, report=False).eval()
    other.load_state_dict(made.state_dict())
    assert torch.equal(model.loss(other).detach(), expected)
    predicted = model.error(made).detach()  # a loss may have the norm of the tables in it
    materialize(other)
    assert_near(model.error(other).detach(), predicted)
    plain = model.make().eval()
    plain.load_state_dict(other.state_dict())
    assert_near(model.error(plain).detach(), predicted)


@pytest.mark.parametrize("method", METHODS_TO_SWAP)
@pytest.mark.parametrize("name", list(FOREIGN))
def test_the_new_tables_learn_where_all_else_is_frozen(name: str, method: str) -> None:
    model, report = foreign_model(name), planned(name, method)
    made = model.make()
    others = {id(p) for p in made.parameters()}
    compress(made, report.plan, report=False)
    new = [p for p in made.parameters() if id(p) not in others]
    before = replaced_tables(made, report)
    losses = losses_of(made.train(), model.error, torch.optim.Adam(new, lr=0.05))
    assert losses[-1] < losses[0] - 0.01
    for table, weight in replaced_tables(made, report).items():
        assert not torch.equal(weight, before[table]), f"{table} was not trained"
