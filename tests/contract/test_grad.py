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
    weights, used = weights_of(build(case.plan)), set[str]()
    for seed in range(6):  # a table of few rows of many ids is not in every batch
        batch = make_batch(case.plan, "multi", size=30, seed=seed)
        _, expected = table_gradients(case.plan, weights, batch)
        used |= {name for name, grad in expected.items() if float(grad.abs().max()) > 0}
        if len(used) == len(expected):
            break
    frozen = {
        f"tables.embedding_bags.{table.name}.weight"
        for part in case.plan.lower()
        for table in part.tables
        if table.init.kind == "identity"
    }
    assert used == expected.keys() - frozen


def _outputs(case: Case) -> list[Output]:
    return [output for part in case.plan.lower() for output in part.outputs]


def _fixed_parts(case: Case) -> set[str]:
    """Parts that read one-hot rows: a combine may detach those."""
    lowered = case.plan.lower()
    fixed = {t.name for part in lowered for t in part.tables if t.init.kind == "identity"}
    streams = [stream for part in lowered for stream in part.streams]
    return {
        key for s in streams for key, table in zip(s.parts, s.tables, strict=True) if table in fixed
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck_of_combines(case: Case) -> None:
    generator = torch.Generator().manual_seed(2)
    # The rest drop every id, or have a surrogate in the place of a gradient.
    outputs = [o for o in _outputs(case) if o.inputs[0] and not o.combine.surrogate]
    fixed = _fixed_parts(case)
    checked = 0
    for output in outputs:
        combine = copy.deepcopy(output.combine).double()
        parameters = list(combine.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.uniform_(-1, 1, generator=generator)
        slots = []
        for slot in output.inputs[0]:
            values = torch.rand(5, slot.dim, generator=generator, dtype=torch.float64) - 0.5
            one_hot = slot.parts[0] in fixed
            if one_hot:
                which = torch.randint(slot.dim, (5,), generator=generator)
                values = torch.nn.functional.one_hot(which, slot.dim).double()
            slots.append(values.requires_grad_(not one_hot))

        def run(*inputs: Tensor) -> Tensor:
            return combine(list(inputs[: len(slots)]))  # noqa: B023

        assert torch.autograd.gradcheck(run, (*slots, *parameters))
        checked += 1
    assert checked == len(outputs)


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
