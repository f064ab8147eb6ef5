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

NUM_IDS, DIM = 23, 6


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
    cotangent = torch.rand(12, one.feature.dim) - 0.5
    (out.reshape(12, -1) * cotangent).sum().backward()
    trained = list(weights.leaves.values())
    grads = torch.autograd.grad((expected * cotangent).sum(), trained, allow_unused=True)
    for (name, parameter), grad in zip(layer.named_parameters(), grads, strict=True):
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        want = torch.zeros_like(got).double() if grad is None else grad
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@each_one
def test_bag_equals_reference(one: One, mode: str, weighted: bool) -> None:
    if mode == "max" and weighted:
        return  # refused, see test_bag_arguments_are_checked
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
    assert not torch.allclose(other(ids), expected)
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
    assert float(out[0, 1].abs().max()) > 0.0
    bag = one.layer(CompressedEmbeddingBag, mode="mean", padding_idx=1)
    with_padding = bag(torch.tensor([[0, 1, 1], [1, 1, 1]])).detach()
    assert_near(with_padding[:1], bag(torch.tensor([[0]])).detach())
    assert float(with_padding[1].abs().max()) == 0.0
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


@each_one
def test_materialize_is_the_plain_table(one: One) -> None:
    layer = one.layer(CompressedEmbedding)
    if one.feature.num_ids is None:
        with pytest.raises(ValueError, match="an open vocabulary has no plain table"):
            layer.materialize()  # type: ignore[operator]
    elif one.feature.num_ids < 1000:
        table = layer.materialize()  # type: ignore[operator]
        ids = torch.arange(one.feature.num_ids)
        torch.testing.assert_close(table, layer(ids), rtol=0, atol=0)


# --- with a full table: exactly torch.nn's layers ---------------------------------------------


def _twins(mode: str, **kwargs: object) -> tuple[nn.EmbeddingBag, CompressedEmbeddingBag]:
    plain = nn.EmbeddingBag(NUM_IDS, 8, mode=mode, **kwargs)  # type: ignore[arg-type]
    ours = CompressedEmbeddingBag(NUM_IDS, 8, mode=mode, **kwargs)  # type: ignore[arg-type]
    (weight,) = ours.parameters()
    with torch.no_grad():
        weight.copy_(plain.weight)
    return plain, ours


def _compare(plain: nn.Module, ours: nn.Module, *arguments: Tensor | None) -> None:
    expected, out = plain(*arguments), ours(*arguments)
    assert_near(out, expected)
    cotangent = torch.rand(expected.shape)
    (expected * cotangent).sum().backward()
    (out * cotangent).sum().backward()
    (one,), (two,) = plain.parameters(), ours.parameters()
    assert one.grad is not None
    assert two.grad is not None
    assert_near(two.grad.to_dense(), one.grad.to_dense())


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 0, 3), (0,), (2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("padding", [None, 0, 4, -1])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding_is_nn_embedding(
    shape: tuple[int, ...], padding: int | None, dtype: torch.dtype
) -> None:
    plain = nn.Embedding(NUM_IDS, 8, padding_idx=padding)
    ours = CompressedEmbedding(NUM_IDS, 8, padding_idx=padding)
    (weight,) = ours.parameters()
    with torch.no_grad():
        weight.copy_(plain.weight)
    _compare(plain, ours, torch.randint(NUM_IDS, shape).to(dtype))
    assert (ours.num_embeddings, ours.embedding_dim) == (plain.num_embeddings, plain.embedding_dim)
    assert ours.padding_idx == plain.padding_idx


@pytest.mark.parametrize("padding", [None, 3, -2])
@pytest.mark.parametrize("last", [False, True], ids=["starts", "last_offset"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_with_offsets_is_nn_embedding_bag(mode: str, last: bool, padding: int | None) -> None:
    plain, ours = _twins(mode, include_last_offset=last, padding_idx=padding)
    ids = torch.tensor([3, 3, 1, 21, 3, 0, 22, 5, 21])
    offsets = torch.tensor([0, 2, 2, 6, 9] if last else [0, 2, 2, 6])
    _compare(plain, ours, ids, offsets)


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_with_rows_is_nn_embedding_bag(mode: str, padding: int | None) -> None:
    plain, ours = _twins(mode, padding_idx=padding)
    _compare(plain, ours, torch.tensor([[3, 3, 1], [0, 22, 3], [3, 3, 3], [7, 7, 7]]))


@pytest.mark.parametrize("padding", [None, 3])
def test_weighted_bag_is_nn_embedding_bag(padding: int | None) -> None:
    plain, ours = _twins("sum", padding_idx=padding)
    ids = torch.tensor([3, 3, 1, 21, 3, 0])
    _compare(plain, ours, ids, torch.tensor([0, 2, 2]), torch.randn(6))
    _compare(plain, ours, ids.view(2, 3), None, torch.randn(2, 3))
    one, two = (torch.linspace(-1, 1, 6).requires_grad_() for _ in range(2))
    plain(ids, torch.tensor([0, 2, 2]), one).square().sum().backward()
    ours(ids, torch.tensor([0, 2, 2]), two).square().sum().backward()
    assert one.grad is not None
    assert two.grad is not None
    assert_near(two.grad, one.grad)


def test_sparse_gradients() -> None:
    ours = CompressedEmbedding(NUM_IDS, 8, sparse=True)
    ours(torch.tensor([1, 1, 4])).sum().backward()
    (weight,) = ours.parameters()
    assert weight.grad is not None
    assert weight.grad.is_sparse
    assert weight.grad.coalesce().indices().tolist() == [[1, 4]]


def test_dtype_and_device() -> None:
    ours = CompressedEmbeddingBag(NUM_IDS, DIM, dtype=torch.float64, device="cpu")
    out = ours(torch.tensor([[1, 2], [3, 3]]), None, torch.rand(2, 2, dtype=torch.float64))
    assert out.dtype == torch.float64


def test_bag_arguments_are_checked() -> None:
    bag = CompressedEmbeddingBag(NUM_IDS, 8, mode="sum")
    ids = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="mode must be 'sum', 'mean' or 'max', got 'median'"):
        CompressedEmbeddingBag(NUM_IDS, 8, mode="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must have the shape of input, \(3,\), got \(2,\)"):
        bag(ids, torch.tensor([0]), torch.ones(2))
    with pytest.raises(ValueError, match="input must be 2-D, or 1-D with offsets; got 1-D and off"):
        bag(ids)
    with pytest.raises(ValueError, match="offsets are for a 1-D input"):
        bag(ids.view(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="offsets must start at 0 and never fall"):
        bag(ids, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="offsets must start at 0 and never fall"):
        bag(ids, torch.tensor([0, 2, 1]))
    with pytest.raises(ValueError, match="nor pass the end of input"):
        bag(ids, torch.tensor([0, 7]))
    last = CompressedEmbeddingBag(NUM_IDS, 8, mode="sum", include_last_offset=True)
    with pytest.raises(ValueError, match="the last offset is 2 but input has 3 ids"):
        last(ids, torch.tensor([0, 2]))
    largest = CompressedEmbeddingBag(NUM_IDS, 8, mode="max")
    with pytest.raises(ValueError, match="per_sample_weights are for mode 'sum' and 'mean'"):
        largest(ids, torch.tensor([0]), torch.ones(3))
    with pytest.raises(ValueError, match="padding_idx must be within num_embeddings = 23, got 23"):
        CompressedEmbedding(NUM_IDS, 8, padding_idx=23)


def test_a_layer_returns_one_vector() -> None:
    for row in METHODS:
        for case in row.cases:
            for group in case.plan.groups:
                feature = case.plan.group_features(group)[0]
                if "feature" not in str(group.config.to_dict().get("operation")):
                    continue
                with pytest.raises(ValueError, match="a single layer returns one; choose another"):
                    CompressedEmbedding(feature.num_ids, feature.dim, group.config)


def test_nan_elsewhere_does_not_leak() -> None:
    bag = CompressedEmbeddingBag(NUM_IDS, 8, mode="max")
    with torch.no_grad():
        next(bag.parameters())[5] = torch.nan
    assert torch.isfinite(bag(torch.tensor([[1, 2], [3, 4]]))).all()
