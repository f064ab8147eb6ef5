"""Bytes on paper equal bytes allocated; computing them allocates nothing."""

import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    FusedOptimizer,
    Group,
    Plan,
    dense_parameters,
    full_plan,
    get_method,
    make_plan,
    size,
)
from tests.cases import CASES, METHODS
from tests.contract.support import make_batch
from tests.methods.base import Case

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("engine", ["eager", "fused"])
@each_case
def test_serving_bytes_equal_allocated_bytes(case: Case, engine: str) -> None:
    report = size(case.plan)
    collection = CompressedEmbeddingBagCollection(case.plan, engine=engine)  # type: ignore[arg-type]  # a name
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


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise_adagrad"])
@each_case
def test_lazy_decay_bytes_equal_allocated_bytes(case: Case, name: str) -> None:
    """What the fused engine notes of rows that are behind; the history of rates is no table's."""
    report, plain = (
        size(case.plan, optimizer=name, dense_optimizer="sgd", lazy_decay=lazy)  # type: ignore[arg-type]
        for lazy in (True, False)
    )
    for mode in ("dense_coupled", "dense_decoupled", "touched_rows"):
        optimizer = FusedOptimizer(name=name, weight_decay=0.1, decay_mode=mode)  # type: ignore[arg-type]
        fused = CompressedEmbeddingBagCollection(case.plan, engine="fused", optimizer=optimizer)
        lazy = fused.tables.lazy_decay
        assert (lazy is not None) == (mode != "touched_rows")
        held = 0 if lazy is None else num_bytes(lazy._last)
        expected = plain if lazy is None else report
        states = num_bytes(fused.optimizer_state_dict().values())
        assert expected.optimizer_bytes == states + held, mode
    assert report.serving_bytes == plain.serving_bytes


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


class Largest(TorchDispatchMode):
    """The most elements of a tensor that any operation of torch makes outside of `meta`."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.numel = max(self.numel, tensor.numel())
        return made


def allocated(work: Callable[[], object]) -> tuple[int, int]:
    """Elements of the largest tensor, and the peak of what Python and NumPy allocate, in bytes."""
    with Largest() as largest:
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return largest.numel, peak


@pytest.mark.parametrize("method", [row.method for row in METHODS if get_method(row.method).sized])
def test_size_allocates_nothing(method: str) -> None:
    features = (Feature(name="a", num_ids=10**6, dim=16), Feature(name="b", num_ids=10**5, dim=16))
    counts = {f.name: np.arange(f.num_ids or 0)[::-1] for f in features}
    budget = size(full_plan(features)).serving_bytes
    plan = make_plan(method, features, budget, counts=counts)
    numel, peak = allocated(lambda: size(plan))
    assert numel <= 64
    assert peak < 10**5 < size(plan).table_bytes / 100


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(10**6),
        lambda: torch.tensor([0.0] * 10**6),
        lambda: torch.cat([torch.rand(10)] * 10**5),
        lambda: torch.arange(10**6),
        lambda: np.zeros(10**6),
        lambda: torch.from_numpy(np.ones(10**6)),
        lambda: list(range(10**6)),
    ],
)
def test_allocations_are_noticed(make: Callable[[], object]) -> None:
    numel, peak = allocated(make)
    assert numel > 64 or peak > 10**5


@each_case
def test_size_refuses_other_features(case: Case) -> None:
    first = case.plan.features[0]
    others = (Feature(**(first.model_dump() | {"dim": first.dim + 4})), *case.plan.features[1:])
    with pytest.raises(ValueError, match=f"made for other features: '{first.name}' is Feature"):
        size(case.plan, others)
    with pytest.raises(ValueError, match=f"'{first.name}' is Feature.* and None in the data"):
        size(case.plan, case.plan.features[1:])


def test_size_of_tables_that_fit_nowhere() -> None:
    wide = Feature(name="big", num_ids=10**15, dim=64)
    plan = Plan((wide,), (Group(("big",), FullConfig()),))
    assert size(plan).table_bytes == 4 * 64 * 10**15
