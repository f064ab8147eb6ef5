"""torch.export gives a graph with the same numbers, for other batches than the one it saw."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import CASES, METHODS
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


# An export takes a second or two: one case of each method always, the others in the full run.
RUNS = [
    pytest.param(
        case,
        weighted,
        id=f"{case}-{'weighted' if weighted else 'plain'}",
        marks=[] if case is row.cases[0] and not weighted else [pytest.mark.slow],
    )
    for row in METHODS
    for case in row.cases
    for weighted in ([False, True] if case is row.cases[0] else [False])
]


@pytest.mark.parametrize(("case", "weighted"), RUNS)
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


@pytest.mark.slow
def test_exported_graphs_refuse_what_eager_refuses() -> None:
    """An id past a feature's last would be a row of the next feature."""
    plan = CASES[-1].plan
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
