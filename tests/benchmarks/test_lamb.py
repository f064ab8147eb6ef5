"""LAMB and AMSGrad: the literal reference, what LAMB's step does not depend on, and zeros."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.lamb import Lamb
from compactrec.benchmarks.lazy_adam import LazyAdam
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.embeddings import full_plan, size
from tests.benchmarks.test_optimizers import FEATURES, build, plan, step, weights
from tests.reference.lamb import lamb_step

ROWS = torch.tensor([4, 0, 2])


def gradients(num: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(shape, generator=generator) for _ in range(num)]


def trained(start: Tensor, steps: list[Tensor], rows: Tensor | None, **options: Any) -> Tensor:
    weight = nn.Parameter(start.clone())
    optimizer = Lamb([weight], 0.1, by_row=rows is not None, **options)
    for gradient in steps:
        weight.grad = gradient.clone()
        if rows is not None:
            optimizer.set_rows({id(weight): rows})
        optimizer.step()
    return weight.detach()


def literal(row: Tensor, steps: list[Tensor], eps: float, decay: float) -> Tensor:
    values = row.flatten().tolist()
    first, second = [0.0] * len(values), [0.0] * len(values)
    for time, gradient in enumerate(steps, 1):
        lamb_step(values, first, second, gradient.flatten().tolist(), time, 0.1, eps, decay)
    return torch.tensor(values).view(row.shape)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("width", [6, 1])
def test_tables_by_row_and_weights_by_tensor_equal_the_reference(width: int, decay: float) -> None:
    steps = gradients(7, (5, width))
    start = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    options = {"eps": 1e-3, "weight_decay": decay}
    whole = trained(start, steps, None, **options)
    torch.testing.assert_close(whole, literal(start, steps, 1e-3, decay), rtol=1e-4, atol=1e-5)
    by_row = trained(start, steps, ROWS, **options)
    for row in range(5):
        expected = literal(start[row], [g[row] for g in steps], 1e-3, decay)
        if row not in ROWS:
            expected = start[row]
        torch.testing.assert_close(by_row[row], expected, rtol=1e-4, atol=1e-5)
    alone = [g[:1] for g in steps]  # a table of one row is a tensor
    of_table = trained(start[:1], alone, torch.tensor([0]), **options)
    torch.testing.assert_close(of_table, trained(start[:1], alone, None, **options))


@pytest.mark.parametrize("rows", [None, ROWS], ids=["tensor", "rows"])
def test_a_step_has_the_length_of_the_weights_whatever_the_gradients(rows: Tensor | None) -> None:
    start = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    steps = gradients(4, (5, 6))
    first, second = (
        trained(start, [g * scale for g in steps], rows, eps=1e-30) for scale in (1.0, 1e4)
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    moved = trained(start, steps[:1], rows) - start
    if rows is None:
        torch.testing.assert_close(moved.norm(), 0.1 * start.norm())
    else:
        torch.testing.assert_close(moved[rows].norm(dim=1), 0.1 * start[rows].norm(dim=1))


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 1])], ids=["tensor", "rows"])
@pytest.mark.parametrize("shape", [(2, 6), (2, 1)])
def test_zeros_move_and_give_no_nan(rows: Tensor | None, shape: tuple[int, ...]) -> None:
    steps = gradients(3, shape)
    for gradient in steps:
        gradient[1] = 0
    end = trained(torch.zeros(shape), steps, rows)
    assert bool(end.isfinite().all())
    assert bool((end[0] != 0).all())
    assert bool((end[1] == 0).all())


def test_amsgrad_on_every_row_is_that_of_torch() -> None:
    ours, theirs = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    own = LazyAdam([ours], 0.1, 1e-4, amsgrad=True)
    torchs = torch.optim.Adam([theirs], 0.1, eps=1e-4, amsgrad=True)
    plain = nn.Parameter(torch.ones(3, 4))
    adam = LazyAdam([plain], 0.1, 1e-4)
    for number, gradient in enumerate(gradients(400, (3, 4))):
        for weight, optimizer in ((ours, own), (theirs, torchs), (plain, adam)):
            weight.grad = gradient * (
                3.0 if number == 2 else 1.0 if number < 9 else 0.1
            )  # one that is not forgotten
            if isinstance(optimizer, LazyAdam):
                optimizer.set_rows({id(weight): torch.arange(3)})
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["adam", "amsgrad", "lamb"])
def test_bytes_of_state_are_those_that_a_plan_is_said_to_take(name: str) -> None:
    model, optimizers = build("eager", table_optimizer=name)
    step(model, optimizers, 1)
    tables = optimizers.stepped[1]
    states = [t for state in tables.state.values() for k, t in state.items() if k != "step"]
    report = size(plan(), optimizer=name)  # type: ignore[arg-type]  # a name
    assert report.optimizer_bytes == sum(t.nbytes for t in states)


@pytest.mark.parametrize("name", ["amsgrad", "lamb"])
def test_first_order_weights_are_trained_too(name: str) -> None:
    features = tuple(f.model_copy(update={"dim": 1}) for f in FEATURES)
    config = TrainConfig.model_validate(
        {
            "data": Path(), "out": Path(), "method": "full", "engine": "eager", "model": "lr",
            "table_optimizer": name, "dense_optimizer": name, "dense_learning_rate": 0.1,
        }
    )  # fmt: skip
    model, embeddings = build_model(config, full_plan(features), num_dense=3)
    optimizers = Optimizers(model, embeddings, config)
    start = weights(model)
    for number in range(1, 4):
        step(model, optimizers, number)
    for key, tensor in weights(model).items():
        assert bool(tensor.isfinite().all())
        assert not torch.equal(tensor, start[key]), key
