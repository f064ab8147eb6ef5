"""torchrec's symbolic tracer: a collection is a leaf, or is traced down to its three parts."""

import pytest
import torch
from torch import Tensor, nn
from torchrec.fx import symbolic_trace
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import CASES
from tests.contract.support import build, make_batch
from tests.methods.base import Case

PARTS = ["KjtRewrite", "EmbeddingBagCollection", "LogicalCombine"]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


class Model(nn.Module):
    """A collection and a layer on top, as in a pipelined model."""

    def __init__(self, embeddings: CompressedEmbeddingBagCollection) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.top = nn.Linear(sum(c.embedding_dim for c in embeddings.embedding_bag_configs()), 2)

    def forward(self, batch: KeyedJaggedTensor) -> Tensor:
        return self.top(self.embeddings(batch).values()).relu()


LEAVES = ([], PARTS, ["CompressedEmbeddingBagCollection"])


@pytest.mark.parametrize("leaves", LEAVES, ids=len)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@each_case
def test_traced_models_keep_the_numbers(case: Case, weighted: bool, leaves: list[str]) -> None:
    model = Model(build(case.plan, is_weighted=weighted))
    traced = symbolic_trace(model, leaf_modules=leaves)
    called = {n.target for n in traced.graph.nodes if n.op == "call_module"}
    assert ("embeddings" in called) == (leaves == LEAVES[2])
    if leaves == PARTS:
        whole = {f"embeddings.{name}" for name, _ in model.embeddings.named_children()}
        assert called == {"top"} | whole
    for bags, size in (("multi", 7), ("single", 4), ("empty", 1)):
        batch = make_batch(case.plan, bags, weighted=weighted, size=size).kjt()  # type: ignore[arg-type]  # a name
        torch.testing.assert_close(traced(batch), model(batch), rtol=0, atol=0)


@each_case
def test_a_fused_collection_is_a_leaf(case: Case) -> None:
    model = Model(CompressedEmbeddingBagCollection(case.plan, engine="fused"))
    traced = symbolic_trace(model)
    called = {n.target for n in traced.graph.nodes if n.op == "call_module"}
    assert called == {"top", "embeddings"}
    batch = make_batch(case.plan, "multi", size=5).kjt()
    torch.testing.assert_close(traced(batch), model(batch), rtol=0, atol=0)


@each_case
def test_on_meta_there_are_shapes(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, device="meta")
    with torch.device("meta"):
        assert CompressedEmbeddingBagCollection(case.plan).device.type == "meta"
    batch = make_batch(case.plan, "multi", size=5).kjt()
    vectors = collection(batch.to(torch.device("meta")))
    expected = build(case.plan)(batch)
    assert vectors.values().device.type == "meta"
    assert vectors.values().shape == expected.values().shape
    assert (vectors.keys(), vectors.length_per_key()) == (
        expected.keys(),
        expected.length_per_key(),
    )
