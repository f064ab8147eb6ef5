"""The routed model as a whole, for every router and both kinds of tables: states, copies, bytes,
and what a tracer sees of it."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchrec.fx import symbolic_trace
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.model import build_model
from compactrec.embeddings import CompressedEmbeddingBagCollection, RoutedPlan, load_plan, size
from compactrec.models.dlrm import DLRM
from compactrec.models.routed import RoutedModel
from tests.models.routed import CLUSTERS, FEATURES, gate_router, routed_plan, shared_plan
from tests.models.test_routed import NUM_DENSE, config_of, inputs, model_of

ROUTERS = ("linear", "gates-element-linear", "gates-field-mlp", "gates-hierarchical-vectors")
each_engine = pytest.mark.parametrize("engine", ["eager", "fused"])
each_plan = pytest.mark.parametrize(
    "plan_name", [f"{r}-{t}" for r in ROUTERS for t in ("separate", "shared")]
)


def plan_of(name: str) -> RoutedPlan:
    router, tables = name.rsplit("-", 1)
    plan = routed_plan() if tables == "separate" else shared_plan()
    if router == "linear":
        return plan
    options = {
        "gates-element-linear": {"granularity": "element"},
        "gates-field-mlp": {"granularity": "field", "network": "mlp", "hidden_dim": 5},
        "gates-hierarchical-vectors": {"granularity": "hierarchical", "compared": "vectors"},
    }[router]
    config, arrays = gate_router(CLUSTERS, **options)
    centroids = (arrays["centroids"] > 0).float()
    return RoutedPlan(plan.plans, config, {**arrays, "centroids": centroids}, plan.columns)


def ready(name: str, engine: str = "eager") -> RoutedModel:
    """Every weight of order one, and a calibration."""
    model = model_of(plan_of(name), engine=engine)
    model.calibration.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return model.eval()


def fill(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.fill_(0.25)


@each_plan
def test_the_plan_uses_more_than_one_expert(plan_name: str) -> None:
    clusters = ready(plan_name).clusters(inputs()[1])
    assert clusters.unique().numel() > 1


@pytest.mark.parametrize("target", ["eager", "fused"])
@each_engine
@each_plan
def test_state_round_trip(plan_name: str, engine: str, target: str) -> None:
    """The router and the calibration are in the state: a model that was built anew and emptied
    sends every example where the saved one did."""
    first = ready(plan_name, engine)
    dense, bags = inputs()
    expected = first(dense, bags)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ready(plan_name, target)
    fill(second)
    assert not torch.allclose(second(dense, bags), expected)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(second(dense, bags), expected, rtol=0, atol=1e-6)
    assert torch.equal(second.clusters(bags), first.clusters(bags))
    assert list(second.state_dict()) == list(first.state_dict())


@each_plan
def test_a_saved_plan_and_state_are_the_model(plan_name: str, tmp_path: Path) -> None:
    first = ready(plan_name)
    plan_of(plan_name).save(tmp_path / "plan.json")
    second, _ = build_model(config_of(seed=9), load_plan(tmp_path / "plan.json"), NUM_DENSE)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.eval()(*inputs()), first(*inputs()))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@each_engine
@each_plan
def test_copies_are_equal_and_independent(plan_name: str, engine: str, how: str) -> None:
    first = ready(plan_name, engine)
    dense, bags = inputs()
    expected = first(dense, bags).detach().clone()
    second = copy.deepcopy(first) if how == "deepcopy" else pickle.loads(pickle.dumps(first))
    torch.testing.assert_close(second(dense, bags), expected, rtol=0, atol=0)
    if second.shared is not None:
        of_experts = {id(e.embeddings.mask) for e in second.experts}
        assert len(of_experts) == CLUSTERS
    fill(second)
    torch.testing.assert_close(first(dense, bags), expected, rtol=0, atol=0)
    assert not torch.allclose(second(dense, bags), expected)


@each_engine
@each_plan
def test_serving_bytes_equal_allocated_bytes(plan_name: str, engine: str) -> None:
    """Of all that the model holds, but its perceptrons and the places of their inputs."""
    plan = plan_of(plan_name)
    model = ready(plan_name, engine)
    dense_part = {
        id(tensor)
        for expert in model.experts
        if isinstance(expert, DLRM)
        for part in (expert.bottom, expert.top, expert.dots)
        for tensor in [*part.parameters(), *part.buffers()]
    }
    held = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    found = sum(t.numel() * t.element_size() for i, t in held.items() if i not in dense_part)
    assert dense_part
    assert found == size(plan).serving_bytes
    router = sum(
        t.numel() * t.element_size() for t in [*model.router.parameters(), *model.router.buffers()]
    )
    masks = CLUSTERS * sum(f.dim for f in FEATURES) if plan.shared else 0
    assert size(plan).routing_bytes == router + masks + 4 * CLUSTERS


class Whole(nn.Module):
    """A routed model inside another."""

    def __init__(self, model: RoutedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        return self.model(dense, features).sigmoid()


@each_plan
def test_a_trace_takes_it_as_a_leaf_and_its_experts_whole(plan_name: str) -> None:
    """Which examples an expert gets is known only with the batch: no graph holds a routed model."""
    model = ready(plan_name)
    whole = Whole(model)
    traced = symbolic_trace(whole, leaf_modules=["RoutedModel"])
    assert torch.equal(traced(*inputs()), whole(*inputs()))
    with pytest.raises((TypeError, torch.fx.proxy.TraceError)):
        symbolic_trace(whole, leaf_modules=["CompressedEmbeddingBagCollection"])
    if model.shared is not None:
        return
    for expert in model.experts:
        leaf = symbolic_trace(expert, leaf_modules=[CompressedEmbeddingBagCollection.__name__])
        assert torch.equal(leaf(*inputs()), expert(*inputs()))
