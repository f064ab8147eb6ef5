"""Plans and configs survive JSON; what does not fit is refused in words."""

import json
from pathlib import Path

import pytest
import torch

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
    all_method_names,
    load_plan,
)
from compactrec.embeddings.registry import config_from_dict, get_method
from tests.cases import CASES, METHODS
from tests.contract.support import build, make_batch
from tests.methods.base import Case

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_the_table_names_every_registered_method() -> None:
    assert [row.method for row in METHODS] == sorted(all_method_names(), key=_row)
    assert all(row.cases for row in METHODS)
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for row in METHODS:
        for case in row.cases:
            assert any(group.config.method == row.method for group in case.plan.groups)


def _row(name: str) -> int:
    return [row.method for row in METHODS].index(name)


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.method)
def test_methods_say_what_they_are(row) -> None:  # type: ignore[no-untyped-def]
    method = get_method(row.method)
    assert method.title
    assert method.formula.startswith("e")
    assert method.paper


@each_case
def test_cases_are_not_degenerate(case: Case) -> None:
    features = case.plan.features
    assert len(features) >= 3
    one_width = case.name.startswith("derived_")  # what a search needs
    assert len({feature.dim for feature in features}) >= (1 if one_width else 2)
    assert len({feature.num_ids for feature in features}) >= 2
    assert max(feature.max_bag for feature in features) > 1


@each_case
def test_config_round_trip(case: Case) -> None:
    for group in case.plan.groups:
        text = json.dumps(group.config.to_dict())
        assert config_from_dict(json.loads(text)) == group.config


@each_case
def test_config_of_another_version_is_refused(case: Case) -> None:
    for group in case.plan.groups:
        fields = group.config.to_dict()
        with pytest.raises(ValueError, match=f"{group.config.method}: config version 99 is"):
            config_from_dict(fields | {"version": 99})
        with pytest.raises(
            ValueError, match=f"{group.config.method}: no_such_knob: there is no such field"
        ):
            config_from_dict(fields | {"no_such_knob": 1})
        with pytest.raises(ValueError, match="unknown method 'no_such': there are full"):
            config_from_dict(fields | {"method": "no_such"})
        with pytest.raises(ValueError, match="a method config needs 'method' and 'version'"):
            config_from_dict({k: v for k, v in fields.items() if k != "version"})


@each_case
def test_configs_are_frozen(case: Case) -> None:
    config = case.plan.groups[0].config
    with pytest.raises(ValueError, match="frozen"):
        config.init = None  # type: ignore[attr-defined]


@each_case
def test_plan_round_trip(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    case.plan.save(path)
    loaded = Plan.load(path)
    assert loaded == case.plan
    assert loaded.features == case.plan.features
    assert loaded.groups == case.plan.groups
    assert loaded.digest == case.plan.digest
    first = build(case.plan)
    second = CompressedEmbeddingBagCollection(loaded)
    second.load_state_dict(first.state_dict())
    batch = make_batch(case.plan, "multi").kjt()
    torch.testing.assert_close(second(batch).values(), first(batch).values(), rtol=0, atol=0)


@each_case
def test_equal_plans_are_equal_and_others_are_not(case: Case) -> None:
    plan = case.plan
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())), plan.arrays)
    assert again == plan
    assert hash(again) == hash(plan)
    seen = [plan]
    for other in (c.plan for c in CASES if c is not case):
        assert other not in seen


@each_case
def test_damaged_plans_are_refused(case: Case, tmp_path: Path) -> None:
    value = case.plan.to_json()
    with pytest.raises(ValueError, match=r"format and version are \('compactrec.plan', 99\)"):
        Plan.from_json(value | {"version": 99}, case.plan.arrays)
    groups = value["groups"][1:]
    first = ", ".join(sorted(value["groups"][0]["features"]))
    with pytest.raises(ValueError, match=f"the plan leaves out features: {first}"):
        Plan.from_json(value | {"groups": groups}, case.plan.arrays)
    with pytest.raises(ValueError, match=f"names features in several groups: {first}"):
        Plan.from_json(value | {"groups": [value["groups"][0], *value["groups"]]}, case.plan.arrays)
    extra = {"features": ["nobody"], "config": value["groups"][0]["config"]}
    with pytest.raises(ValueError, match="names features that do not exist: nobody"):
        Plan.from_json(value | {"groups": [*value["groups"], extra]}, case.plan.arrays)
    lacking = {k: v for k, v in value.items() if k != "groups"} | {"group": []}
    with pytest.raises(
        ValueError, match=r"lacks the keys \['groups'\] and has the unknown keys \['gr"
    ):
        Plan.from_json(lacking, case.plan.arrays)
    for bad in ({"features": [first]}, value["groups"][0] | {"rows": 3}, [first]):
        with pytest.raises(
            ValueError, match="a group needs the keys 'config' and 'features' alone"
        ):
            Plan.from_json(value | {"groups": [bad, *groups]}, case.plan.arrays)
    empty = extra | {"features": []}
    with pytest.raises(ValueError, match=r"a group with config .* names no feature; name one or l"):
        Plan.from_json(value | {"groups": [empty, *value["groups"]]}, case.plan.arrays)
    for name in case.plan.arrays:
        arrays = dict(case.plan.arrays)
        with pytest.raises(ValueError, match=f"array '{name}' of the plan is missing"):
            Plan.from_json(value, {k: v for k, v in arrays.items() if k != name})
        arrays[name] = arrays[name] + 1
        with pytest.raises(ValueError, match=f"array '{name}' of the plan was changed"):
            Plan.from_json(value, arrays)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken.json is not JSON .*expected a plan file"):
        Plan.load(broken)
    broken.write_text("[]")
    with pytest.raises(ValueError, match=r"broken.json is not a plan file: expected a JSON object"):
        Plan.load(broken)


def test_a_plan_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(ValueError, match=r"plan .*plan.json cannot be read \(No such file.*; give"):
        Plan.load(path)
    Plan((Feature(name="a", num_ids=9, dim=4),), (Group(("a",), FullConfig()),)).save(path)
    written = json.loads(path.read_text())
    written["groups"][0]["config"]["inits"] = None
    for value, message in (
        (written, "full: inits: there is no such field; nearest is 'init'"),
        (written | {"features": [{"nam": "a", "num_ids": 9}]}, "plan: feature nam: .* 'name'"),
    ):
        path.write_text(json.dumps(value))
        for load in (Plan.load, load_plan):
            with pytest.raises(ValueError, match=rf"plan.json: {message}"):
                load(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_arrays_are_saved_in_their_type(dtype: torch.dtype, tmp_path: Path) -> None:
    features = (Feature(name="a", num_ids=2, dim=4),)
    array = torch.tensor([3, 0, 255], dtype=dtype)
    plan = Plan(features, (Group(("a",), FullConfig()),), {"map": array})
    plan.save(tmp_path / "plan.json")
    found = Plan.load(tmp_path / "plan.json")
    assert found == plan
    assert found.arrays["map"].dtype == dtype
    assert torch.equal(found.arrays["map"], array)


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (torch.tensor([0.5, 1.0]), "torch.float32, 1-D, contiguous, on cpu"),
        (torch.tensor([0, 1], dtype=torch.int16), "torch.int16, 1-D, contiguous, on cpu"),
        (torch.tensor([True, False]), "torch.bool, 1-D, contiguous, on cpu"),
        (torch.tensor([[0, 1]]), "torch.int64, 2-D, contiguous, on cpu"),
        (torch.arange(4)[::2], "torch.int64, 1-D, not contiguous, on cpu"),
        (torch.arange(2, device="meta"), "torch.int64, 1-D, contiguous, on meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_of_other_kinds_are_refused(array: torch.Tensor, given: str) -> None:
    features = (Feature(name="a", num_ids=2, dim=4),)
    groups = (Group(("a",), FullConfig()),)
    what = "int64, int32 or uint8, 1-D, contiguous and on the CPU"
    message = f"array 'map' must be {what}, got {given}; convert it"
    with pytest.raises(ValueError, match=message):
        Plan(features, groups, {"map": array})
    good = Plan(features, groups, {"map": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match=message):
        Plan.from_json(good.to_json(), {"map": array})
