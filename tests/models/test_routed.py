"""The routed model: every example once, in order; K = 1; shared tables; calibration; training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.calibration import calibrated
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.metrics import auc
from compactrec.benchmarks.model import build_model, click_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.train import train
from compactrec.data.loader import BatchLoader
from compactrec.embeddings import (
    AnyPlan,
    CompressedEmbeddingBagCollection,
    Feature,
    RoutedPlan,
    full_plan,
    load_plan,
    size,
)
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.routers import LinearRouterConfig
from compactrec.models.routed import RoutedModel, bags_of, fit_bias, select_examples
from tests.benchmarks.folder import ROWS
from tests.benchmarks.snapshots import put_back, save
from tests.models.routed import (
    CLUSTERS,
    FEATURES,
    gate_router,
    linear_arrays,
    pruned_plan,
    routed_plan,
    shared_plan,
)
from tests.search.support import batch_of

NUM_DENSE = 3
needs_weights = pytest.mark.parametrize("weighted", [False, True])


def config_of(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": "-", "out": "-", "method": "full", "dim": 8, "bottom": (16,), "top": (16, 1),
        "engine": "eager",
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


def model_of(plan: AnyPlan, **changes: Any) -> RoutedModel:
    """Every weight away from its start and every expert different."""
    model, _ = build_model(config_of(**changes), plan, NUM_DENSE)
    assert isinstance(model, RoutedModel)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.uniform_(-0.7, 0.7)
    return model


def inputs(size: int = 64, seed: int = 1) -> tuple[Tensor, KeyedJaggedTensor]:
    torch.manual_seed(seed)
    return torch.randn(size, NUM_DENSE), batch_of(FEATURES, size, seed)


class Given(nn.Module):
    """A router that answers what it was told."""

    def __init__(self, clusters: Tensor) -> None:
        super().__init__()
        self.register_buffer("answer", clusters)

    def forward(self, bags: object) -> Tensor:
        answer = self.answer
        assert isinstance(answer, Tensor)
        return answer


class Notes(nn.Module):
    """An expert that notes its examples and answers its number times the first dense column."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.seen: list[int] = []

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        assert features.stride() == len(dense)
        self.seen += dense[:, 0].long().tolist()
        return self.number * dense[:, 0]


def test_every_example_goes_to_one_expert_and_comes_back_in_its_place() -> None:
    clusters = torch.tensor([2, 0, 2, 0, 0, 2, 3])
    experts = [Notes(k) for k in range(4)]
    model = RoutedModel(Given(clusters), experts)
    dense = torch.arange(7.0)[:, None]
    logits = model(dense, batch_of(FEATURES, 7))
    assert logits.tolist() == [int(c) * i for i, c in enumerate(clusters)]
    assert sorted(i for e in experts for i in e.seen) == list(range(7))
    assert [e.seen for e in experts] == [[1, 3, 4], [], [0, 2, 5], [6]]
    with pytest.raises(ValueError, match=r"names clusters 0 .. 3, but there are 2 experts"):
        RoutedModel(Given(clusters), experts[:2])(dense, batch_of(FEATURES, 7))


@needs_weights
def test_selected_examples_keep_their_bags(weighted: bool) -> None:
    bags = batch_of(FEATURES, 20, seed=3)
    if weighted:
        weights = torch.rand(bags.values().numel())
        bags = KeyedJaggedTensor(bags.keys(), bags.values(), weights, bags.lengths())
    rows = torch.tensor([1, 4, 5, 13, 19])
    chosen = select_examples(bags, rows)
    assert chosen.stride() == len(rows)
    for f in FEATURES:
        ours, theirs = chosen[f.name], bags[f.name]
        for place, row in enumerate(rows):
            mine = slice(*ours.offsets()[place : place + 2].tolist())
            other = slice(*theirs.offsets()[row : row + 2].tolist())
            assert torch.equal(ours.values()[mine], theirs.values()[other])
            if weighted:
                assert torch.equal(ours.weights()[mine], theirs.weights()[other])


@pytest.mark.parametrize("shared", [False, True])
def test_logits_are_those_of_the_experts_alone(shared: bool) -> None:
    model = model_of(shared_plan() if shared else routed_plan()).eval()
    dense, bags = inputs()
    clusters = model.clusters(bags)
    assert clusters.bincount(minlength=CLUSTERS).min() > 3
    logits = model(dense, bags)
    for b in range(len(dense)):
        one = select_examples(bags, torch.tensor([b]))
        alone = model.experts[int(clusters[b])](
            dense[b : b + 1], one if model.shared is None else model.shared(one)
        )
        torch.testing.assert_close(logits[b], alone[0])


def test_one_cluster_is_one_model_with_a_global_mask() -> None:
    router = LinearRouterConfig(num_clusters=1, searched=("a", "c"), num_buckets=8)
    columns = {"a": (0, 3, 4), "c": (1, 2)}
    plan = pruned_plan(columns)
    routed, _ = build_model(
        config_of(), RoutedPlan((plan,), router, linear_arrays(1, 8)), NUM_DENSE
    )
    masked = RoutedPlan((full_plan(FEATURES),), router, linear_arrays(1, 8), (columns,))
    shared, _ = build_model(config_of(), masked, NUM_DENSE)
    single, _ = build_model(config_of(), plan, NUM_DENSE)
    dense, bags = inputs()
    torch.testing.assert_close(routed(dense, bags), single(dense, bags), rtol=0, atol=0)
    by_mask, _ = build_model(config_of(), full_plan(FEATURES), NUM_DENSE)
    with torch.no_grad():
        for name, kept in columns.items():
            dropped = [k for k in range(8) if k not in kept]
            table = by_mask.embeddings.tables.embedding_bags[f"t_{name}__id"].weight  # type: ignore
            table[:, dropped] = 0.0
    torch.testing.assert_close(shared(dense, bags), by_mask(dense, bags))


def test_shared_tables_equal_separate_ones_that_hold_the_same() -> None:
    from compactrec.embeddings.placing import logical_table, place

    shared, separate = model_of(shared_plan()).eval(), model_of(routed_plan()).eval()
    assert isinstance(shared.shared, CompressedEmbeddingBagCollection)
    tables = {f.name: logical_table(shared.shared, f.name) for f in FEATURES}
    tables["a"][::3] = 0.0  # what the first cluster's plan does not keep
    place(shared.shared, tables)
    for k in range(CLUSTERS):
        place(separate.experts[k].embeddings, tables)  # type: ignore[arg-type]
        own = separate.experts[k].state_dict()
        theirs = shared.experts[k].state_dict()
        own |= {n: t for n, t in theirs.items() if not n.startswith("embeddings.")}
        separate.experts[k].load_state_dict(own)
    dense, bags = inputs()
    torch.testing.assert_close(shared(dense, bags), separate(dense, bags))


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("shared", [False, True])
def test_serving_bytes_equal_allocated_bytes(shared: bool, engine: str) -> None:
    plan = shared_plan() if shared else routed_plan()
    model, collections = build_model(config_of(engine=engine), plan, NUM_DENSE)
    assert len(collections) == (1 if shared else CLUSTERS)
    state = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    perceptrons = [
        p
        for expert in model.experts  # type: ignore[union-attr]
        for part in (expert.bottom, expert.top)
        for p in part.parameters()
    ]
    interaction = [b for e in model.experts for b in e.dots.buffers()]  # type: ignore[union-attr]
    for tensor in [*perceptrons, *interaction]:
        state.pop(id(tensor))
    found = sum(t.numel() * t.element_size() for t in state.values())
    assert found == size(plan).serving_bytes


def test_the_gate_router_goes_where_its_centroids_say() -> None:
    config, arrays = gate_router(CLUSTERS)
    arrays["centroids"] = (torch.rand(CLUSTERS, 16) > 0.5).float()
    plan = RoutedPlan((full_plan(FEATURES),) * CLUSTERS, config, arrays)
    model = model_of(plan)
    _, bags = inputs()
    from compactrec.embeddings.placing import place

    tables = full_plan(FEATURES)
    collection = CompressedEmbeddingBagCollection(tables)
    place(collection, {f.name: arrays[f"table.{f.name}"] for f in FEATURES})
    x = collection(bags).values()
    logits = x @ arrays["gate.layers.0.weight"].T + arrays["gate.layers.0.bias"]
    gates = (logits > 0).float()
    distances = (gates[:, None] - arrays["centroids"]).square().sum(2)
    assert model.clusters(bags).tolist() == distances.argmin(1).tolist()
    assert model.clusters(bags).unique().numel() > 1
    assert bags_of(bags)["a"].weights is None


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_training_moves_the_experts_of_the_batch_alone(shared: bool, engine: str) -> None:
    plan = shared_plan() if shared else routed_plan()
    config = config_of(engine=engine, dense_optimizer="adam")
    model, collections = build_model(config, plan, NUM_DENSE)
    assert isinstance(model, RoutedModel)
    optimizers = Optimizers(model, collections, config)
    dense, bags = inputs(256)
    first = (model.clusters(bags) == 1).nonzero()[:, 0]
    before = {n: t.clone() for n, t in model.state_dict().items()}
    logits = model(dense[first], select_examples(bags, first))
    optimizers.zero_grad()
    nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(len(first))).backward()
    optimizers.step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert {n for n in moved if n.startswith("experts.1.")}
    others = {n for n in moved if not n.startswith("experts.1.")}
    assert all(n.startswith("shared.tables.") for n in others) == shared or not others
    assert not any(n.startswith(("router.", "experts.0.", "experts.2.")) for n in moved)
    if shared:  # columns that this cluster does not see have no gradient
        table = model.state_dict()["shared.tables.embedding_bags.t_a__id.weight"]
        assert torch.equal(table, before["shared.tables.embedding_bags.t_a__id.weight"])


def test_calibration_makes_each_cluster_right_and_is_left_out_of_training() -> None:
    model = model_of(routed_plan()).eval()
    dense, bags = inputs(600)
    clusters = model.clusters(bags)
    torch.manual_seed(0)
    labels = (torch.rand(600) < torch.tensor([0.2, 0.6, 0.9])[clusters]).float()
    raw = model(dense, bags).detach()
    moved = model.calibrate(raw, clusters, labels)
    torch.testing.assert_close(model(dense, bags), moved)
    for k in range(CLUSTERS):
        mine = clusters == k
        rate, predicted = labels[mine].mean(), torch.sigmoid(moved[mine]).mean()
        assert abs(float(rate - predicted)) < 0.03
        assert abs(float(rate - torch.sigmoid(raw[mine]).mean())) > 0.03
    again = model.calibrate(moved, clusters, labels)
    torch.testing.assert_close(again, moved)
    torch.testing.assert_close(model.train()(dense, bags), raw)
    assert "calibration" in model.state_dict()


def test_fit_bias_is_finite_and_minimal() -> None:
    assert fit_bias(torch.zeros(0), torch.zeros(0)) == 0.0
    assert 0 < fit_bias(torch.zeros(5), torch.ones(5)) < 5
    torch.manual_seed(2)
    logits, labels = torch.randn(40), torch.randint(2, (40,)).float()

    def loss(b: float) -> float:
        terms = nn.functional.binary_cross_entropy_with_logits(logits.double() + b, labels.double())
        return float(terms) * 40 + b * b / 2

    best = fit_bias(logits, labels)
    assert all(loss(best) <= loss(best + d) for d in (-0.1, -1e-3, 1e-3, 0.1))


def test_pooled_auc_is_not_the_mean_of_clusters() -> None:
    """Two clusters, each ranked perfectly, on scales apart: only pooling sees it."""
    logits = torch.tensor([3.0, 4.0, -4.0, -3.0]).repeat(50)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat(50)
    clusters = torch.tensor([0, 0, 1, 1]).repeat(50)
    each = [auc(logits[clusters == k], labels[clusters == k]) for k in (0, 1)]
    assert each == [1.0, 1.0]
    assert auc(logits, labels) == 0.75
    model = RoutedModel(Given(clusters), [Notes(0), Notes(1)])
    assert auc(model.calibrate(logits, clusters, labels), labels) > 0.75


def plan_for_folder(shared: bool) -> RoutedPlan:
    from compactrec.embeddings import FullConfig, Group, Plan

    features = tuple(Feature(name=n, num_ids=s, dim=8) for n, s in
                     {"C1": 40, "C2": 7, "C3": 250}.items())  # fmt: skip
    router = LinearRouterConfig(num_clusters=2, searched=("C3",), num_buckets=64)
    arrays = linear_arrays(2, 64)
    if shared:
        columns: tuple[dict[str, tuple[int, ...]], ...] = (
            {"C3": (0, 1)},
            {"C3": (4,), "C1": (2, 5)},
        )
        return RoutedPlan((full_plan(features),), router, arrays, columns)
    plans = []
    for width in (2, 5):
        config, own = pruned_assignment(features[2], None, [range(width)])
        groups = (Group(("C1",), FullConfig()), Group(("C2",), FullConfig()))
        plans.append(Plan(features, (*groups, Group(("C3",), config)), own))
    return RoutedPlan(tuple(plans), router, arrays)


def judged(config: TrainConfig, plan: RoutedPlan) -> tuple[Any, Any, Any]:
    """Logits, labels and clusters of all test rows, by the model that a run kept."""
    from safetensors.torch import load_file

    model, _ = build_model(config, plan, 2)
    assert isinstance(model, RoutedModel)
    model.load_state_dict(load_file(config.out / "model.safetensors"))
    batches = list(BatchLoader(config.data, "test", config.eval_batch_size, shuffle=False))
    with torch.no_grad():
        logits = torch.cat([model.eval()(b.dense, b.kjt()) for b in batches])
        clusters = torch.cat([model.clusters(b.kjt()) for b in batches])
    return logits.numpy(), torch.cat([b.labels for b in batches]).numpy(), clusters.numpy()


@pytest.mark.parametrize("shared", [False, True])
def test_the_training_loop_takes_a_routed_plan_like_any(
    shared: bool, data: Path, tmp_path: Path
) -> None:
    plan = plan_for_folder(shared)
    plan.save(tmp_path / "plan.json")
    config = config_of(
        data=data, out=tmp_path / "run", plan=tmp_path / "plan.json", method=None, engine="fused",
        batch_size=64, epochs=2, eval_batch_size=256, num_threads=1, quiet=True,
        dense_learning_rate=0.005, table_learning_rate=0.1,
    )  # fmt: skip
    result = train(config)
    assert result.method == ("routed" if shared else "pruned+routed")
    assert result.bytes.serving_bytes == size(plan).serving_bytes
    assert load_plan(config.out / "plan.json") == plan
    assert result.validation.auc > 0.6
    assert abs(result.validation.calibration - 1) < 0.02
    assert result.tested.num_rows == ROWS["test"]
    pooled, labels, clusters = judged(config, plan)
    each = [auc(pooled[clusters == k], labels[clusters == k]) for k in (0, 1)]
    assert result.tested.auc == auc(pooled, labels)
    shares = np.bincount(clusters) / ROWS["test"]
    assert min(shares) > 0.1
    for other in (np.mean(each), np.dot(shares, each)):
        assert abs(result.tested.auc - other) > 1e-4, "pooled is not a mean over clusters"
    model, _ = build_model(config, plan, 2)
    assert isinstance(model, RoutedModel)
    from safetensors.torch import load_file

    model.load_state_dict(load_file(config.out / "model.safetensors"))
    assert bool((model.calibration != 0).all())
    loader = BatchLoader(data, "validation", 256, shuffle=False)
    plain = click_model(config, CompressedEmbeddingBagCollection(full_plan(plan.features)), 2)
    logits = np.zeros(700, dtype=np.float32)
    assert calibrated(plain, loader, "cpu", logits, logits) is logits


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_the_optimizers_of_all_experts_go_on_from_their_state(
    tmp_path: Path, shared: bool, engine: str
) -> None:
    plan = shared_plan() if shared else routed_plan()
    config = config_of(engine=engine, dense_optimizer="adam", table_optimizer="adagrad")

    def step(model: nn.Module, optimizers: Optimizers, seed: int) -> None:
        dense, bags = inputs(128, seed)
        optimizers.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(dense, bags), (dense[:, 0] > 0).float()
        )
        loss.backward()
        optimizers.step()

    first, collections = build_model(config, plan, NUM_DENSE)
    ours = Optimizers(first, collections, config)
    step(first, ours, 1)
    step(first, ours, 2)
    save(tmp_path / "c", first, ours)
    step(first, ours, 3)
    second, others = build_model(config, plan, NUM_DENSE)
    theirs = Optimizers(second, others, config)
    put_back(tmp_path / "c", second, theirs)
    step(second, theirs, 3)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name
