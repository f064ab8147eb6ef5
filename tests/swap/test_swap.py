"""compress: what it finds, what it keeps, what it says; every method, on layers and collections."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType

from compactrec.embeddings import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedEmbeddingBagCollection,
    Group,
    MixedConfig,
    Plan,
    SwapReport,
    compress,
    materialize,
    plan_swap,
)
from tests.cases import CASES
from tests.contract.support import assert_near
from tests.methods.base import Case
from tests.swap.models import METHODS_TO_SWAP, Mixture, counts_of, num_bytes, one_vector_each

each_method = pytest.mark.parametrize("method", METHODS_TO_SWAP)
SMALL = 200_000
BUDGET = 90_000


@functools.cache
def planned(method: str) -> SwapReport:
    """A swap of a mixture within the budget."""
    return plan_swap(
        Mixture(),
        method,
        budget_bytes=BUDGET,
        counts=counts_of(Mixture.SIZES),
        min_num_ids=50,
        max_bags={"item": 3, "last_item": 3},
    )


def swapped(method: str) -> tuple[nn.Module, SwapReport]:
    """A mixture within the budget, and the report."""
    reports: list[SwapReport] = []
    plan = planned(method).plan
    assert plan is not None
    made = compress(Mixture(), plan, report=reports.append)
    return made, reports[0]


def test_small_tables_that_shrink_are_named() -> None:
    model = nn.ModuleDict({n: nn.Embedding(k, 8) for n, k in (("a", 7), ("b", 200), ("c", 201))})
    rules = {"a|b|c": MixedConfig(dims=(4,))}
    ending = "of 200 ids or fewer: b; min_num_ids=200 keeps such tables full"
    assert f"made smaller, though {ending}" in str(plan_swap(model, rules))  # a grows
    assert "made smaller" not in str(plan_swap(model, rules, names=["a", "c"]))


@each_method
def test_bytes_are_as_planned_and_within_the_budget(method: str) -> None:
    rest = num_bytes(Mixture()) - plan_swap(Mixture(), {}).before_bytes
    model, report = swapped(method)
    city = report.rows[-1]
    assert num_bytes(model) - rest == report.after_bytes
    assert report.after_bytes - city.after_bytes <= BUDGET < report.before_bytes
    assert report.num_replaced == 4
    assert report.plan is not None
    assert report.rows == planned(method).rows


@each_method
def test_every_kind_of_table_gets_its_module_and_trains(method: str) -> None:
    model, _ = swapped(method)
    assert isinstance(model, Mixture)
    kinds = [type(m).__name__ for m in (model.user, model.clicks, model.candidate, model.ebc)]
    expected = (CompressedEmbedding, CompressedEmbeddingBag, CompressedEmbedding)
    assert kinds == [*(e.__name__ for e in expected), "CompressedEmbeddingBagCollection"]
    assert type(model.ec).__name__ == "CompressedEmbeddingCollection"
    assert type(model.city) is nn.Embedding
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ids, kjt = Mixture.batch()
    target = torch.rand(5, 87)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (model(ids, kjt) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@each_method
def test_ties_and_padding_hold(method: str) -> None:
    model: Any = swapped(method)[0]
    ids = torch.arange(24)
    one_each = model.clicks(ids[:, None])
    assert torch.equal(one_each, model.candidate(ids))
    assert {id(p) for p in model.clicks.parameters()} == {
        id(p) for p in model.candidate.parameters()
    }
    assert not model.user(torch.tensor([0])).any()
    assert not model.clicks(torch.tensor([[2999]])).any()
    assert model.city.weight is model.output.weight
    vectors = model.ebc(Mixture.batch()[1])
    assert vectors.keys() == ["item", "last_item", "tag"]
    same = KeyedJaggedTensor(
        ["item", "last_item", "tag"],
        torch.cat([ids, ids, ids]),
        lengths=torch.ones(72, dtype=torch.long),
    )
    vectors = model.ebc(same)
    assert torch.equal(vectors["item"], vectors["last_item"])


@each_method
def test_state_goes_to_another_swap_of_the_same_plan(method: str) -> None:
    model, report = swapped(method)
    assert report.plan is not None
    other = compress(Mixture(), report.plan, report=False)
    batch = Mixture.batch()
    assert not torch.equal(model(*batch), other(*batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*batch), other(*batch))


def test_full_tables_keep_their_weights_and_their_parameters() -> None:
    model = Mixture()
    plain = copy.deepcopy(model)
    item = model.ebc.embedding_bags["t_items"].weight
    ids, kjt = Mixture.batch()
    seen: list[SwapReport] = []
    compress(model, {"tag": MixedConfig(dims=(2,))}, report=seen.append)
    assert [row.method for row in seen[0].rows] == ["", "", "", "mixed", "", ""]
    assert type(model.user) is nn.Embedding
    assert torch.equal(model.user(ids), plain.user(ids))
    assert any(parameter is item for parameter in model.ebc.parameters())
    assert_near(model.ebc(kjt)["item"], plain.ebc(kjt)["item"])
    narrow = copy.deepcopy(plain)
    compress(narrow, {"ebc/item": MixedConfig(dims=(4,))}, report=False)
    # Width 6 is stored two rows in one: another parameter, the same weights.
    assert torch.equal(narrow.ebc(kjt)["tag"], plain.ebc(kjt)["tag"])
    assert not torch.equal(narrow.ebc(kjt)["item"], plain.ebc(kjt)["item"])


class PerFeature(nn.Module):
    """A layer for every feature of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.of = nn.ModuleDict(
            {f.name: nn.Embedding(f.num_ids or 1, f.dim, padding_idx=None) for f in plan.features}
        )


def renamed(plan: Plan) -> Plan:
    """The plan over the layers of ``PerFeature``."""
    name = {f.name: f"of/{f.name}" for f in plan.features}
    return Plan(
        tuple(f.model_copy(update={"name": name[f.name]}) for f in plan.features),
        tuple(Group(tuple(name[n] for n in g.features), g.config) for g in plan.groups),
        plan.arrays,
    )


def fits(case: Case) -> bool:
    """True where plain tables of the features fit into a test, and every one has one vector."""
    small = all(f.num_ids is not None and f.num_ids <= SMALL for f in case.plan.features)
    return small and one_vector_each(case.plan)


FITTING = [case for case in CASES if fits(case)]


def test_the_case_table_is_mostly_covered() -> None:
    covered = {name for case in FITTING for name in case.plan.methods}
    assert {name for case in CASES for name in case.plan.methods} - covered <= {"unified", "hash"}
    assert len(FITTING) > len(CASES) / 2


@pytest.mark.parametrize("case", [c for c in FITTING if c.plan.methods != {"full"}], ids=str)
def test_layers_of_a_plan_equal_its_collection(case: Case) -> None:
    model = PerFeature(case.plan)
    plan = renamed(case.plan)
    seen: list[SwapReport] = []
    compress(model, plan, report=seen.append)
    collection = CompressedEmbeddingBagCollection(plan)
    assert num_bytes(model) == seen[0].after_bytes
    theirs = dict(collection.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _, feature, key = name.split(".", 2)
            if key == "weight":  # stayed full: narrow rows lie in one physical row, flat as here
                stored = theirs[f"tables.embedding_bags.t_of/{feature}__id.weight"]
                stored.view(-1)[: parameter.numel()] = parameter.view(-1)
            elif key in theirs:
                theirs[key].copy_(parameter)
    for member in plan.features:
        layer = model.of[member.name.removeprefix("of/")]
        assert member.num_ids is not None
        ids = torch.randint(member.num_ids, (7,))
        lengths = [torch.full((7,), int(f is member)) for f in plan.features]
        batch = KeyedJaggedTensor(
            [f.name for f in plan.features], ids, lengths=torch.cat(lengths), stride=7
        )
        assert_near(layer(ids), collection(batch)[member.name])


def test_device_dtype_mode_and_frozen_weights_are_kept() -> None:
    model = nn.ModuleDict(
        {"a": nn.Embedding(50, 8, dtype=torch.float64), "b": nn.EmbeddingBag(60, 8, device="meta")}
    )
    model["c"] = nn.EmbeddingBag(70, 8, mode="max", include_last_offset=True).requires_grad_(False)
    model.eval()
    seen: list[SwapReport] = []
    compress(model, {"_default": MixedConfig(dims=(4,))}, report=seen.append)
    assert num_bytes(model) == seen[0].after_bytes
    assert {p.dtype for p in model["a"].parameters()} == {torch.float64}
    assert model["a"](torch.tensor([3])).dtype == torch.float64
    assert {p.device.type for p in model["b"].parameters()} == {"meta"}
    assert not any(p.requires_grad for p in model["c"].parameters())
    assert all(p.requires_grad for p in model["a"].parameters())
    assert not any(module.training for module in model.modules())
    bag: Any = model["c"]
    assert (bag.mode, bag.include_last_offset) == ("max", True)
    assert seen[0].rows[2].note == "was frozen: its new weights are untrained"


def test_half_precision_collections_keep_their_tables_in_half() -> None:
    def table(name: str, num_ids: int) -> EmbeddingBagConfig:
        return EmbeddingBagConfig(
            name=f"t_{name}",
            embedding_dim=8,
            num_embeddings=num_ids,
            feature_names=[name],
            data_type=DataType.FP16,
        )

    model = nn.ModuleDict({"ebc": EmbeddingBagCollection([table("a", 300), table("b", 50)])})
    seen: list[SwapReport] = []
    compress(model, {"a": MixedConfig(dims=(4,))}, report=seen.append)
    assert num_bytes(model) == seen[0].after_bytes
    dtypes = {name.split(".")[1]: p.dtype for name, p in model.named_parameters()}
    assert dtypes == {"tables": torch.float16, "combine": torch.float32}
    lengths = torch.tensor([2, 0, 1, 1])
    batch = KeyedJaggedTensor(["a", "b"], torch.tensor([7, 299, 4, 49]), lengths=lengths)
    vectors = model["ebc"](batch).values()
    vectors.sum().backward()
    assert (vectors.shape, vectors.dtype) == ((2, 16), torch.float32)
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="the plain tables take 5,600 bytes, max_bytes is 5,599"):
        materialize(model, max_bytes=5_599)
    materialize(model, max_bytes=5_600)
    collection: Any = model["ebc"]
    assert [c.data_type for c in collection.embedding_bag_configs()] == [DataType.FP16] * 2
    assert num_bytes(model) == 5_600
    torch.testing.assert_close(collection(batch).values(), vectors, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif("unified" not in METHODS_TO_SWAP, reason="no other method shares tables")
def test_collections_of_several_types_share_no_table() -> None:
    types = {"a": DataType.FP16, "b": DataType.FP32, "c": DataType.FP32}
    model = nn.ModuleDict({"ebc": EmbeddingBagCollection([
        EmbeddingBagConfig(
            name=f"t_{n}", embedding_dim=8, num_embeddings=300, feature_names=[n], data_type=of
        )
        for n, of in types.items()
    ])})  # fmt: skip
    before = {name: p.dtype for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"share memory but are torch.float16 on cpu and torch.fl"):
        compress(model, "unified", budget_bytes=9_000, min_num_ids=0)
    assert {name: p.dtype for name, p in model.named_parameters()} == before


def test_what_the_model_holds_in_lists_and_dicts_is_exchanged() -> None:
    class Regular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(30, 8), nn.Embedding(40, 8)
            self.penalties = [([self.a.weight, self.b.weight], 0.1), [("a", self.a.weight)]]
            self.by_name = {"a": self.a, "n": [1, 1, 2]}

    model = Regular()
    kept = model.b.weight
    compress(model, {"a": MixedConfig(dims=(4,))}, report=False)
    new = list(model.a.parameters())
    assert [id(p) for p in model.penalties[0][0]] == [id(p) for p in [*new, kept]]
    assert [id(pair[1]) for pair in model.penalties[1]] == [id(p) for p in new]
    assert model.by_name["a"] is model.a
    assert model.by_name["n"] == [1, 1, 2]


def test_a_module_under_two_names_is_replaced_under_both() -> None:
    model = nn.ModuleDict({"x": nn.Embedding(50, 8)})
    model["y"] = nn.Sequential(model["x"])
    compress(model, {"x": MixedConfig(dims=(4,))}, report=False)
    assert isinstance(model["x"], CompressedEmbedding)
    assert model["y"][0] is model["x"]


def test_a_table_by_itself_is_returned() -> None:
    table = nn.Embedding(50, 8)
    made = compress(table, {"table": MixedConfig(dims=(4,))}, report=False)
    assert isinstance(made, CompressedEmbedding)
