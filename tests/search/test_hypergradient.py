"""The gradient through one step of the weights, on losses whose answer is known in closed form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrec.embeddings.search.hypergradient import hypergradient


def quadratic(seed: int) -> dict[str, torch.Tensor]:
    """L_train = w'Aw/2 + w'Ba, L_val = |w - c|^2/2 + d'a, with A symmetric."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 4, generator=g, dtype=torch.float64)
    return {
        "A": a @ a.T,
        "B": torch.randn(4, 3, generator=g, dtype=torch.float64),
        "c": torch.randn(4, generator=g, dtype=torch.float64),
        "d": torch.randn(3, generator=g, dtype=torch.float64),
        "w": torch.randn(4, generator=g, dtype=torch.float64),
        "a": torch.rand(3, generator=g, dtype=torch.float64),
    }


def closed_form(q: dict[str, torch.Tensor], xi: float) -> torch.Tensor:
    """w' = w - xi (A w + B a); dL_val/da = d - xi B' (w' - c)."""
    moved = q["w"] - xi * (q["A"] @ q["w"] + q["B"] @ q["a"])
    return q["d"] - xi * q["B"].T @ (moved - q["c"])


def computed(q: dict[str, torch.Tensor], xi: float) -> torch.Tensor:
    w, a = q["w"].clone().requires_grad_(), q["a"].clone().requires_grad_()
    (found,) = hypergradient(
        lambda: w @ q["A"] @ w / 2 + w @ q["B"] @ a,
        lambda: (w - q["c"]).square().sum() / 2 + q["d"] @ a,
        [a], [w], xi=xi,
    )  # fmt: skip
    assert torch.equal(w, q["w"]), "the weights are put back bit by bit"
    assert w.grad is None
    assert a.grad is None
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), xi=st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_equals_the_closed_form(seed: int, xi: float) -> None:
    q = quadratic(seed)
    torch.testing.assert_close(computed(q, xi), closed_form(q, xi), rtol=1e-7, atol=1e-7)


def test_no_step_is_first_order() -> None:
    q = quadratic(3)
    torch.testing.assert_close(computed(q, 0.0), q["d"])
    assert not torch.allclose(computed(q, 0.3), q["d"])


def test_weights_come_back_when_a_loss_raises() -> None:
    w, a = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    calls = []

    def validation() -> torch.Tensor:
        calls.append(w.detach().clone())
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        hypergradient(lambda: (w * a).sum(), validation, [a], [w], xi=0.5)
    assert not torch.equal(calls[0], torch.ones(2))
    assert torch.equal(w, torch.ones(2))


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="xi must be at least 0 and radius above 0, got -1"):
        hypergradient(lambda: torch.ones(1), lambda: torch.ones(1), [], [], xi=-1)
