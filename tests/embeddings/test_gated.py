"""Gated blocks: what no contract test asks."""

import pytest
import torch

from compactrec.embeddings import Feature, Group, Plan, all_method_names, method_names
from compactrec.embeddings.gated import Gate, GatedConfig


def test_it_is_for_searches_alone() -> None:
    assert "gated" in all_method_names()
    assert "gated" not in method_names()


def test_a_closed_gate_is_closed_when_normalised_too() -> None:
    gate = Gate((0, 2), 3, 4, normalize=True)
    with torch.no_grad():
        gate.alpha.copy_(torch.tensor([[0.0] * 4, [1.0] * 4, [0.5, 0.0, 0.0, 0.5]]))
    one, two = torch.ones(1, 4), torch.full((1, 4), 3.0)
    out = gate([one, two])
    assert torch.equal(out, torch.tensor([[6.0, 0.0, 0.0, 6.0]]))
    out.sum().backward()
    assert gate.alpha.grad is not None
    assert bool(gate.alpha.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_normalised_gates_keep_the_scale(scale: float) -> None:
    gate = Gate((0,), 1, 4, normalize=True)
    with torch.no_grad():
        gate.alpha.copy_(scale * torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
    torch.testing.assert_close(gate.gates(), torch.tensor([[0.4, 0.8, 1.2, 1.6]]))


def test_every_id_is_in_a_block() -> None:
    plan = Plan((Feature(name="a", num_ids=7, dim=4),), (Group(("a",), GatedConfig(rows=(2, 4))),))
    with pytest.raises(
        ValueError, match="blocks of feature 'a' hold 6 rows but it has 7 ids; give"
    ):
        plan.lower()


@pytest.mark.parametrize("rows", [(), (3, -1)])
def test_rows_are_checked(rows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot have fewer than 0 rows|at least 1 item"):
        GatedConfig(rows=rows)
