"""The gradient through one step of the weights, against a quadratic with a closed form."""

import pytest
import torch
from torch import Tensor

from compactrec.embeddings.search.hypergradient import hypergradient

N, K = 5, 3


class Quadratic:
    """``L_train = w'Aw/2 + w'Ca + d'a``, ``L_val = |w - t|^2/2 + w'Ba + |a|^2/2``.

    With ``w' = w - xi (Aw + Ca)`` and ``v = w' - t + Ba``, dL_val(w'(a), a)/da is
    ``B'w' + a - xi C'v``.
    """

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        half = draw(N, N)
        self.A, self.B, self.C = half @ half.T, draw(N, K), draw(N, K)
        self.d, self.t = draw(K), draw(N)
        self.w1, self.w2 = draw(2).requires_grad_(), draw(N - 2).requires_grad_()
        self.a = draw(K).requires_grad_()

    @property
    def w(self) -> Tensor:
        return torch.cat([self.w1, self.w2])

    def train(self) -> Tensor:
        return self.w @ self.A @ self.w / 2 + self.w @ self.C @ self.a + self.d @ self.a

    def validation(self) -> Tensor:
        off = self.w - self.t
        return off @ off / 2 + self.w @ self.B @ self.a + self.a @ self.a / 2

    def closed_form(self, xi: float) -> Tensor:
        w, a = self.w.detach(), self.a.detach()
        ahead = w - xi * (self.A @ w + self.C @ a)
        return self.B.T @ ahead + a - xi * self.C.T @ (ahead - self.t + self.B @ a)

    def gradient(self, xi: float) -> Tensor:
        weights = [self.w1, self.w2]
        (found,) = hypergradient(self.train, self.validation, [self.a], weights, xi=xi)
        return found


@pytest.mark.parametrize("xi", [0.01, 0.1, 0.7])
def test_second_order_is_exact_on_a_quadratic(xi: float) -> None:
    problem = Quadratic()
    assert torch.allclose(problem.gradient(xi), problem.closed_form(xi), rtol=1e-9, atol=1e-9)
    first = problem.gradient(0.0)
    assert not torch.allclose(problem.closed_form(xi), first, rtol=1e-2)


def test_without_a_step_it_is_first_order() -> None:
    problem = Quadratic()
    (plain,) = torch.autograd.grad(problem.validation(), [problem.a])
    assert torch.equal(problem.gradient(0.0), plain)
    assert torch.allclose(problem.closed_form(0.0), plain)


def test_weights_and_gradients_stay_as_they_were() -> None:
    problem = Quadratic()
    before = [t.detach().clone() for t in (problem.w1, problem.w2, problem.a)]
    problem.gradient(0.3)
    for tensor, was in zip((problem.w1, problem.w2, problem.a), before, strict=True):
        assert torch.equal(tensor, was)
        assert tensor.grad is None


def test_weights_are_put_back_when_a_loss_raises() -> None:
    problem = Quadratic()
    before = problem.w.detach().clone()

    def raises() -> Tensor:
        assert not torch.equal(problem.w, before)
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        hypergradient(problem.train, raises, [problem.a], [problem.w1, problem.w2], xi=0.3)
    assert torch.equal(problem.w, before)


def test_what_a_loss_does_not_depend_on_has_gradient_zero() -> None:
    problem = Quadratic()
    idle = torch.ones(2, dtype=torch.float64, requires_grad=True)
    found = hypergradient(
        problem.train, problem.validation, [problem.a, idle], [problem.w1, problem.w2, idle], xi=0.1
    )
    assert torch.equal(found[1], torch.zeros(2, dtype=torch.float64))
    flat = hypergradient(problem.train, lambda: problem.a.sum(), [problem.a], [problem.w1], xi=0.1)
    assert torch.equal(flat[0], torch.ones(K, dtype=torch.float64))


@pytest.mark.parametrize(("xi", "radius"), [(-0.1, 0.01), (0.1, 0.0)])
def test_lengths_are_checked(xi: float, radius: float) -> None:
    problem = Quadratic()
    with pytest.raises(ValueError, match="xi must be at least 0 and radius above 0, got"):
        hypergradient(problem.train, problem.validation, [problem.a], [], xi=xi, radius=radius)
