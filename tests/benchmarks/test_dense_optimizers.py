"""What a step does to weights that are in no table: the literal rule, with decay, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.optimizers import Optimizers
from tests.reference.decay import DecayedTable
from tests.reference.lamb import lamb_step

EPS = {"sgd": 0.0, "adagrad": 1e-10, "adam": 1e-8, "amsgrad": 1e-8, "lamb": 1e-6}
"""Of those who are given none."""
START = [0.5, -0.25, 0.125, -1.0]
GRADIENTS = [[2e-2, -3e-3, 1e-4, 0.0], [-1e-5, 2e-5, 3e-4, 4e-6], [1e-5, 1e-4, -2e-4, 0.0]]
"""So small that eps counts; first and second moment fall after the first step."""


def stepped(name: str, **changes: Any) -> list[float]:
    """START after a step for each of GRADIENTS, as training makes them."""
    config = TrainConfig.model_validate(
        {
            "data": Path(), "out": Path(), "method": "full", "dense_optimizer": name,
            "dense_learning_rate": 0.1, **changes,
        }
    )  # fmt: skip
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizers = Optimizers(model, [], config)
    for gradient in GRADIENTS:
        optimizers.zero_grad()
        model.weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizers.step()
    found: list[float] = model.weight.tolist()
    return found


def literal(name: str, decay: float, eps: float) -> list[float]:
    """The same: a tensor is a table of one row."""
    if name == "lamb":
        row, first, second = list(START), [0.0] * 4, [0.0] * 4
        for time, gradient in enumerate(GRADIENTS, 1):
            lamb_step(row, first, second, gradient, time, 0.1, eps, decay)
        return row
    table = DecayedTable([START], name, "dense_coupled", decay, eps)
    for gradient in GRADIENTS:
        table.step({0: gradient}, 0.1)
    return table.rows[0]


@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize("name", EPS)
def test_steps_equal_the_literal_rule(name: str, decay: float) -> None:
    expected = pytest.approx(literal(name, decay, EPS[name]), rel=1e-9, abs=1e-12)
    assert stepped(name, dense_weight_decay=decay) == expected
    expected = pytest.approx(literal(name, decay, 3e-4), rel=1e-9, abs=1e-12)
    assert stepped(name, dense_weight_decay=decay, dense_eps=3e-4) == expected
