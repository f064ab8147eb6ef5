"""Gradients of tables and combines equal those of the slow references."""

import copy

import pytest
import torch
from torch import Tensor

from compactrec.embeddings.contract import Output
from tests.cases import CASES
from tests.contract.support import (
    Bags,
    build,
    loss_weights,
    make_batch,
    table_gradients,
    weights_of,
)
from tests.methods.base import Case


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("bags", ["single", "multi", "empty"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_reference(case: Case, bags: Bags, weighted: bool) -> None:
    collection = build(case.plan, is_weighted=weighted)
    batch = make_batch(case.plan, bags, weighted=weighted)
    cotangents, expected = table_gradients(case.plan, weights_of(collection), batch)
    out = collection(batch.kjt())
    loss = torch.stack([(out[key] * c.float()).sum() for key, c in cotangents.items()]).sum()
    loss.backward()
    for name, parameter in collection.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got.double(), expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_not_all_zero(case: Case) -> None:
    collection = build(case.plan)
    _, expected = table_gradients(
        case.plan, weights_of(collection), make_batch(case.plan, "multi", size=60)
    )
    frozen = {
        f"tables.embedding_bags.{table.name}.weight"
        for part in case.plan.lower()
        for table in part.tables
        if table.init.kind == "identity"
    }
    used = {name for name, grad in expected.items() if float(grad.abs().max()) > 0}
    assert used == expected.keys() - frozen


def _outputs(case: Case) -> list[Output]:
    return [output for part in case.plan.lower() for output in part.outputs]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck_of_combines(case: Case) -> None:
    generator = torch.Generator().manual_seed(2)
    checked = 0
    for output in _outputs(case):
        combine = copy.deepcopy(output.combine).double()
        parameters = list(combine.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.uniform_(-1, 1, generator=generator)
        slots = []
        if not output.inputs[0]:  # every id is dropped: there is nothing to differentiate
            assert not parameters
            checked += 1
            continue
        for place, slot in enumerate(output.inputs[0]):
            values = torch.rand(5, slot.dim, generator=generator, dtype=torch.float64) - 0.5
            if place > 0 and not combine.linear and parameters:  # a digit chooses a function
                which = torch.randint(slot.dim, (5,), generator=generator)
                values = torch.nn.functional.one_hot(which, slot.dim).double()
            slots.append(values.requires_grad_(place == 0 or not parameters or combine.linear))

        def run(*inputs: Tensor) -> Tensor:
            return combine(list(inputs[: len(slots)]))  # noqa: B023

        assert torch.autograd.gradcheck(run, (*slots, *parameters))
        checked += 1
    assert checked == len(_outputs(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_zero_row_gives_no_nan(case: Case) -> None:
    collection = build(case.plan)
    with torch.no_grad():
        for weight in collection.parameters():
            weight[..., ::2] = 0.0
    out = collection(make_batch(case.plan, "multi").kjt())
    cotangents = loss_weights(out.to_dict())
    torch.stack([(out[k] * c.float()).sum() for k, c in cotangents.items()]).sum().backward()
    assert torch.isfinite(out.values()).all()
    for weight in collection.parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all()
