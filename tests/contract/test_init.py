"""Initial weights: mean and variance within three standard errors of what was asked for."""

import math

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    Plan,
    full_plan,
    make_plan,
    method_names,
    size,
)
from compactrec.embeddings.init import Init, first_init
from tests.cases import CASES
from tests.methods.base import Case


def _three_errors(weights: Tensor, low: float, high: float) -> None:
    """Uniform(low, high): variance w^2 / 12; the variance of (x - mean)^2 is w^4 / 180."""
    width, count = high - low, weights.numel()
    assert float(weights.min()) >= low
    assert float(weights.max()) <= high
    error = width / math.sqrt(12 * count)
    assert abs(float(weights.mean()) - (low + high) / 2) <= 3 * error
    squares = (weights - (low + high) / 2) ** 2
    error = width**2 / math.sqrt(180 * count)
    assert abs(float(squares.mean()) - width**2 / 12) <= 3 * error


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tables_start_as_the_lowering_says(case: Case, engine: str) -> None:
    draws: dict[str, list[Tensor]] = {}
    for seed in range(100, 112):  # tiny tables: more draws make the test sharper
        torch.manual_seed(seed)
        collection = CompressedEmbeddingBagCollection(case.plan, engine=engine)  # type: ignore[arg-type]  # a name
        for name, weight in collection.state_dict().items():
            draws.setdefault(name, []).append(weight.detach().clone().double())
    for part in case.plan.lower():
        for table in part.tables:
            weights = torch.stack(draws[f"tables.embedding_bags.{table.name}.weight"])
            if table.init.kind == "identity":
                assert torch.equal(weights[0], torch.eye(*weights[0].shape, dtype=torch.float64))
                continue
            if table.init.kind == "constant":
                assert (weights == table.init.low).all()
                continue
            assert table.init.kind == "uniform"
            low = -table.init.scale if table.init.low is None else table.init.low
            _three_errors(weights, low, table.init.scale)


def _dense(case: Case) -> dict[str, Tensor]:
    """Dense parameters of a fresh collection, by name."""
    named = CompressedEmbeddingBagCollection(case.plan).named_parameters()
    return {name: p.detach().double() for name, p in named if name.startswith("combine.")}


def _bound(name: str, shapes: dict[str, torch.Size]) -> float:
    """Xavier for a projection; 1 / sqrt(fan in) for both weights and biases of a function."""
    if ".steps." not in name:
        return math.sqrt(6 / sum(shapes[name]))
    weight = name.replace(".bias_", ".weight_")
    return 1 / math.sqrt(shapes[weight][1])


CONSTANTS = {"threshold": 0.0, "alpha": 1.0}
"""Dense parameters of supernets that start at one value."""
DENSE = [case for case in CASES if _dense(case)]


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_dense_parts_start_as_their_layer_does(case: Case) -> None:
    draws: dict[str, list[Tensor]] = {}
    for seed in range(200, 240):  # some hold four weights
        torch.manual_seed(seed)
        for name, values in _dense(case).items():
            draws.setdefault(name, []).append(values)
    shapes = {name: values[0].shape for name, values in draws.items()}
    for name, values in draws.items():
        if (constant := CONSTANTS.get(name.rsplit(".", 1)[1])) is not None:
            assert bool((torch.stack(values) == constant).all())
            continue
        bound = _bound(name, shapes)
        _three_errors(torch.stack(values), -bound, bound)


def test_reset_draws_again() -> None:
    for case in CASES:
        collection = CompressedEmbeddingBagCollection(case.plan)
        before = {name: p.detach().clone() for name, p in collection.named_parameters()}
        collection.reset_parameters()
        same = {n for n, p in collection.named_parameters() if torch.equal(p, before[n])}
        fixed = {
            f"tables.embedding_bags.{table.name}.weight"
            for part in case.plan.lower()
            for table in part.tables
            if table.init.kind in ("identity", "constant")
        }
        fixed |= {name for name in before if name.rsplit(".", 1)[1] in CONSTANTS}
        assert same == fixed


SIZES = {"a": 4000, "b": 2500, "c": 777}


def _vectors(plan: Plan) -> dict[str, Tensor]:
    """Of all ids of a fresh collection."""
    torch.manual_seed(11)
    collection = CompressedEmbeddingBagCollection(plan)
    found = {}
    for name, num_ids in SIZES.items():
        lengths = torch.tensor([[int(other == name)] * num_ids for other in SIZES]).flatten()
        ids = KeyedJaggedTensor.from_lengths_sync([*SIZES], torch.arange(num_ids), lengths)
        found[name] = collection(ids)[name].detach()
    return found


def _features(std: float | None) -> tuple[Feature, ...]:
    return tuple(Feature(name=f, num_ids=n, dim=12, init_std=std) for f, n in SIZES.items())


@pytest.mark.parametrize("name", method_names())
def test_vectors_start_as_their_features_say(name: str) -> None:
    """Behind projections it is the rows that do, and the vectors are about as long."""
    counts = {f: torch.arange(n, 0, -1).numpy() for f, n in SIZES.items()}
    features = _features(1e-3)
    room = size(full_plan(features)).serving_bytes // (1 if name == "full" else 4)
    plan = make_plan(name, features, room, counts=counts)
    assert Plan.from_json(plan.to_json(), plan.arrays) == plan
    assert plan != make_plan(name, _features(None), room, counts=counts)
    vectors = torch.cat([found.unique(dim=0) for found in _vectors(plan).values()])  # rows shared
    assert abs(float(vectors.mean())) < 3e-4
    if size(plan).dense_bytes:
        assert 2e-4 < float(vectors.std()) < 1.5e-3
    else:
        assert float(vectors.std()) == pytest.approx(1e-3, rel=0.2)


def test_features_that_share_a_table_start_alike() -> None:
    features = [Feature(name=n, num_ids=50, dim=8, init_std=s) for n, s in (("a", 0.1), ("b", 0.2))]
    with pytest.raises(ValueError, match=r"start alike, got init_std \{'a': 0.1, 'b': 0.2\}"):
        first_init(features, Init())


def test_kinds_of_init() -> None:
    weight = torch.empty(2000, 8)
    Init(kind="normal", scale=0.3).fn(8)(weight)
    assert abs(float(weight.mean())) <= 3 * 0.3 / math.sqrt(weight.numel())
    assert float(weight.std()) == pytest.approx(0.3, rel=0.02)
    Init(kind="uniform", scale=0.5, low=0.25).fn(8)(weight)
    _three_errors(weight.double(), 0.25, 0.5)
    Init(kind="identity").fn(8)(weight)
    assert float(weight.sum()) == 8.0
    assert torch.equal(weight[:8], torch.eye(8))
    Init(kind="constant", low=-15.0).fn(8)(weight)
    assert bool((weight == -15.0).all())
    with pytest.raises(ValueError, match="scale"):
        Init(scale=-1.0)
