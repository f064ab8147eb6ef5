"""What compress refuses, leaves as it is, and says about it."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from compactrec.embeddings import (
    Feature,
    FullConfig,
    Group,
    MixedConfig,
    NoEffectWarning,
    Plan,
    compress,
    plan_swap,
)
from tests.cases import SOME
from tests.swap.models import METHODS_TO_SWAP, Mixture

SMALLER = {"_default": MixedConfig(dims=(4,))}


def notes(model: nn.Module) -> dict[str, str]:
    return {row.names[0]: row.note for row in plan_swap(model, SMALLER).rows}


def test_odd_tables_stay_and_say_why() -> None:
    class Positions(nn.Embedding):
        pass

    hooked = nn.Embedding(30, 8)
    hooked.register_forward_hook(lambda *_: None)
    viewed = nn.Embedding(30, 8)
    model = nn.ModuleDict(
        {
            "renorm": nn.Embedding(30, 8, max_norm=1.0),
            "scaled": nn.EmbeddingBag(30, 8, scale_grad_by_freq=True),
            "subclass": Positions(30, 8),
            "hooked": hooked,
            "viewed": viewed,
            "fine": nn.Embedding(30, 8),
            "head": nn.Linear(8, 30, bias=False),
        }
    )
    head: Any = model["head"]
    head.weight = nn.Parameter(viewed.weight.detach())  # another parameter on the same memory
    assert notes(model) == {
        "renorm": "stays: max_norm=1.0 renorms rows of single ids",
        "scaled": "stays: scale_grad_by_freq scales rows of single ids",
        "subclass": "stays: it is a Positions, which may do more than its base class",
        "hooked": "stays: its module has hooks, which a new one would not have",
        "viewed": "stays: its weight is also head.weight (Linear)",
        "fine": "",
    }


def test_odd_collections_stay_as_a_whole() -> None:
    def table(name: str, *keys: str, dim: int = 8) -> EmbeddingBagConfig:
        return EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=30, feature_names=list(keys)
        )

    two = EmbeddingBagCollection([table("t1", "a"), table("t2", "a")])
    bad = EmbeddingBagCollection([table("t1", "a__b"), table("t2", "c")])
    tied = EmbeddingBagCollection([table("t1", "d", dim=6), table("t2", "e")])
    model = nn.ModuleDict({"two": two, "bad": bad, "tied": tied, "out": nn.Linear(6, 30)})
    out: Any = model["out"]
    out.weight = tied.embedding_bags["t1"].weight
    found = notes(model)
    assert found["two/a"] == (
        "stays: key 'a' reads several tables; give the tables keys of their own"
    )
    assert found["a_b"].startswith("stays: key 'a__b' has '@', '.' or '__'")
    assert found["c"] == found["a_b"]
    assert found["d"] == "stays: its weight is also out.weight (Linear)"
    assert found["e"] == "stays: its collection stays: its weight is also out.weight (Linear)"


def test_nothing_replaced_is_a_warning() -> None:
    with pytest.warns(NoEffectWarning, match="the model has no embedding tables"):
        compress(nn.Linear(3, 3), SMALLER)
    model = nn.Sequential(nn.Embedding(30, 8, max_norm=1.0))
    with pytest.warns(NoEffectWarning, match=r"replaced nothing: 0 stays: max_norm"):
        compress(model, SOME, budget_bytes=10_000)
    with pytest.warns(NoEffectWarning, match="0 stays full"):
        compress(nn.Sequential(nn.Embedding(30, 8)), {"0": FullConfig()})


FULL_BYTES = 4 * (1000 * 8 + 3000 * 12 + 2000 * 8 + 40 * 6 + 1500 * 8)


@pytest.mark.parametrize("method", METHODS_TO_SWAP)
def test_a_budget_that_holds_all_tables_changes_nothing(method: str) -> None:
    model = Mixture()
    before = dict(model.named_parameters())
    message = (
        "replaced nothing: user, clicks, ebc/item, last_item, tag, ec/item stays full: the budget "
        "holds all tables asked for as they are; city stays: its weight is also output.weight"
    )
    with pytest.warns(NoEffectWarning, match=re.escape(message)):
        compress(model, method, budget_bytes=FULL_BYTES)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


def test_a_budget_one_byte_below_all_tables_replaces() -> None:
    assert plan_swap(Mixture(), SOME, budget_bytes=FULL_BYTES - 1).num_replaced


def test_a_budget_that_holds_all_tables_forgives_no_mistake() -> None:
    for method, options in (("magic", {}), (SOME, {"no_such": 1})):
        with pytest.raises(ValueError, match=r"unknown method 'magic'|option no_such"):
            plan_swap(Mixture(), method, budget_bytes=FULL_BYTES, options=options)


@pytest.mark.parametrize(("what", "arguments"), [(SOME, {"budget_bytes": 10}), (SMALLER, {})])
def test_tables_that_are_compressed_already_are_named(what: Any, arguments: dict[str, Any]) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(1000, 8), "m": Mixture().ebc})
    compress(model, SMALLER, report=False)
    with pytest.warns(
        NoEffectWarning, match="nothing: compressed already: user, item, last_item, tag$"
    ):
        compress(model, what, **arguments)
    model["city"] = nn.Embedding(30, 8)
    with pytest.warns(NoEffectWarning, match="city stays full; compressed already: user, item"):
        compress(model, {"city": FullConfig()})


def test_errors_name_what_is_compressed_already() -> None:
    model = nn.ModuleDict({"user": nn.Embedding(1000, 8)})
    plan = plan_swap(model, SMALLER).plan
    assert plan is not None
    compress(model, plan, report=False)
    with pytest.raises(ValueError, match="replaced: user; there are none; compressed already: us"):
        compress(model, plan)
    with pytest.raises(ValueError, match="no table: user; there are none; compressed already: us"):
        compress(model, SMALLER, names=["user"])


def test_an_optimizer_in_the_backward_pass_keeps_its_tables() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(30, 8), "b": nn.Embedding(30, 8)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates parts of its own
        from torch.distributed.optim import _apply_optimizer_in_backward

        _apply_optimizer_in_backward(torch.optim.SGD, model["a"].parameters(), {"lr": 0.1})
    assert notes(model) == {
        "a": "stays: its optimizer is in the backward pass; apply it after compress",
        "b": "",
    }


def plan_of(*groups: tuple[dict[str, tuple[int, int]], Any]) -> Plan:
    features = [
        Feature(name=n, num_ids=rows, dim=dim, pooling="mean" if "item" in n else "sum")
        for members, _ in groups
        for n, (rows, dim) in members.items()
    ]
    return Plan(tuple(features), tuple(Group(tuple(m), config) for m, config in groups))


SMALL = MixedConfig(dims=(4,))


@pytest.mark.parametrize(
    ("what", "arguments", "message"),
    [
        (
            plan_of(({"usr": (1000, 8)}, SMALL)),
            {},
            "which can be replaced: usr; there are user, clicks, ebc/item, last_item, tag, ec/item",
        ),
        (
            plan_of(({"user": (999, 8)}, SMALL)),
            {},
            "feature 'user' has num_ids 999 in the plan and 1000 in the model",
        ),
        (
            Plan((Feature(name="ebc/item", num_ids=2000, dim=8),), (Group(("ebc/item",), SMALL),)),
            {},
            "'ebc/item' has pooling 'sum' in the plan and 'mean' in the model",
        ),
        (
            plan_of(({"ebc/item": (2000, 8)}, SMALL), ({"last_item": (2000, 8)}, SMALL)),
            {},
            "ebc/item, last_item read one table of the model; put them in one group",
        ),
        (
            plan_of(({"user": (1000, 8), "tag": (40, 6)}, SMALL)),
            {},
            "the group of user, tag spans several collections",
        ),
        (SMALLER, {"budget_bytes": 1}, "budget_bytes go with the name of a method"),
        (SOME, {}, f"method '{SOME}' needs budget_bytes; the tables asked for take"),
        (SOME, {"budget_bytes": 10**6, "names": ["usr"]}, "names that match no table: usr; there"),
        (
            SOME,
            {"budget_bytes": 10**6, "names": ["user", "[C"]},
            "'[C' is not a regular expression (unterminated character set at position 0); write "
            "the name of a table, or a pattern such as 'C[0-9]+'",
        ),
        (
            SOME,
            {"budget_bytes": 10},
            f"{SOME}: the budget is 10 bytes, but the smallest plan takes",
        ),
        ({"usr": SMALL}, {}, "rules that match no feature: usr"),
    ],
)
def test_what_does_not_fit_the_model(what: Any, arguments: dict[str, Any], message: str) -> None:
    model = Mixture()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        compress(model, what, **arguments)
    assert state.keys() == model.state_dict().keys()


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="compress takes the name of a method, a Plan, or rules"):
        compress(Mixture(), 3)  # type: ignore[arg-type] # the error is what is tested
    with pytest.raises(TypeError, match=r"rules from names to configs; got None$"):
        compress(Mixture(), None, budget_bytes=4)  # type: ignore[arg-type] # as above
    with pytest.raises(TypeError, match=r"a list of names, got 'user'; write \['user'\]"):
        compress(Mixture(), SMALLER, names="user")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"what": {"user": "hash"}},
            TypeError,
            "the rule 'user' must be a method config, got 'hash'; write one, such as MixedConfig("
            "dims=(4,)) or FullConfig(); or give the name alone: compress(model, 'hash', "
            "budget_bytes=..., names=['user'])",
        ),
        (
            {"what": {"user": 4}},
            TypeError,
            "the rule 'user' must be a method config, got 4; write one, such as MixedConfig(",
        ),
        (
            {"what": SOME, "budget_bytes": "64MB"},
            TypeError,
            "budget_bytes must be a whole number of bytes, got '64MB'; write 4 MB as 4_000_000",
        ),
        (
            {"what": SOME, "budget_bytes": float("inf")},
            TypeError,
            "budget_bytes must be a whole number of bytes, got inf; write 4 MB as 4_000_000",
        ),
        ({"what": SOME, "budget_bytes": -1}, ValueError, "budget_bytes must be 0 or more, got -1"),
        (
            {"what": SMALLER, "min_num_ids": "a"},
            TypeError,
            "min_num_ids must be a whole number, got 'a'; 0 lets tables of any size be replaced",
        ),
        ({"what": SMALLER, "min_num_ids": -4}, ValueError, "min_num_ids must be 0 or more, got -4"),
        (
            {"what": SMALLER, "names": [3]},
            TypeError,
            "names must be a list of names, and 3 in it is of type int; write names of tables or "
            "patterns, as ['C[0-9]+']",
        ),
        (
            {"what": SMALLER, "names": 3},
            TypeError,
            "names must be a list of names, got 3; write ['C[0-9]+']",
        ),
        (
            {"what": SOME, "budget_bytes": 50_000, "options": [1]},
            TypeError,
            "options must be a dict from names to values, got [1]; options are: ",
        ),
        (
            {"what": SMALLER, "max_bags": {"item": 3, "typo": 3}},
            ValueError,
            "max_bags has what is no key of an EmbeddingBagCollection: typo; there are item, "
            "last_item, tag: keys, not tables, and keys of one table share the largest of theirs",
        ),
        (
            {"what": SMALLER, "max_bags": {"item": "3"}},
            TypeError,
            "max_bags['item'] must be a whole number, got '3'; give the most ids that a bag of it",
        ),
    ],
)
def test_wrong_values_are_told_what_is_right(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    for call in (compress, plan_swap):
        with pytest.raises(kind, match=re.escape(message)):
            call(Mixture(), **arguments)


def test_what_is_no_model_and_no_list_of_optimizers() -> None:
    model = Mixture()
    with pytest.raises(
        TypeError, match=r"takes a model, a torch\.nn\.Module, got dict; give it mo"
    ):
        compress({"user": model.user}, SMALLER)  # type: ignore[arg-type] # the error is what is tested
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"list of optimizers, got SGD; write optimizers=\[optim"):
        compress(model, SMALLER, optimizers=optimizer)  # type: ignore[arg-type] # the error is what is tested
    for report in ("x", 1, None):
        message = f"report must be True, False or a function, got {report!r}; a function gets"
        with pytest.raises(TypeError, match=message):
            compress(model, SMALLER, report=report)  # type: ignore[arg-type] # the error is what is tested
    assert type(model.user) is nn.Embedding


def test_max_bags_is_for_collections() -> None:
    layers = nn.ModuleDict({"user": nn.Embedding(900, 8), "item": nn.EmbeddingBag(700, 8)})
    message = "max_bags is for keys of an EmbeddingBagCollection, and the model has none, got item;"
    with pytest.raises(ValueError, match=message):
        compress(layers, SMALLER, max_bags={"item": 3})


def test_an_optimizer_of_another_model_is_named() -> None:
    model, other = Mixture(), Mixture()
    mine = torch.optim.Adagrad(model.parameters(), lr=0.1)
    dense = torch.optim.SGD(model.output.parameters(), lr=0.1)
    strange = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.warns(
        NoEffectWarning, match=r"optimizers\[2\] \(SGD\) holds no parameter of th"
    ) as e:
        compress(model, SMALLER, optimizers=[mine, dense, strange], report=False)
    assert len(e) == 1


def test_rules_names_and_sizes_choose_tables() -> None:
    def methods(**arguments: Any) -> list[str]:
        rows = plan_swap(Mixture(), **arguments).rows
        return [row.names[0] for row in rows if row.method]

    assert methods(what={".*item": SMALL}) == ["ebc/item", "ec/item"]
    assert methods(what={"_default": SMALL, "user": FullConfig()}, min_num_ids=1500) == [
        "clicks",
        "ebc/item",
    ]
    chosen = methods(what=SOME, budget_bytes=50_000, names=["clicks", "ec.item"])
    assert chosen == ["clicks", "ec/item"]


def test_the_table_is_printed_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(1000, 8), "item": nn.Embedding(20, 8)})
    compress(model, {"user": MixedConfig(dims=(4,))})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "table  ids x width  before   after  method  note",
        "user     1,000 x 8  32,000  16,160  mixed",
        "item        20 x 8     640     640  -       stays full",
        "all                 32,640  16,800",
        "tables whose new weights are in no optimizer: 1; make it after compress, or give the one "
        "there is as optimizers=[...]",
    ]
