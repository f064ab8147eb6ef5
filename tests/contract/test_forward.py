"""Outputs equal the slow references, whatever the bags."""

import pytest
import torch

from tests.cases import CASES
from tests.contract.support import (
    Bags,
    assert_near,
    build,
    make_batch,
    reference_outputs,
    weights_of,
)
from tests.methods.base import Case


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("bags", ["single", "multi", "empty"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_equals_reference(case: Case, bags: Bags, weighted: bool) -> None:
    collection = build(case.plan, is_weighted=weighted)
    batch = make_batch(case.plan, bags, weighted=weighted)
    got = collection(batch.kjt())
    expected = reference_outputs(case.plan, weights_of(collection), batch)
    assert got.keys() == list(expected)
    assert got.length_per_key() == [out.shape[1] for out in expected.values()]
    for key, out in expected.items():
        assert_near(got[key].double(), out.detach())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_column_is_constant(case: Case) -> None:
    collection = build(case.plan)
    out = collection(make_batch(case.plan, "single", size=40).kjt()).values().detach()
    left_out = (out == 0).all(0)  # exactly zero for every id: a pruned column
    assert float(out[:, ~left_out].std(dim=0).min()) > 1e-3
    assert not left_out.all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_keys_are_found_by_name(case: Case) -> None:
    collection = build(case.plan)
    batch = make_batch(case.plan, "multi")
    keys = list(batch.bags)
    batch.bags["another"] = [[1] for _ in range(batch.size)]
    expected = collection(batch.kjt(keys))
    got = collection(batch.kjt(["another", *reversed(keys)]))
    assert got.keys() == expected.keys()
    torch.testing.assert_close(got.values(), expected.values(), rtol=0, atol=0)


@pytest.mark.parametrize("bags", ["single", "multi"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_is_the_concatenation_of_its_examples(case: Case, bags: Bags) -> None:
    collection = build(case.plan)
    batch = make_batch(case.plan, bags)
    whole = collection(batch.kjt()).values()
    parts = [collection(batch.example(i).kjt()).values() for i in range(batch.size)]
    assert_near(torch.cat(parts), whole)
