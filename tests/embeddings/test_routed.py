"""Routed plans: bytes of every copy and of the router, round trips, refusals."""

import json
from pathlib import Path

import pytest
import torch

from compactrec.embeddings import (
    RoutedPlan,
    full_plan,
    load_plan,
    size,
)
from compactrec.embeddings.hashing import name_salt, salted_hash
from compactrec.embeddings.routers import (
    FeatureBags,
    LinearRouter,
    LinearRouterConfig,
    build_router,
)
from tests.models.routed import FEATURES, gate_router, routed_plan, shared_plan

K = 3


def allocated(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("shared", [False, True])
def test_round_trip(shared: bool, tmp_path: Path) -> None:
    plan = shared_plan() if shared else routed_plan()
    assert any(part.arrays for part in plan.plans) or shared
    plan.save(tmp_path / "plan.json")
    loaded = load_plan(tmp_path / "plan.json")
    assert isinstance(loaded, RoutedPlan)
    assert loaded == plan
    assert hash(loaded) == hash(plan)
    assert loaded.plans == plan.plans
    assert loaded.columns == plan.columns
    assert loaded.router == plan.router
    assert loaded.methods == plan.methods
    assert size(loaded) == size(plan)
    for name, array in plan.arrays.items():
        assert torch.equal(loaded.arrays[name], array)
    assert json.loads((tmp_path / "plan.json").read_text())["format"] == "compactrec.routed_plan"


def test_a_plan_is_still_a_plan(tmp_path: Path) -> None:
    plan = full_plan(FEATURES)
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def test_other_plans_are_other_plans() -> None:
    plan = routed_plan()
    weight = plan.arrays["weight"].clone()
    weight[0, 0] += 1
    moved = RoutedPlan(plan.plans, plan.router, {**plan.arrays, "weight": weight})
    swapped = RoutedPlan(plan.plans[::-1], plan.router, plan.arrays)
    assert len({plan.digest, moved.digest, swapped.digest, shared_plan().digest}) == 4


def test_every_copy_and_the_router_count() -> None:
    plan = routed_plan()
    report = size(plan)
    each = [size(part) for part in plan.plans]
    router = 4 * K * (plan.router.num_buckets + 1) + 8 * 2  # type: ignore[union-attr]
    assert report.routing_bytes == router + 4 * K
    assert report.serving_bytes == sum(r.serving_bytes for r in each) + report.routing_bytes
    assert report.table_bytes == sum(r.table_bytes for r in each)
    assert report.optimizer_bytes == sum(r.optimizer_bytes for r in each)
    built = build_router(plan.router, plan.features, plan.arrays)
    assert allocated(built) == router


@pytest.mark.parametrize("granularity", ["element", "field", "hierarchical"])
@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_the_gate_router_counts_its_tables(granularity: str, network: str) -> None:
    config, arrays = gate_router(K, granularity=granularity, network=network)
    built = build_router(config, FEATURES, arrays)
    table, aux, dense = config.num_bytes(FEATURES)
    assert table == 4 * 8 * sum(f.num_ids or 0 for f in FEATURES)
    assert allocated(built) == table + aux + dense
    plan = RoutedPlan((full_plan(FEATURES),) * K, config, arrays)
    assert size(plan).routing_bytes == allocated(built) + 4 * K
    assert not any(p.requires_grad for p in built.parameters())


def test_masks_are_what_the_columns_say() -> None:
    plan = shared_plan()
    masks = plan.masks()
    assert masks.shape == (K, 8 * len(FEATURES))
    assert size(plan).routing_bytes == size(routed_plan()).routing_bytes + masks.numel()
    for k, columns in enumerate(plan.columns):
        for i, f in enumerate(FEATURES):
            kept = masks[k, 8 * i : 8 * i + 8].nonzero()[:, 0].tolist()
            assert kept == list(columns.get(f.name, range(8)))


def test_linear_router_is_its_formula() -> None:
    torch.manual_seed(3)
    router = LinearRouter(["a", "c"], torch.randn(16, K), torch.randn(K))
    big = 2**31 + 7
    bags = {"a": [[5, 5, 9], [], [2**24 + 1]], "b": [[1], [2], [3]], "c": [[0], [big], [4]]}
    given = {
        name: FeatureBags(
            torch.tensor([i for bag in of for i in bag]), torch.tensor([len(bag) for bag in of])
        )
        for name, of in bags.items()
    }
    expected = []
    for b in range(3):
        score = router.bias.clone()
        for name in ("a", "c"):
            rows = [
                router.weight[salted_hash(torch.tensor(i), name_salt(name), 16)]
                for i in bags[name][b]
            ]
            if rows:
                score = score + torch.stack(rows).mean(0)
        expected.append(score)
    torch.testing.assert_close(router.scores(given), torch.stack(expected))
    assert router(given).tolist() == torch.stack(expected).argmax(1).tolist()


def test_other_versions_and_damage_are_refused(tmp_path: Path) -> None:
    plan = routed_plan()
    value, arrays = plan.to_json(), plan.all_arrays()
    assert RoutedPlan.from_json(value, arrays) == plan
    with pytest.raises(ValueError, match=r"format and version are \('compactrec.routed_plan', 2\)"):
        RoutedPlan.from_json(value | {"version": 2}, arrays)
    with pytest.raises(ValueError, match=r"lacks the keys \['router'\] and has the unknown keys"):
        RoutedPlan.from_json({k: v for k, v in value.items() if k != "router"}, arrays)
    with pytest.raises(ValueError, match="array 'bias' of the router is missing"):
        RoutedPlan.from_json(value, {k: v for k, v in arrays.items() if k != "router.bias"})
    with pytest.raises(ValueError, match="array 'bias' of the router was changed"):
        RoutedPlan.from_json(value, arrays | {"router.bias": arrays["router.bias"] + 1})
    with pytest.raises(ValueError, match=r"router: .*num_clusters"):
        RoutedPlan.from_json(value | {"router": value["router"] | {"num_clusters": 0}}, arrays)
    (tmp_path / "plan.json").write_text(json.dumps(value | {"format": "compactrec.other"}))
    plan.save(tmp_path / "good.json")
    (tmp_path / "good.json.safetensors").replace(tmp_path / "plan.json.safetensors")
    with pytest.raises(ValueError, match="format and version are"):
        load_plan(tmp_path / "plan.json")


def test_parts_that_do_not_fit_are_refused() -> None:
    plan = routed_plan()
    with pytest.raises(ValueError, match=r"a router to 3 clusters needs a plan for.*got 2 pl"):
        RoutedPlan(plan.plans[:2], plan.router, plan.arrays)
    other = full_plan([f.model_copy(update={"dim": 4}) for f in FEATURES])
    with pytest.raises(ValueError, match="the plan was made for other features"):
        RoutedPlan((*plan.plans[:2], other), plan.router, plan.arrays)
    with pytest.raises(ValueError, match=r"needs the arrays \['bias', 'weight'\], got \['bias'\]"):
        RoutedPlan(plan.plans, plan.router, {"bias": plan.arrays["bias"]})
    with pytest.raises(ValueError, match=r"array 'bias' of the router must be float32 \(3,\)"):
        RoutedPlan(plan.plans, plan.router, plan.arrays | {"bias": torch.zeros(4)})
    router = LinearRouterConfig(num_clusters=K, searched=("a", "z"), num_buckets=16)
    with pytest.raises(ValueError, match=r"features that the plan does not have: \['z'\]"):
        RoutedPlan(plan.plans, router, plan.arrays)
    shared = shared_plan()
    for columns, message in (
        ({"z": (1,)}, "no feature 'z'"),
        ({"a": (2, 1)}, r"columns \[2, 1\] of feature 'a' must be ascending and within 0 .. 7"),
        ({"a": (8,)}, r"columns \[8\] of feature 'a'"),
    ):
        wrong = (shared.columns[0], columns, shared.columns[2])
        with pytest.raises(ValueError, match=f"cluster 1: .*{message}"):
            RoutedPlan(shared.plans, shared.router, shared.arrays, wrong)
    with pytest.raises(ValueError, match="the plan was made for other features"):
        plan.check_features(tuple(f.model_copy(update={"num_ids": 99}) for f in FEATURES))
