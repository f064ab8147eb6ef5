"""Gates of an example: relaxations against their equations, gradients, penalties, granularity."""

import math

import pytest
import torch
from torch import Tensor, nn

from compactrec.embeddings.search.gates import (
    Concrete,
    GateLayer,
    GateNetwork,
    Gaussian,
    Granularity,
    NetworkKind,
    Relaxation,
)
from tests.reference import gates as reference

B, F, D = 16, 4, 6
SEARCHED = (0, 2, 3)
RELAXATIONS = {"concrete": Concrete(), "hard_concrete": Concrete(True), "gaussian": Gaussian()}
each_relaxation = pytest.mark.parametrize("name", list(RELAXATIONS))
each_shape = pytest.mark.parametrize(
    ("granularity", "kind"),
    [(g, k) for g in ("element", "field", "hierarchical") for k in ("linear", "mlp")],
)


def layer_of(
    granularity: Granularity = "element",
    kind: NetworkKind = "linear",
    relaxation: Relaxation | None = None,
    bias: float = 0.0,
    straight_through: bool = True,
) -> GateLayer:
    torch.manual_seed(1)
    network = GateNetwork(F, D, SEARCHED, granularity=granularity, kind=kind, bias=bias)
    return GateLayer(network, relaxation or Concrete(), straight_through=straight_through)


def vectors(size: int = B, scale: float = 3.0) -> Tensor:
    torch.manual_seed(2)
    return scale * torch.randn(size, F, D)


@each_relaxation
@pytest.mark.parametrize("temperature", [1.0, 2 / 3, 0.1])
def test_relaxations_are_their_equations(name: str, temperature: float) -> None:
    relaxation = RELAXATIONS[name]
    logits = torch.tensor([-3.0, -0.4, 0.0, 0.7, 2.0], dtype=torch.float64)
    noise = torch.tensor([0.3, 0.9, 0.02, 0.5, 0.71], dtype=torch.float64)
    pairs = list(zip(logits.tolist(), noise.tolist(), strict=True))
    if name == "gaussian":
        expected = [reference.gaussian(a, e) for a, e in pairs]
        pi = [reference.normal_cdf(a / 0.5) for a, _ in pairs]
        positive = [reference.normal_cdf((a + 0.5) / 0.5) for a, _ in pairs]
    else:
        gate = reference.hard_concrete if name == "hard_concrete" else reference.concrete
        expected = [gate(a, u, temperature) for a, u in pairs]
        pi = [reference.sigmoid(a) for a, _ in pairs]
        shift = temperature * math.log(0.1 / 1.1) if name == "hard_concrete" else 0.0
        positive = [reference.sigmoid(a - shift) for a, _ in pairs]
    assert relaxation.soft(logits, noise, temperature).tolist() == pytest.approx(expected)
    assert relaxation.probability(logits).tolist() == pytest.approx(pi)
    assert relaxation.positive(logits, temperature).tolist() == pytest.approx(positive)


@each_relaxation
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_mean_gate_is_its_probability(name: str, temperature: float) -> None:
    layer = layer_of(relaxation=RELAXATIONS[name])
    layer.temperature = temperature
    logits = torch.tensor([-1.5, -0.2, 0.0, 0.3, 1.0])
    draws = layer.draw(logits.expand(100_000, 5))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    pi = layer.relaxation.probability(logits)
    torch.testing.assert_close(draws.mean(0), pi, rtol=0, atol=6e-3)
    layer.straight_through = False
    soft = layer.draw(logits.expand(100_000, 5))
    positive = (soft > 0).float().mean(0)
    if name != "concrete":
        expected = layer.relaxation.positive(logits, temperature)
        torch.testing.assert_close(positive, expected, rtol=0, atol=6e-3)
    if name == "concrete" and temperature == 0.1:
        torch.testing.assert_close(soft.mean(0), pi, rtol=0, atol=0.02)


@each_relaxation
def test_the_pathwise_gradient_is_that_of_the_mean(name: str) -> None:
    """d E[sum z] / da by the reparametrisation against central differences of the mean."""
    relaxation = RELAXATIONS[name]
    logits = torch.tensor([-0.8, 0.0, 0.5], dtype=torch.float64)
    count, step = 200_000, 0.02
    torch.manual_seed(3)
    noise = relaxation.noise(torch.zeros(count, 3, dtype=torch.float64))

    def mean(at: Tensor) -> Tensor:
        return relaxation.soft(at.expand(count, 3), noise, 0.7).mean(0)

    leaf = logits.clone().requires_grad_()
    (pathwise,) = torch.autograd.grad(mean(leaf).sum(), leaf)
    differences = (mean(logits + step) - mean(logits - step)) / (2 * step)
    torch.testing.assert_close(pathwise, differences, rtol=0.01, atol=1e-3)
    layer = layer_of(relaxation=relaxation)
    layer.temperature = 0.7
    (through,) = torch.autograd.grad(layer.draw(leaf.expand(count, 3), noise).mean(0).sum(), leaf)
    torch.testing.assert_close(through, pathwise)


@each_shape
@each_relaxation
def test_open_gates_leave_vectors_as_they_are(
    name: str, granularity: Granularity, kind: NetworkKind
) -> None:
    layer = layer_of(granularity, kind, RELAXATIONS[name], bias=200.0)
    x = vectors()
    assert torch.equal(layer.train()(x), x)
    assert torch.equal(layer.eval()(x), x)


@each_shape
def test_only_searched_features_are_gated(granularity: Granularity, kind: NetworkKind) -> None:
    layer = layer_of(granularity, kind, bias=-200.0)
    x = vectors()
    for out in (layer.train()(x), layer.eval()(x)):
        assert torch.equal(out[:, 1], x[:, 1])
        assert not out[:, list(SEARCHED)].any()


@each_shape
def test_evaluation_is_deterministic_and_idempotent(
    granularity: Granularity, kind: NetworkKind
) -> None:
    layer = layer_of(granularity, kind).eval()
    x = vectors(200)
    gates = layer.network.deterministic(x)
    assert gates.dtype == torch.bool
    assert 0.1 < float(gates.float().mean()) < 0.9
    assert torch.equal(layer(x), layer(x))
    kept = x[:, list(SEARCHED)] * gates
    assert torch.equal(layer(x)[:, list(SEARCHED)], kept)
    levels = [(level > 0) for level in layer.network(x)]
    for s in range(3):
        for d in range(D):
            both = [level[:, s, min(d, level.shape[-1] - 1)] for level in levels]
            assert torch.equal(gates[:, s, d], torch.stack(both).all(0))
    if granularity == "field":
        assert bool((gates == gates[..., :1]).all())


@each_shape
def test_deterministic_gates_are_0_or_1_and_of_the_rows_alone(
    granularity: Granularity, kind: NetworkKind
) -> None:
    """Whatever the temperature, the other rows of the batch, and how often they are asked."""
    layer = layer_of(granularity, kind).eval()
    x = vectors(200)
    columns = list(SEARCHED)
    out = layer(x)
    gates = out[:, columns] / x[:, columns]
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    layer.temperature = 0.1
    torch.manual_seed(99)
    twice = torch.cat([x, x.flip(0)])
    again = layer(twice)
    assert torch.equal(again[:200], out)
    assert torch.equal(again[200:].flip(0), out)
    assert torch.equal(layer(x[:1]), out[:1])
    layer.train()(x)
    assert torch.equal(layer.eval()(x), out), "a training batch leaves nothing behind"


@pytest.mark.parametrize("granularity", ["element", "hierarchical", "field"])
def test_gates_that_read_what_they_keep_are_idempotent(granularity: Granularity) -> None:
    """A network that reads only the feature that is never gated gives its own output the same
    gates; one that reads what it closes need not."""
    layer = layer_of(granularity).eval()
    (last,) = layer.network.layers
    assert isinstance(last, nn.Linear)
    ungated = 1
    x = vectors(200)
    assert not torch.equal(layer(layer(x)), layer(x)), "or the check below would see nothing"
    with torch.no_grad():
        of_feature = last.weight.unflatten(1, (F, D))
        of_feature[:, [f for f in range(F) if f != ungated]] = 0.0
    once = layer(x)
    assert torch.equal(layer.network.deterministic(once), layer.network.deterministic(x))
    assert torch.equal(layer(once), once)
    assert not torch.equal(once, x)


def test_probabilities_above_a_half_are_the_open_gates() -> None:
    for relaxation in RELAXATIONS.values():
        layer = layer_of(relaxation=relaxation)
        x = vectors()
        assert torch.equal(layer.probabilities(x) > 0.5, layer.network.deterministic(x))


@pytest.mark.parametrize("granularity", ["element", "hierarchical"])
def test_the_network_sends_no_gradient_into_the_vectors(granularity: Granularity) -> None:
    layer = layer_of(granularity)
    x = vectors().requires_grad_()
    out = layer(x)
    (gradient,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient * x, out)  # d(z x)/dx is z alone
    penalty = layer.open_share() + layer.polarisation()
    assert torch.autograd.grad(penalty, x, allow_unused=True, retain_graph=True) == (None,)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(penalty, list(layer.parameters())))


def test_penalties_are_their_formulas() -> None:
    layer = layer_of("hierarchical")
    x = vectors()
    layer(x)
    field, dims = (torch.sigmoid(level) for level in layer.network(x))
    torch.testing.assert_close(layer.open_share(), (field * dims).mean())
    every = torch.cat([field.flatten(), dims.flatten()])
    torch.testing.assert_close(layer.polarisation(), (4 * every * (1 - every)).mean())
    torch.testing.assert_close(
        layer.polarisation("deviation"), -(every - every.mean()).abs().mean()
    )
    layer.straight_through = False
    hard = layer_of(relaxation=Concrete(True), straight_through=False)
    hard.temperature = 2 / 3
    hard(x)
    (logits,) = hard.network(x)
    shift = 2 / 3 * math.log(0.1 / 1.1)
    torch.testing.assert_close(hard.open_share(), torch.sigmoid(logits - shift).mean())


@each_relaxation
@pytest.mark.parametrize("kind", ["quadratic", "deviation"])
def test_strong_polarisation_decides_every_gate(name: str, kind: str) -> None:
    layer = layer_of(relaxation=RELAXATIONS[name])
    x = vectors(scale=0.5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    layer(x)
    assert layer.decided_share() < 0.2
    for _ in range(400):
        layer(x)
        optimizer.zero_grad()
        (1e3 * layer.polarisation(kind)).backward()  # type: ignore[arg-type]
        optimizer.step()
    layer(x)
    assert layer.decided_share() > 0.999
    pi = layer.probabilities(x)
    assert bool(((pi <= 0.02) | (pi >= 0.98)).all())
    assert 0.05 < float((pi > 0.5).float().mean()) < 0.95


def test_gates_learn_which_columns_matter() -> None:
    """Labels depend on two columns of one feature: those gates stay open, the others close."""
    torch.manual_seed(0)
    layer = layer_of(bias=2.0)
    head = nn.Linear(F * D, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for step in range(400):
        torch.manual_seed(step)
        x = torch.randn(256, F, D)
        labels = (x[:, 2, 1] + x[:, 2, 4] > 0).float()
        logits = head(layer(x).flatten(1)).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        (loss + 0.3 * layer.open_share()).backward()
        optimizer.step()
    open_share = layer.eval().network.deterministic(torch.randn(2000, F, D)).float().mean(0)
    assert float(open_share[1, [1, 4]].min()) > 0.9
    open_share[1, [1, 4]] = 0
    assert float(open_share.mean()) < 0.1


def test_asking_before_a_batch_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the gates have seen no training batch yet; run the"):
        layer_of().open_share()
