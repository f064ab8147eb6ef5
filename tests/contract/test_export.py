"""torch.export gives a graph with the same numbers."""

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import METHODS
from tests.contract.support import build, make_batch
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
    module = FromTensors(build(case.plan, is_weighted=weighted)).eval()
    batches = [make_batch(case.plan, "single", weighted=weighted, seed=s).kjt() for s in (1, 2, 3)]
    arguments = [(b.values(), b.lengths(), b.weights_or_none()) for b in batches]
    exported = torch.export.export(module, arguments[0], strict=False).module()
    for given in arguments:
        torch.testing.assert_close(exported(*given), module(*given), rtol=0, atol=1e-6)
