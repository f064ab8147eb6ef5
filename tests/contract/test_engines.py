"""The fused engine gives the numbers of the eager one, before and after training steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    FusedOptimizer,
    dense_parameters,
)
from tests.cases import CASES
from tests.contract.support import Bags, Batch, assert_near, build, loss_weights, make_batch
from tests.methods.base import Case

LEARNING_RATE, EPS = 0.02, 1e-4
KINDS = [
    *(("numba", name) for name in ("sgd", "adagrad", "rowwise_adagrad", "adam")),
    *(("fbgemm", name) for name in ("sgd", "adagrad", "rowwise_adagrad")),
]
each_kernel = pytest.mark.parametrize("kernel", ["numba", "fbgemm"])
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def fused_twin(
    eager: CompressedEmbeddingBagCollection,
    name: str = "sgd",
    kernel: str = "auto",
    *,
    is_weighted: bool = False,
) -> CompressedEmbeddingBagCollection:
    """A fused collection with the weights of an eager one."""
    optimizer = FusedOptimizer(name=name, learning_rate=LEARNING_RATE, eps=EPS)  # type: ignore[arg-type]
    fused = CompressedEmbeddingBagCollection(
        eager.plan,
        engine="fused",
        optimizer=optimizer,
        kernel=kernel,  # type: ignore[arg-type]  # a string of the parametrisation
        is_weighted=is_weighted,
    )
    fused.load_state_dict(eager.state_dict())
    return fused


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("bags", ["single", "multi", "empty"])
@each_kernel
@each_case
def test_fused_forward_equals_eager(case: Case, kernel: str, bags: Bags, weighted: bool) -> None:
    eager = build(case.plan, is_weighted=weighted)
    fused = fused_twin(eager, kernel=kernel, is_weighted=weighted)
    batch = make_batch(case.plan, bags, weighted=weighted).kjt()
    one, two = eager(batch), fused(batch)
    assert one.keys() == two.keys()
    assert one.length_per_key() == two.length_per_key()
    assert_near(two.values(), one.values())


def _loss(collection: CompressedEmbeddingBagCollection, batch: Batch) -> Tensor:
    out = collection(batch.kjt()).to_dict()
    cotangents = loss_weights(out)
    # Squares, so that the gradient depends on the weights that the last step left.
    return torch.stack(
        [(out[k] * c.float() + 0.1 * out[k] ** 2).sum() for k, c in cotangents.items()]
    ).sum()


Update = Callable[[Tensor, Tensor, list[Tensor], int, Tensor], None]
"""Weight, gradient, state, step and the rows of the batch."""


def _sgd(weight: Tensor, grad: Tensor, states: list[Tensor], step: int, rows: Tensor) -> None:
    weight -= LEARNING_RATE * grad


def _adagrad(weight: Tensor, grad: Tensor, states: list[Tensor], step: int, rows: Tensor) -> None:
    states[0] += grad**2
    weight -= LEARNING_RATE * grad / (states[0].sqrt() + EPS)


def _rowwise_adagrad(
    weight: Tensor, grad: Tensor, states: list[Tensor], step: int, rows: Tensor
) -> None:
    states[0] += (grad**2).mean(dim=1)
    weight -= LEARNING_RATE * grad / (states[0].sqrt() + EPS)[:, None]


def _adam(weight: Tensor, grad: Tensor, states: list[Tensor], step: int, rows: Tensor) -> None:
    first, second = states
    first[rows] = 0.9 * first[rows] + 0.1 * grad[rows]
    second[rows] = 0.999 * second[rows] + 0.001 * grad[rows] ** 2
    root = (second[rows] / (1 - 0.999**step)).sqrt() + EPS
    weight[rows] -= LEARNING_RATE * first[rows] / (1 - 0.9**step) / root


UPDATES: dict[str, Update] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rowwise_adagrad": _rowwise_adagrad,
    "adam": _adam,
}


def _new_states(weight: Tensor, name: str) -> list[Tensor]:
    shape = weight.shape[:1] if name == "rowwise_adagrad" else weight.shape
    return [torch.zeros(shape) for _ in range({"sgd": 0, "adam": 2}.get(name, 1))]


def _rows(collection: CompressedEmbeddingBagCollection, batch: Batch) -> dict[str, Tensor]:
    """The rows that a batch holds, by table."""
    physical, ids = collection.rewrite(batch.kjt()), collection.rewrite.ids
    found: dict[str, list[Tensor]] = {}
    for key, table in zip(ids.part_keys, ids.part_tables, strict=True):
        found.setdefault(table, []).append(physical[key].values())
    return {table: torch.cat(pieces).unique() for table, pieces in found.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("kernel", "name"), KINDS)
@each_case
def test_five_fused_steps_equal_literal_updates(
    case: Case, kernel: str, name: str, weighted: bool
) -> None:
    eager = build(case.plan, is_weighted=weighted)
    fused = fused_twin(eager, name, kernel, is_weighted=weighted)
    dense = torch.optim.SGD(dense_parameters(fused) or [torch.zeros(1)], lr=LEARNING_RATE)
    states = {n: _new_states(p.detach(), name) for n, p in eager.named_parameters()}
    for step in range(5):
        batch = make_batch(case.plan, "multi", weighted=weighted, size=9, seed=step)
        eager.zero_grad()
        dense.zero_grad()
        loss = _loss(eager, batch)
        loss.backward()
        other = _loss(fused, batch)
        other.backward()
        dense.step()
        assert torch.isfinite(loss)
        torch.testing.assert_close(other, loss, rtol=1e-4, atol=1e-4)
        rows = _rows(eager, batch)
        with torch.no_grad():
            for key, weight in eager.named_parameters():
                if weight.grad is not None and key.startswith("tables."):
                    touched = rows[key.split(".")[2]]
                    UPDATES[name](weight, weight.grad, states[key], step + 1, touched)
                elif weight.grad is not None:
                    _sgd(weight, weight.grad, [], 0, torch.empty(0))
    for key, weight in fused.state_dict().items():
        torch.testing.assert_close(weight, eager.state_dict()[key], rtol=1e-4, atol=1e-5)
    expected = {
        f"{key.split('.')[2]}.momentum{i + 1}": state
        for key, of_weight in states.items()
        if key.startswith("tables.")
        for i, state in enumerate(of_weight)
    }
    kept = fused.optimizer_state_dict()
    steps = {key: kept.pop(key) for key in list(kept) if key.endswith(".step")}
    assert len(steps) == (len(expected) / 2 if name == "adam" else 0)
    assert all(int(step) == 5 for step in steps.values())
    assert set(kept) == set(expected)
    for key, state in kept.items():
        torch.testing.assert_close(state, expected[key], rtol=1e-4, atol=1e-5)


@each_case
def test_training_moves_every_weight(case: Case) -> None:
    fused = fused_twin(build(case.plan), "adagrad")
    before = {k: v.clone() for k, v in fused.state_dict().items()}
    optimizer = torch.optim.SGD(dense_parameters(fused) or [torch.zeros(1)], lr=0.1)
    for seed in range(5):  # a table of few rows of many ids is not in every batch
        optimizer.zero_grad()
        _loss(fused, make_batch(case.plan, "multi", size=40, seed=seed)).backward()
        optimizer.step()
    fixed = {t.name for part in case.plan.lower() for t in part.tables if t.init.kind == "identity"}
    for key, weight in fused.state_dict().items():
        moved = not torch.equal(weight, before[key])
        constant = key.startswith("rewrite.") or key.split(".")[2] in fixed
        assert moved != constant, key


@each_case
def test_dense_parameters_are_all_that_backward_leaves(case: Case) -> None:
    eager = CompressedEmbeddingBagCollection(case.plan)
    fused = CompressedEmbeddingBagCollection(case.plan, engine="fused")
    names = {id(p): n for n, p in fused.named_parameters()}
    assert [names[id(p)] for p in dense_parameters(fused)] == [
        n for n, _ in eager.named_parameters() if n.startswith("combine.")
    ]
    assert len(dense_parameters(eager)) == len(list(eager.parameters()))


@pytest.mark.parametrize(("kernel", "name"), [k for k in KINDS if k[1] != "sgd"])
@each_case
def test_optimizer_state_round_trip(case: Case, kernel: str, name: str) -> None:
    first = fused_twin(build(case.plan), name, kernel)
    batches = [make_batch(case.plan, "multi", seed=seed) for seed in range(2)]
    _loss(first, batches[0]).backward()
    second = fused_twin(first, name, kernel)
    saved = {k: v.clone() for k, v in first.optimizer_state_dict().items()}
    assert any(float(v.max()) > 0 for v in saved.values())
    second.load_optimizer_state_dict(saved)
    for collection in (first, second):
        _loss(collection, batches[1]).backward()
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)
    with pytest.raises(ValueError, match="optimizer state of other tables or another optimizer"):
        second.load_optimizer_state_dict({**saved, "t_no__id.momentum1": torch.zeros(1)})
    key = next(iter(saved))
    with pytest.raises(ValueError, match=f"optimizer state '{key}' has shape"):
        second.load_optimizer_state_dict({**saved, key: torch.zeros(1, 1, 1)})


@each_kernel
@each_case
def test_learning_rate_can_change(case: Case, kernel: str) -> None:
    fused = fused_twin(build(case.plan), "sgd", kernel)
    fused.set_learning_rate(0.0)
    before = {k: v.clone() for k, v in fused.state_dict().items()}
    _loss(fused, make_batch(case.plan, "multi")).backward()
    for key, weight in fused.state_dict().items():
        assert torch.equal(weight, before[key])


@each_case
def test_same_seed_same_initial_weights_in_every_engine(case: Case) -> None:
    found = []
    for engine in ("eager", "fused"):
        torch.manual_seed(5)
        found.append(CompressedEmbeddingBagCollection(case.plan, engine=engine).state_dict())  # type: ignore[arg-type]
    assert list(found[0]) == list(found[1])
    for key, weight in found[0].items():
        assert torch.equal(weight, found[1][key]), key
