"""CompressedEmbedding and CompressedEmbeddingBag, as torch.nn's layers and as the references."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from compactrec.embeddings import CompressedEmbedding, CompressedEmbeddingBag, Feature, MethodConfig
from compactrec.embeddings.contract import Arrays
from tests.cases import METHODS
from tests.contract.support import assert_near
from tests.methods.base import Embed, MethodCases, Weights
from tests.reference.pooling import pool


class One:
    """One feature of one case: what a single layer can be built from."""

    def __init__(self, row: MethodCases, feature: Feature, config: MethodConfig, arrays: Arrays):
        self.row, self.feature, self.config, self.arrays = row, feature, config, arrays

    def __repr__(self) -> str:
        return f"{self.row.method}-{self.feature.name}-{self.feature.dim}"

    def layer(self, kind: type, **kwargs: object) -> nn.Module:
        made: nn.Module = kind(
            self.feature.num_ids,
            self.feature.dim,
            self.config,
            name=self.feature.name,
            arrays=self.arrays,
            **kwargs,
        )
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if name.split(".")[-2] not in self.fixed():
                    weight.uniform_(-1, 1)
        return made

    def fixed(self) -> set[str]:
        from compactrec.embeddings.registry import lower

        tables = lower(self.config, (self.feature,), self.arrays).tables
        return {table.name for table in tables if table.init.kind == "identity"}

    def embed(self, layer: nn.Module) -> tuple[Weights, Embed]:
        tables: dict[str, Tensor] = {}
        dense: dict[str, Tensor] = {}
        leaves: dict[str, Tensor] = {}
        for name, weight in layer.named_parameters():
            leaf = leaves[name] = weight.detach().double().clone().requires_grad_()
            if name.startswith("tables."):
                tables[name.split(".")[2]] = leaf
            else:
                dense[name.split(".", 3)[3]] = leaf
        weights = Weights(tables, {self.feature.name: dense}, leaves)
        found = self.row.reference(self.config, (self.feature,), self.arrays, weights)
        return weights, found[self.feature.name]

    def ids(self, count: int) -> list[int]:
        top = 2**63 - 1 if self.feature.num_ids is None else self.feature.num_ids
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(top, (count,), generator=generator).tolist()
        return [0, top - 1, *ids][:count]


def _ones() -> Iterator[One]:
    for row in METHODS:
        for case in row.cases:
            for group in case.plan.groups:
                features = case.plan.group_features(group)
                config = group.config
                if len(features) > 1 or config.method != row.method:
                    continue
                if "feature" in str(config.to_dict().get("operation")):
                    continue  # several vectors a feature: refused, see below
                if config.to_dict().get("num_tables", 1) > 1:
                    continue
                yield One(row, features[0], config, case.plan.arrays)


ONES = list(_ones())
each_one = pytest.mark.parametrize("one", ONES, ids=repr)


def test_every_method_has_a_layer() -> None:
    covered = {one.row.method for one in ONES}
    assert covered == {row.method for row in METHODS}


@each_one
def test_embedding_equals_reference(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    weights, embed = one.embed(layer)
    ids = one.ids(12)
    expected = torch.stack([embed(i) for i in ids])
    out = layer(torch.tensor(ids).view(2, 3, 2))
    assert out.shape == (2, 3, 2, one.feature.dim)
    assert_near(out.reshape(12, -1).double(), expected.detach())
    if not weights.leaves:  # every id is dropped
        assert not out.requires_grad
        return
    cotangent = torch.rand(12, one.feature.dim) - 0.5
    (out.reshape(12, -1) * cotangent).sum().backward()
    trained = list(weights.leaves.values())
    grads = torch.autograd.grad((expected * cotangent).sum(), trained, allow_unused=True)
    for (name, parameter), grad in zip(layer.named_parameters(), grads, strict=True):
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        want = torch.zeros_like(got).double() if grad is None else grad
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5, msg=name)


# Weights go with sums alone, see test_weights_are_for_sums_as_in_torch.
@pytest.mark.parametrize(
    ("mode", "weighted"), [("sum", False), ("sum", True), ("mean", False), ("max", False)]
)
@each_one
def test_bag_equals_reference(one: One, mode: str, weighted: bool) -> None:
    layer = one.layer(CompressedEmbeddingBag, mode=mode)
    _, embed = one.embed(layer)
    ids = one.ids(9)
    offsets = [0, 3, 3, 4]
    bags = [ids[a:b] for a, b in zip(offsets, [*offsets[1:], 9], strict=True)]
    scale = torch.rand(9) * 2 - 1 if weighted else None
    lists = None
    if scale is not None:
        flat = scale.tolist()
        lists = [flat[a:b] for a, b in zip(offsets, [*offsets[1:], 9], strict=True)]
    expected = pool(embed, bags, lists, mode, dim=one.feature.dim)
    out = layer(torch.tensor(ids), torch.tensor(offsets), scale)
    torch.testing.assert_close(out.double(), expected.detach(), rtol=1e-6, atol=2e-6)


@each_one
def test_layers_survive_copies_pickles_and_state_dicts(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    ids = torch.tensor(one.ids(5))
    expected = layer(ids)
    other = one.layer(CompressedEmbedding)
    assert not list(layer.parameters()) or not torch.allclose(other(ids), expected)
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(ids), expected, rtol=0, atol=0)


@each_one
def test_layer_built_on_meta(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    meta = CompressedEmbedding(
        one.feature.num_ids,
        one.feature.dim,
        one.config,
        name=one.feature.name,
        arrays=one.arrays,
        device="meta",
    )
    assert all(p.is_meta for p in meta.parameters())
    meta.to_empty(device="cpu")
    meta.load_state_dict(layer.state_dict())
    ids = torch.tensor(one.ids(5))
    torch.testing.assert_close(meta(ids), layer(ids), rtol=0, atol=0)


@each_one
def test_padding_gives_zeros_and_no_gradient(one: One) -> None:
    layer = one.layer(CompressedEmbedding, padding_idx=1)
    out = layer(torch.tensor([[1, 0], [1, 1]])).detach()
    assert float(out[0, 0].abs().max()) == 0.0
    assert float(out[1].abs().max()) == 0.0
    plain = one.layer(CompressedEmbedding)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(out[0, 1], plain(torch.tensor([0]))[0].detach())
    bag = one.layer(CompressedEmbeddingBag, mode="mean", padding_idx=1)
    with_padding = bag(torch.tensor([[0, 1, 1], [1, 1, 1]])).detach()
    assert_near(with_padding[:1], bag(torch.tensor([[0]])).detach())
    assert float(with_padding[1].abs().max()) == 0.0
    if not list(layer.parameters()):  # every id is dropped
        return
    layer(torch.tensor([1])).sum().backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in layer.parameters())


@each_one
def test_layer_refuses_ids_out_of_range(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    with pytest.raises(ValueError, match=f"id -1 of feature '{one.feature.name}' is out of range"):
        layer(torch.tensor([0, -1]))
    if one.feature.num_ids is not None:
        with pytest.raises(ValueError, match=f"id {one.feature.num_ids} of feature"):
            layer(torch.tensor([one.feature.num_ids]))


@pytest.mark.parametrize(
    "one", [one for one in ONES if one.feature.num_ids and one.feature.num_ids <= 10**5], ids=repr
)
def test_materialize_is_the_plain_table(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    table = layer.materialize()  # type: ignore[operator]
    ids = torch.arange(one.feature.num_ids or 0)
    torch.testing.assert_close(table, layer(ids), rtol=0, atol=0)


@pytest.mark.parametrize("one", [one for one in ONES if one.feature.num_ids is None], ids=repr)
def test_open_vocabularies_do_not_materialize(one: One) -> None:
    with pytest.raises(ValueError, match="an open vocabulary has no plain table"):
        one.layer(CompressedEmbedding).materialize()  # type: ignore[operator]


def test_a_layer_returns_one_vector() -> None:
    for row in METHODS:
        for case in row.cases:
            for group in case.plan.groups:
                feature = case.plan.group_features(group)[0]
                if "feature" not in str(group.config.to_dict().get("operation")):
                    continue
                with pytest.raises(ValueError, match="a single layer returns one; choose another"):
                    CompressedEmbedding(feature.num_ids, feature.dim, group.config)
