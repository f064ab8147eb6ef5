"""Dropout and batch norm of the deep parts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactrec.models import get_model, model_names
from compactrec.models.masks import MaskBlock
from compactrec.models.towers import BatchNorm, TowerConfig, tower
from tests.models.support import batch, build

TOWERS = [
    (name, "dropout", {})
    for name in model_names()
    if issubclass(get_model(name).config, TowerConfig) and name != "autoint"
]
DROPS: list[tuple[str, str, dict[str, Any]]] = [
    *TOWERS,
    ("autoint", "dropout", {"hidden": (6, 5)}),
    ("dcnv2", "dropout", {"structure": "stacked"}),
    ("dlrm", "dropout", {}),
    ("dlrm", "dropout", {"batch_norm": True, "interaction": "cat"}),
    ("gdcn", "dropout", {"structure": "stacked"}),
    ("masknet", "dropout", {"kind": "serial"}),
    ("finalmlp", "dropout", {}),
    ("finalmlp", "dropout2", {}),
]
"""Every model with a tower, the option, and what there must be beside it."""


def parts(share: float) -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    """Parts whose last layer has 500 outputs, and inputs; their state does not depend on it."""
    torch.manual_seed(3)
    inputs = torch.randn(40, 6)
    return [
        (tower(6, (500,), dropout=share), (inputs,)),
        (MaskBlock(6, 6, 500, 3, dropout=share), (inputs, inputs.flip(1))),
    ]


@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize("which", [0, 1])
def test_a_share_is_dropped_in_training_and_the_rest_scaled(which: int, share: float) -> None:
    part, inputs = parts(share)[which]
    plain, _ = parts(0.0)[which]
    part.load_state_dict(plain.state_dict())
    expected = plain(*inputs)
    assert torch.equal(part.eval()(*inputs), expected)
    out = part.train()(*inputs)
    alive = expected > 0
    dropped = alive & (out == 0)
    assert 0.1 < float(alive.float().mean()) < 0.9
    assert float(dropped.sum() / alive.sum()) == pytest.approx(share, abs=0.03)
    kept = alive & ~dropped
    torch.testing.assert_close(out[kept], expected[kept] / (1 - share))


def test_every_hidden_layer_drops_and_the_last_linear_one_does_not() -> None:
    kinds = [type(layer) for layer in tower(4, (6, 5), 1, dropout=0.3, batch_norm=True)]
    hidden = [nn.Linear, BatchNorm, nn.ReLU, nn.Dropout]
    assert kinds == [*hidden, *hidden, nn.Linear]


@pytest.mark.parametrize(("name", "option", "more"), DROPS)
def test_models_drop_in_training_only(name: str, option: str, more: dict[str, Any]) -> None:
    model = build(name, 2, seed=3, **more, **{option: 0.5})
    dense, kjt, _ = batch(32, 2)
    expected = build(name, 2, seed=3, **more).eval()(dense, kjt)
    assert torch.equal(model.eval()(dense, kjt), expected)
    model.train()
    assert not torch.allclose(model(dense, kjt), expected)
    assert not torch.allclose(model(dense, kjt), model(dense, kjt))


def test_batch_norm_takes_one_row_by_the_running_statistics() -> None:
    norm = BatchNorm(3)
    norm(torch.randn(8, 3))
    row = torch.randn(1, 3)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    out = norm(row)
    torch.testing.assert_close(out, norm.eval()(row))
    assert torch.equal(norm.running_mean, before)
