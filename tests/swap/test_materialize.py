"""materialize: plain tables with the numbers of the compressed ones, for every method."""

import copy
import importlib
import re
from typing import Any

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedEmbeddingBagCollection,
    CompressedEmbeddingCollection,
    Feature,
    FusedOptimizer,
    MixedConfig,
    compress,
    full_plan,
    make_plan,
    materialize,
)
from tests.cases import CASES, needs_hash
from tests.contract.support import assert_near, build, make_batch
from tests.methods.base import Case
from tests.swap.models import METHODS_TO_SWAP, Mixture, one_vector_each
from tests.swap.test_swap import FITTING, planned, swapped


@pytest.mark.parametrize("method", METHODS_TO_SWAP)
def test_back_to_the_model_as_it_was_defined(method: str) -> None:
    model: Any = swapped(method)[0].eval()
    batch = Mixture.batch()
    expected = model(*batch)
    assert materialize(model) is model
    assert (type(model.user), type(model.clicks)) == (nn.Embedding, nn.EmbeddingBag)
    assert type(model.ebc) is EmbeddingBagCollection
    assert type(model.ec) is EmbeddingCollection
    assert_near(model(*batch), expected)
    assert model.clicks.weight is model.candidate.weight
    assert not model.user.training
    served = Mixture().eval()
    served.load_state_dict(model.state_dict())  # strict: the names of the tables are the old ones
    assert_near(served(*batch), expected)
    model(*batch).sum().backward()
    assert model.ebc.embedding_bags["t_items"].weight.grad is not None


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 7])
def test_a_bag_comes_back_with_its_options(mode: Any, last: bool, padding_idx: int | None) -> None:
    sparse = mode != "max"  # of which torch has no sparse gradients
    bag = CompressedEmbeddingBag(
        30, 8, MixedConfig(dims=(4,)), mode=mode, include_last_offset=last,
        padding_idx=padding_idx, sparse=sparse,
    )  # fmt: skip
    ids, offsets = torch.tensor([3, 9, 7, 29, 0, 5]), torch.tensor([0, 2, 3, 6][: 3 + last])
    expected = bag(ids, offsets)
    plain: Any = materialize(bag)
    assert type(plain) is nn.EmbeddingBag
    found = plain(ids, offsets)
    assert_near(found, expected)
    found.sum().backward()
    assert plain.weight.grad.is_sparse == sparse
    assert plain.padding_idx == padding_idx


@pytest.mark.parametrize("need", [False, True])
def test_sequences_come_back_with_their_ids_where_they_had_them(need: bool) -> None:
    plan = full_plan([Feature(name="a", num_ids=50, dim=4), Feature(name="b", num_ids=9, dim=4)])
    plain: Any = materialize(CompressedEmbeddingCollection(plan, need_indices=need))
    assert plain.need_indices() == need
    found = plain(_one_bag({"a": [0, 49, 3], "b": [8]}))
    ids = [sequence.weights_or_none() for sequence in found.values()]
    assert [i if i is None else i.tolist() for i in ids] == (
        [[0, 49, 3], [8]] if need else [None] * 2
    )


@pytest.mark.parametrize("num_ids", [6, 7, 8])
def test_tables_are_computed_by_chunks(num_ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(materialize.__module__)
    monkeypatch.setattr(module, "_CHUNK_FLOATS", 3 * 12)  # three rows of both features
    sizes = {"a": (num_ids, 4), "b": (2, 8)}
    plan = full_plan([Feature(name=k, num_ids=n, dim=dim) for k, (n, dim) in sizes.items()])
    bags = CompressedEmbeddingBagCollection(plan)
    batches = [_one_bag({"a": [i], "b": [i % 2]}) for i in range(num_ids)]
    expected = [bags(batch).values() for batch in batches]
    plain: Any = materialize(bags)
    assert {k: tuple(t.weight.shape) for k, t in plain.embedding_bags.items()} == sizes
    for batch, vectors in zip(batches, expected, strict=True):
        assert_near(plain(batch).values(), vectors)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", FITTING, ids=str)
def test_a_collection_of_every_case(case: Case, weighted: bool) -> None:
    collection = build(case.plan, is_weighted=weighted)
    batch = make_batch(case.plan, "multi", weighted=weighted)
    kjt = batch.kjt()
    expected = collection(kjt)
    if weighted and any(feature.pooling == "mean" for feature in case.plan.features):
        pytest.skip("torch's layers weigh sums alone, so there is nothing to compare with")
    plain: Any = materialize(collection)
    found = plain(kjt)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found.values(), expected.values(), rtol=1e-5, atol=1e-5)


def test_a_fused_collection_in_training() -> None:
    """Rows that no batch held have missed four decays; the plain table must have them."""
    plan = full_plan([Feature(name="a", num_ids=50, dim=4), Feature(name="b", num_ids=9, dim=8)])
    decaying = FusedOptimizer(
        name="sgd", learning_rate=0.1, weight_decay=0.5, decay_mode="dense_decoupled"
    )
    fused = CompressedEmbeddingBagCollection(plan, engine="fused", optimizer=decaying)
    start: Any = materialize(copy.deepcopy(fused))
    for _ in range(4):
        fused(_one_bag({"a": [0, 3], "b": [8]})).values().sum().backward()
    plain: Any = materialize(nn.ModuleDict({"bags": fused}))["bags"]  # type: ignore[index] # a dict
    idle = _one_bag({"a": [1, 2, *range(4, 50)], "b": [*range(8)]})
    assert_near(plain(idle).values(), start(idle).values() * (1 - 0.1 * 0.5) ** 4)


def _one_bag(ids: dict[str, list[int]]) -> KeyedJaggedTensor:
    """One example with a bag for every feature."""
    values = torch.tensor([i for bag in ids.values() for i in bag])
    return KeyedJaggedTensor(list(ids), values, lengths=torch.tensor([*map(len, ids.values())]))


@pytest.mark.parametrize("method", METHODS_TO_SWAP)
def test_optimizers_get_the_plain_tables_where_the_compressed_ones_were(method: str) -> None:
    plan = planned(method).plan
    assert plan is not None
    model = Mixture()
    bags: Any = model.ebc.embedding_bags
    tables = [
        [model.user.weight, model.clicks.weight],
        [bags["t_items"].weight],
        [bags["t_tags"].weight],
    ]
    known = {id(p) for group in tables for p in group}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.Adam(
        [{"params": rest}, *({"params": p, "lr": i} for i, p in enumerate(tables, 2))], lr=0.01
    )
    compress(model, plan, optimizers=[optimizer], report=False)
    model(*Mixture.batch()).sum().backward()
    optimizer.step()
    materialize(model, optimizers=[optimizer])
    bags = model.ebc.embedding_bags
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 2, 3, 4]
    assert set(held[1]) == {id(model.user.weight), id(model.clicks.weight)}
    assert held[2:] == [[id(bags["t_items"].weight)], [id(bags["t_tags"].weight)]]
    assert sorted(i for group in held for i in group) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in optimizer.state} <= {id(p) for p in rest}, "others are replaced"
    before = model.user.weight.detach().clone()
    optimizer.zero_grad()
    model(*Mixture.batch()).sum().backward()
    optimizer.step()
    assert not torch.equal(model.user.weight, before)


def test_a_frozen_table_follows_the_projection_that_trains() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(50, 8), "b": nn.Linear(2, 2)})
    compress(model, {"a": MixedConfig(dims=(4,))}, report=False)
    a: Any = model["a"]
    a.tables.requires_grad_(False)
    slow = torch.optim.SGD(a.tables.parameters(), lr=0.1)
    fast = torch.optim.SGD([*a.combine.parameters(), *model["b"].parameters()], lr=0.1)
    model["penalties"] = held = nn.Identity()
    vars(held)["weights"] = [*a.parameters()]
    materialize(model, optimizers=[slow, fast])
    weight = model["a"].weight
    assert slow.param_groups[0]["params"] == []
    assert [id(p) for p in fast.param_groups[0]["params"]] == [
        id(p) for p in (weight, *model["b"].parameters())
    ]
    assert [id(p) for p in vars(held)["weights"]] == [id(weight)]


@pytest.mark.parametrize("trains", [True, False])
def test_frozen_tables_come_back_frozen(trains: bool) -> None:
    model = Mixture()
    model.requires_grad_(trains)
    model.output.requires_grad_(not trains)
    compress(model, {"_default": MixedConfig(dims=(4,))}, min_num_ids=50, report=False)
    assert type(model.user) is not nn.Embedding
    materialize(model)
    assert type(model.user) is nn.Embedding
    found = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert len(found) == 7
    assert found == {name: name.startswith(("output", "city")) != trains for name in found}


def test_what_cannot_be_materialized_leaves_the_optimizer_as_it_is() -> None:
    layer = CompressedEmbedding(100, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="max_bytes is 3,199"):
        materialize(layer, max_bytes=3199, optimizers=[optimizer])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in layer.parameters()
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"optimizers": torch.optim.SGD([torch.zeros(2)])},
            "optimizers must be a list of optimizers, got SGD; write optimizers=[optimizer]",
        ),
        ({"optimizers": ["x"]}, "optimizers[0] is of type str, which has no param_groups; give"),
        (
            {"max_bytes": "64MB"},
            "max_bytes must be a whole number of bytes, got '64MB'; write 64 MB as 64_000_000, "
            "None is no limit",
        ),
        ({"max_bytes": 1e9}, "max_bytes must be a whole number of bytes, got 1000000000.0; write"),
        ({"max_bytes": True}, "max_bytes must be a whole number of bytes, got True; write 64 MB"),
        (
            {"model": {"a": nn.Linear(2, 2)}},
            "materialize takes a model, a torch.nn.Module, got dict; give it module by module",
        ),
        ({"model": None}, "materialize takes a model, a torch.nn.Module, got NoneType; give it"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        materialize(**{"model": CompressedEmbedding(100, 8), **arguments})


class DistributedDataParallel(nn.Module):
    """Known by the name of its class: making a real one takes processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_wrapped_model_is_told_what_to_materialize() -> None:
    wrapped = DistributedDataParallel(CompressedEmbedding(100, 8))
    for model, where in ((wrapped, "model"), (nn.ModuleDict({"top": wrapped}), "model.top")):
        message = f"parameters already; materialize {where}.module, which is the model inside"
        with pytest.raises(ValueError, match=re.escape(message)):
            materialize(model)
    compiled: Any = torch.compile(CompressedEmbedding(100, 8), backend="eager")
    with pytest.raises(ValueError, match=r"materialize model\._orig_mod, which is the model insid"):
        materialize(compiled)


def test_what_cannot_be_materialized() -> None:
    with pytest.raises(ValueError, match="the model has no compressed tables"):
        materialize(nn.Linear(2, 2))
    layer = CompressedEmbedding(100, 8)
    with pytest.raises(ValueError, match=re.escape("take 3,200 bytes, max_bytes is 3,199; raise")):
        materialize(layer, max_bytes=3199)
    with pytest.raises(ValueError, match="max_bytes must be 0 or more, got -1; write 64 MB as"):
        materialize(layer, max_bytes=-1)
    assert type(materialize(layer, max_bytes=3200)) is nn.Embedding
    plan = full_plan([Feature(name="a", num_ids=50, dim=4), Feature(name="b", num_ids=9, dim=8)])
    sequences = CompressedEmbeddingCollection(plan)
    with pytest.raises(ValueError, match="has one width for all features"):
        materialize(sequences)


def test_an_error_on_the_way_leaves_what_trains_training() -> None:
    """The second collection is refused when the first one is made already."""
    wide = full_plan([Feature(name="a", num_ids=50, dim=4), Feature(name="b", num_ids=9, dim=8)])
    model = nn.ModuleDict(
        {
            "bags": CompressedEmbeddingBagCollection(wide),
            "sequences": CompressedEmbeddingCollection(wide),
            "still": CompressedEmbedding(30, 4).eval(),
        }
    )
    modes = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(ValueError, match="has one width for all features"):
        materialize(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [(torch.float16, 1600), (torch.bfloat16, 1600), (torch.float64, 6400)]
)
def test_bytes_of_plain_tables_are_those_of_their_type(dtype: torch.dtype, num_bytes: int) -> None:
    layer = CompressedEmbedding(100, 8, MixedConfig(dims=(4,)), dtype=dtype)
    message = f"take {num_bytes:,} bytes, max_bytes is {num_bytes - 1:,}; raise"
    with pytest.raises(ValueError, match=message):
        materialize(layer, max_bytes=num_bytes - 1)
    weight: Any = materialize(layer, max_bytes=num_bytes).weight
    assert weight.dtype == dtype
    assert weight.numel() * weight.element_size() == num_bytes


@needs_hash
def test_an_open_vocabulary_has_no_plain_table() -> None:
    plan = make_plan("hash", [Feature(name="a", dim=4)], 4000)
    with pytest.raises(ValueError, match="feature 'a' has an open vocabulary, which has no plain"):
        materialize(CompressedEmbeddingBagCollection(plan))


def test_several_vectors_of_a_feature_are_refused() -> None:
    for case in CASES:
        small = all(f.num_ids is not None and f.num_ids < 10**6 for f in case.plan.features)
        if small and not one_vector_each(case.plan):
            with pytest.raises(ValueError, match="has one vector per feature, but this one makes"):
                materialize(CompressedEmbeddingBagCollection(case.plan))


def test_ties_of_different_padding_are_two_tables() -> None:
    table = nn.Embedding(30, 8, padding_idx=2)
    other = nn.Embedding(30, 8)
    other.weight = table.weight
    model = nn.ModuleDict({"a": table, "b": other})
    compress(model, {"a": MixedConfig(dims=(4,))}, report=False)
    ids = torch.arange(5)
    before = copy.deepcopy(model)
    materialize(model)
    for name in ("a", "b"):
        assert_near(model[name](ids), before[name](ids))
    rows = [int(model[name](ids).any(1).sum()) for name in ("a", "b")]
    assert rows == [4, 5], "one has a row of zeros, the other has all of its rows"
