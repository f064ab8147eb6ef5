"""Bytes on paper equal bytes allocated; computing them allocates nothing."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    Plan,
    dense_parameters,
    size,
)
from tests.cases import CASES
from tests.contract.support import make_batch
from tests.methods.base import Case

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("engine", ["eager", "fused"])
@each_case
def test_serving_bytes_equal_allocated_bytes(case: Case, engine: str) -> None:
    report = size(case.plan)
    collection = CompressedEmbeddingBagCollection(case.plan, engine=engine)  # type: ignore[arg-type]
    assert report.table_bytes == num_bytes(collection.tables.parameters())
    assert report.aux_bytes == num_bytes(collection.rewrite.buffers())
    assert report.dense_bytes == num_bytes(collection.combine.parameters())
    everything = [*collection.parameters(), *collection.buffers()]
    assert report.serving_bytes == num_bytes(everything)
    assert report.serving_bytes == report.table_bytes + report.aux_bytes + report.dense_bytes


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise_adagrad"])
@each_case
def test_optimizer_bytes_equal_allocated_bytes(case: Case, name: str) -> None:
    optimizer = FusedOptimizer(name=name)  # type: ignore[arg-type]
    fused = CompressedEmbeddingBagCollection(case.plan, engine="fused", optimizer=optimizer)
    report = size(case.plan, optimizer=name, dense_optimizer="sgd")  # type: ignore[arg-type]
    assert report.optimizer_bytes == num_bytes(fused.optimizer_state_dict().values())
    assert report.training_bytes == report.serving_bytes + report.optimizer_bytes


@pytest.mark.parametrize("dense", ["sgd", "adagrad", "adam"])
@each_case
def test_dense_optimizer_bytes_equal_allocated_bytes(case: Case, dense: str) -> None:
    fused = CompressedEmbeddingBagCollection(
        case.plan, engine="fused", optimizer=FusedOptimizer(name="sgd")
    )
    parameters = dense_parameters(fused)
    report = size(case.plan, optimizer="sgd", dense_optimizer=dense)  # type: ignore[arg-type]
    if not parameters:
        assert report.optimizer_bytes == 0
        return
    makers = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
    optimizer = makers[dense](parameters, lr=0.1)
    fused(make_batch(case.plan, "multi").kjt()).values().sum().backward()
    optimizer.step()
    states = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    assert report.optimizer_bytes == num_bytes(s for s in states if isinstance(s, Tensor))


@each_case
def test_groups_add_up(case: Case) -> None:
    report = size(case.plan, case.plan.features)
    assert report.table_bytes == sum(group.table_bytes for group in report.groups)
    assert report.dense_bytes == sum(group.dense_bytes for group in report.groups)
    assert report.aux_bytes == sum(group.aux_bytes for group in report.groups)
    assert [group.features for group in report.groups] == [g.features for g in case.plan.groups]
    assert [group.method for group in report.groups] == [g.config.method for g in case.plan.groups]
    for group, row in zip(case.plan.groups, report.groups, strict=True):
        members = case.plan.group_features(group)
        full = [4 * f.num_ids * f.dim for f in members if f.num_ids is not None]
        assert row.full_bytes == (sum(full) if len(full) == len(members) else None)


@each_case
def test_size_allocates_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    for name in ("empty", "zeros", "ones", "rand", "randn", "full"):
        original = getattr(torch, name)

        def spy(*args, original=original, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal largest
            made = original(*args, **kwargs)
            if made.device.type != "meta":
                largest = max(largest, made.numel())
            return made

        monkeypatch.setattr(torch, name, spy)
    size(case.plan)
    assert largest <= 64


@each_case
def test_size_refuses_other_features(case: Case) -> None:
    first = case.plan.features[0]
    others = (Feature(**(first.model_dump() | {"dim": first.dim + 4})), *case.plan.features[1:])
    with pytest.raises(ValueError, match=f"made for other features: '{first.name}' is Feature"):
        size(case.plan, others)
    with pytest.raises(ValueError, match=f"'{first.name}' is Feature.* and None in the data"):
        size(case.plan, case.plan.features[1:])


def test_size_of_tables_that_fit_nowhere() -> None:
    for case in CASES:
        group = case.plan.groups[0]
        if group.config.method == "full":
            wide = Feature(name="big", num_ids=10**15, dim=64)
            plan = Plan((wide,), (type(group)(("big",), group.config),))
            assert size(plan).table_bytes == 4 * 64 * 10**15
            return
    pytest.skip("no full table in the cases")
