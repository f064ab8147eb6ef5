"""torch.export gives a graph with the same numbers, for other batches than the one it saw."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Plan
from tests.cases import METHODS, mixture
from tests.contract.support import Batch, build, make_batch
from tests.methods.base import Case


class FromTensors(nn.Module):
    """Flat tensors in, one flat tensor out, as a server would call it."""

    def __init__(self, collection: CompressedEmbeddingBagCollection) -> None:
        super().__init__()
        self.collection = collection
        self._keys = [feature.name for feature in collection.plan.features]

    def forward(self, values: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
        batch = KeyedJaggedTensor(keys=self._keys, values=values, lengths=lengths, weights=weights)
        out: Tensor = self.collection(batch).values()
        return out


Arguments = tuple[Tensor, Tensor, Tensor | None]


def arguments(batch: Batch) -> Arguments:
    kjt = batch.kjt()
    return kjt.values(), kjt.lengths(), kjt.weights_or_none()


def exported(module: FromTensors, given: Arguments) -> nn.Module:
    """The graph for any number of ids, and of bags: of 2 or more, as torch takes 1 apart."""
    count = Dim("count", min=0)
    dynamic = {
        "values": {0: count},
        "lengths": {0: Dim.DYNAMIC},
        "weights": None if given[2] is None else {0: count},
    }
    found: nn.Module = torch.export.export(
        module, given, dynamic_shapes=dynamic, strict=False
    ).module()
    return found


def _runs() -> list[Any]:
    """Every case once, plain and weighted by turns; both for a method that has one case.

    An export takes seconds: one of each method always, the others in the full run.
    """
    runs = []
    for row in METHODS:
        turns = [(case, i % 2 == 1) for i, case in enumerate(row.cases)]
        turns += [(row.cases[0], True)] if len(turns) == 1 else []
        for i, (case, weighted) in enumerate(turns):
            name = f"{case}-{'weighted' if weighted else 'plain'}"
            marks = [pytest.mark.slow] if i else []
            runs.append(pytest.param(case, weighted, id=name, marks=marks))
    return runs


@pytest.mark.parametrize(("case", "weighted"), _runs())
def test_export_equals_eager(case: Case, weighted: bool) -> None:
    """Other ids, other numbers of ids and other batch sizes than those of the export."""
    module = FromTensors(build(case.plan, is_weighted=weighted)).eval()
    seen, *others = (
        make_batch(case.plan, bags, weighted=weighted, seed=s, size=size)  # type: ignore[arg-type]
        for s, (bags, size) in enumerate(
            [("multi", 7), ("multi", 7), ("multi", 12), ("single", 3), ("empty", 2)]
        )
    )
    graph = exported(module, arguments(seen))
    for batch in (seen, *others):
        given = arguments(batch)
        torch.testing.assert_close(graph(*given), module(*given), rtol=0, atol=1e-6)


def _traits(plan: Plan) -> set[tuple[bool, bool]]:
    """Of the features: whether ids end somewhere, and whether bags are sums of rows."""
    ends = {feature.name: feature.num_ids is not None for feature in plan.features}
    return {(ends[o.feature], o.combine.linear) for part in plan.lower() for o in part.outputs}


@pytest.mark.slow
def test_exported_graphs_refuse_what_eager_refuses() -> None:
    """An id past a feature's last would be a row of the next feature."""
    cases: list[Case] = []
    for case in (row.cases[0] for row in METHODS):
        if not _traits(case.plan) <= {t for known in cases for t in _traits(known.plan)}:
            cases.append(case)
    plan = mixture("few", cases).plan
    assert [set(kinds) for kinds in zip(*_traits(plan), strict=True)] == [{True, False}] * 2
    module = FromTensors(build(plan)).eval()
    graph = exported(module, arguments(make_batch(plan, "multi")))
    alone = {f: o for part in plan.lower() for o in part.outputs for f in [o.feature]}
    for feature in plan.features:
        bad = [[-1], [2**63 - 1 if feature.num_ids is None else feature.num_ids]]
        for bag in bad if feature.num_ids is not None else bad[:1]:
            batch = make_batch(plan, "single", size=3)
            batch.bags[feature.name][2] = bag
            with pytest.raises(RuntimeError, match="an id is out of range"):
                graph(*arguments(batch))
        if alone[feature.name].combine.linear:
            continue
        batch.bags[feature.name][2] = [0] * (feature.max_bag + 1)
        message = f"feature '{feature.name}' has a bag over {feature.max_bag} ids"
        with pytest.raises(RuntimeError, match=message):
            graph(*arguments(batch))


def test_ids_are_not_checked_where_nobody_asked_for_it() -> None:
    plan = METHODS[0].cases[0].plan
    given = arguments(make_batch(plan, "multi"))
    for check_ids in (True, False):
        graph = exported(FromTensors(build(plan, check_ids=check_ids)), given)
        assert ("an id is out of range" in str(graph.graph)) == check_ids
