"""What compress does with optimizers that were made before, and says where there are none."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

from compactrec.embeddings import (
    Feature,
    Group,
    MixedConfig,
    Plan,
    SwapReport,
    compress,
    plan_swap,
)
from tests.swap.models import Mixture


def test_optimizers_get_the_new_parameters_where_the_old_ones_were() -> None:
    model = Mixture()
    tables = [model.user.weight, model.clicks.weight]
    known = {id(p) for p in tables}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.Adam(
        [{"params": rest}, {"params": tables, "lr": 0.5, "weight_decay": 0.1}], lr=0.01
    )
    model(*Mixture.batch()).sum().backward()
    optimizer.step()
    seen: list[SwapReport] = []
    rules = {"user|clicks": MixedConfig(dims=(4,))}
    compress(model, rules, optimizers=[optimizer], report=seen.append)
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.01, 0.5]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in rest]
    new = {id(p) for p in [*model.user.parameters(), *model.clicks.parameters()]}
    assert {id(p) for p in groups[1]["params"]} == new
    assert len(groups[1]["params"]) == 4  # two tables, two projections
    assert all(id(p) not in known for p in optimizer.state)
    assert seen[0].num_states_dropped == 2
    assert "optimizer state of 2 parameters was dropped" in str(seen[0])
    before = copy.deepcopy(model.user.state_dict())
    model(*Mixture.batch()).sum().backward()
    optimizer.step()
    assert any(not torch.equal(before[k], v) for k, v in model.user.state_dict().items())


@pytest.mark.parametrize("frozen", ["a", "b", "c"])
def test_what_a_group_shares_goes_to_the_optimizer_of_its_tables_that_train(frozen: str) -> None:
    tables: dict[str, Any] = {name: nn.Embedding(50, 8) for name in ("a", "b", "c")}
    tables[frozen].requires_grad_(False)
    model: Any = nn.ModuleDict(tables)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    features = tuple(Feature(name=name, num_ids=50, dim=8) for name in tables)
    plan = Plan(features, (Group(tuple(tables), MixedConfig(dims=(4,))),))
    compress(model, plan, optimizers=[optimizer], report=False)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    own = {id(p) for p in model[frozen].combine.parameters()}
    assert own
    assert held == {id(p) for p in model.parameters()} - own


@pytest.mark.parametrize(
    ("names", "said"), [([], 2), (["a"], 1), (["a", "b"], 0), (["frozen", "stays"], 2)]
)
def test_replaced_tables_that_no_optimizer_holds_are_counted(names: list[str], said: int) -> None:
    model = nn.ModuleDict({name: nn.Embedding(50, 8) for name in ("a", "b", "frozen", "stays")})
    model["frozen"].requires_grad_(False)
    held = [torch.optim.SGD(model[name].parameters(), lr=0.1) for name in names]
    seen: list[SwapReport] = []
    rules = {"a|b|frozen": MixedConfig(dims=(4,))}
    assert plan_swap(model, rules).num_not_held == 0, "a plan says nothing of optimizers"
    compress(model, rules, optimizers=held, report=seen.append)
    assert seen[0].num_not_held == said
    assert ("weights are in no optimizer" in str(seen[0])) == bool(said)


def test_sparse_adam_is_refused_where_dense_parts_come_with_a_table() -> None:
    model = nn.Sequential(nn.Embedding(100, 8, sparse=True))
    optimizer = torch.optim.SparseAdam(list(model.parameters()))
    with pytest.raises(ValueError, match=re.escape("SparseAdam takes sparse gradients alone")):
        compress(model, {"0": MixedConfig(dims=(4,))}, optimizers=[optimizer])
    assert type(model[0]) is nn.Embedding, "an error changes nothing"
    compress(model, {"0": MixedConfig(dims=(4,))}, report=False)
    model(torch.tensor([1, 2])).sum().backward()
    table = next(p for n, p in model.named_parameters() if "tables" in n)
    assert table.grad is not None
    assert table.grad.is_sparse
