"""AutoDim: the mixture, its noise and temperature, whose gradients move what, and the plan."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, MixedConfig, full_plan, size
from compactrec.embeddings.placing import place
from compactrec.embeddings.search import Losses, Phase, Trained
from compactrec.embeddings.search.autodim import (
    AutoDimOptions,
    AutoDimSupernet,
    WidthMixture,
    derive_autodim,
)
from compactrec.embeddings.search.choosing import best_choices
from tests.search.support import (
    DIM,
    FEATURES,
    SEARCHED,
    batch_of,
    loss_of,
    make_task,
    no_fitness,
    no_rows,
    train_weights,
)

SEARCH = Phase("search", 1, architecture="validation")


def supernet(**options: object) -> AutoDimSupernet:
    torch.manual_seed(0)
    task = make_task("autodim", **options)  # type: ignore[arg-type]
    return AutoDimSupernet(replace(task, steps_per_epoch=40))


def trained(net: AutoDimSupernet) -> Trained:
    return Trained(net.task, net.eval(), {}, no_fitness, no_rows)


def mixture(logits: Tensor | None = None) -> WidthMixture:
    torch.manual_seed(1)
    layer = WidthMixture([0, 2], (2, 4, 8), DIM)
    if logits is not None:
        layer.logits.data.copy_(logits)
    return layer


def normalised(vectors: Tensor) -> Tensor:
    """(B, S, D) over its B * S vectors, column by column."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    spread = (flat.var(0, unbiased=False) + 1e-5).sqrt()
    return ((flat - flat.mean(0)) / spread).view_as(vectors)


# The mixture.


def test_a_mixture_is_what_its_formula_says() -> None:
    layer = mixture(torch.tensor([[0.4, -0.3, 0.1], [-1.0, 0.2, 0.5]]))
    vectors = torch.randn(5, 3, DIM)
    with layer.same_noise():
        out = layer(vectors)
        noise = layer._noise
    assert noise is not None
    logits = layer.logits.log_softmax(1) + noise
    for s, place_of in enumerate((0, 2)):
        p = (logits[s] / 1.0).softmax(0)
        expected = torch.zeros(5, DIM)
        for j, width in enumerate((2, 4, 8)):
            both = torch.stack(
                [vectors[:, at, :width] @ layer.projections[j][i] for i, at in enumerate((0, 2))],
                dim=1,
            )
            expected += p[j] * normalised(both)[:, s]
        torch.testing.assert_close(out[:, place_of], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(out[:, 1], vectors[:, 1]), "a feature that is not searched stays"


def test_normalisation_is_over_all_vectors_of_a_candidate() -> None:
    """Over B * F_searched samples: a feature may have a mean of its own, all together have not."""
    layer = mixture()
    vectors = torch.randn(50, 3, DIM)
    vectors[:, 0] = vectors[:, 0] * 3 + 2
    one_hot = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    out = layer.mix(vectors[:, [0, 2]], one_hot, list(layer.projections))
    flat = out.reshape(-1, DIM)
    torch.testing.assert_close(flat.mean(0), torch.zeros(DIM), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.var(0, unbiased=False), torch.ones(DIM), atol=1e-3, rtol=0)
    assert float(out[:, 0].detach().mean(0).abs().max()) > 0.1
    assert not list(layer.norms.parameters()), "no scale and no shift"


def test_one_draw_for_a_feature_and_batch() -> None:
    layer = mixture()
    first, second = layer.weights(), layer.weights()
    assert first.shape == (2, 3)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    layer.eval()
    assert torch.equal(layer.weights(), layer.weights())
    torch.testing.assert_close(layer.weights(), torch.full((2, 3), 1 / 3))


def test_draws_follow_the_probabilities() -> None:
    """The largest of log p + g is candidate j with probability p_j."""
    layer = mixture(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]))
    torch.manual_seed(3)
    picks = torch.stack([layer.weights().argmax(1) for _ in range(4000)])
    share = torch.stack([(picks == j).float().mean(0) for j in range(3)], dim=1)
    torch.testing.assert_close(share, layer.logits.softmax(1).detach(), atol=0.03, rtol=0)


def test_a_cold_mixture_is_nearly_one_hot() -> None:
    layer = mixture(torch.tensor([[0.4, -0.3, 0.1], [-1.0, 0.2, 0.5]]))
    torch.manual_seed(4)
    warm = torch.stack([layer.weights().max(1).values for _ in range(200)]).detach().mean()
    layer.temperature.fill_(0.01)
    cold = torch.stack([layer.weights().max(1).values for _ in range(200)]).detach()
    assert float(cold.median()) > 0.999
    assert float(cold.mean()) > 0.97
    assert float(warm) < 0.8
    layer.eval()
    assert torch.equal(layer.weights().argmax(1), layer.logits.argmax(1))


def test_the_temperature_falls_as_published_or_within_the_run() -> None:
    net = supernet(cooling=5e-5)
    seen = []
    for step in (0, 1, 10_000, 19_799, 19_801, 50_000):
        net.num_steps.fill_(step)
        net.before_step(SEARCH, 0.0)
        seen.append(round(float(net.mixture.temperature), 5))
    assert seen == [1.0, 0.99995, 0.5, 0.01005, 0.01, 0.01]
    net = supernet(epochs=2, warm_epochs=1)
    net.before_step(net.phases[0], 0.5)
    assert int(net.num_steps) == 0, "not while it warms up"
    for _ in range(80):
        net.before_step(SEARCH, 0.0)
    assert float(net.mixture.temperature) == pytest.approx(0.01 + 0.99 / 80)
    assert {"num_steps", "layer.temperature"} <= set(net.state_dict()), "a resumed search goes on"


# Whose gradients move what.


@pytest.mark.parametrize("second_order", [False, True])
def test_validation_rows_move_the_logits_and_nothing_else(second_order: bool) -> None:
    net = supernet(second_order=second_order, xi=0.1)
    head = train_weights(net)
    (logits,) = net.architecture_parameters()
    weights = [
        p for p in [*net.parameters(), *head.parameters()] if p is not logits and p.requires_grad
    ]
    labels = torch.randint(2, (32,)).float()
    before = [w.detach().clone() for w in weights]
    losses = Losses(
        train=lambda: loss_of(net, head, batch_of(seed=1), labels),
        validation=lambda: loss_of(net, head, batch_of(seed=2), labels),
        weights=weights,
        learning_rate=0.1,
    )
    torch.manual_seed(7)
    (gradient,) = net.architecture_gradient(losses)
    assert bool((gradient != 0).any())
    torch.testing.assert_close(gradient.sum(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert all(torch.equal(w, old) for w, old in zip(weights, before, strict=True))
    assert all(w.grad is None for w in weights)
    torch.manual_seed(7)
    (again,) = net.architecture_gradient(losses)
    torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-6)


def test_second_order_sees_one_draw_of_noise() -> None:
    """With another draw for each loss the difference would be noise divided by next to nothing."""
    found = []
    for second_order in (False, True):
        net = supernet(second_order=second_order, xi=1e-4)
        head = train_weights(net)
        weights = [p for p in net.parameters() if p is not net.mixture.logits]
        labels = torch.randint(2, (32,), generator=torch.Generator().manual_seed(1)).float()
        torch.manual_seed(7)
        (gradient,) = net.architecture_gradient(
            Losses(
                lambda: loss_of(net, head, batch_of(seed=1), labels),  # noqa: B023
                lambda: loss_of(net, head, batch_of(seed=2), labels),  # noqa: B023
                weights,
                0.1,
            )
        )
        found.append(gradient)
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=1e-3)


# The supernet and the plan.


def test_candidates() -> None:
    assert AutoDimOptions().widths(16) == (2, 4, 8, 16)
    assert AutoDimOptions().widths(12) == (2, 4, 8, 12)
    assert AutoDimOptions().widths(1) == (1,)
    assert AutoDimOptions(candidates=(5, 1, 5)).widths(8) == (1, 5)
    for wrong in ((0, 4), (4, 9)):
        with pytest.raises(ValueError, match=r"autodim: candidates must be widths within 1 \.\. 8"):
            AutoDimOptions(candidates=wrong).widths(8)


def test_candidates_share_the_columns_of_one_table() -> None:
    net = supernet()
    tables = [p for n, p in net.named_parameters() if "embedding_bags" in n]
    assert sum(p.numel() for p in tables) == sum((f.num_ids or 0) * DIM for f in FEATURES)
    assert sum(p.numel() for p in net.mixture.projections) == 2 * DIM * (2 + 4 + 8)


def test_effective_tables_are_what_one_id_gives() -> None:
    net = supernet()
    train_weights(net)
    tables = net.eval().effective_tables()
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, tables)
    single = batch_of([f.model_copy(update={"max_bag": 1}) for f in FEATURES])
    torch.testing.assert_close(net(single).values(), plain(single).values(), rtol=1e-4, atol=1e-5)
    assert torch.equal(tables["b"], net.raw_tables()["b"])


def test_without_a_budget_the_most_probable_width_is_taken_whatever_the_noise() -> None:
    net = supernet()
    with torch.no_grad():
        net.mixture.logits.copy_(torch.tensor([[0.0, 0.3, 0.1], [0.2, 0.0, 0.1]]))
    state = trained(net)
    plans = []
    for seed in range(3):
        torch.manual_seed(seed)
        plans.append(derive_autodim(state, None).plan)
    assert plans[0] == plans[1] == plans[2]
    assert _widths(state, None) == {"a": 4, "c": 2}
    net.mixture.temperature.fill_(0.01)
    assert _widths(state, None) == {"a": 4, "c": 2}


def _widths(state: Trained, budget: int | None) -> dict[str, int]:
    found = {}
    for group in derive_autodim(state, budget).plan.groups:
        if isinstance(group.config, MixedConfig):
            found[group.features[0]] = group.config.dims[0]
    return found


@pytest.mark.parametrize("budget", [1_800, 2_400, 2_900, 3_600])
def test_within_a_budget_the_likeliest_widths_that_fit_are_taken(budget: int) -> None:
    net = supernet(candidates=(1, 2, 5, 8))
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        net.mixture.logits.copy_(logits)
    state = trained(net)
    best, widths = -np.inf, {}
    for choice in product(range(4), repeat=2):
        given_widths = dict(zip(SEARCHED, (net.widths[j] for j in choice), strict=True))
        configs = {n: MixedConfig(dims=(w,)) for n, w in given_widths.items()}
        plan = full_plan(FEATURES)
        groups = tuple(replace(g, config=configs.get(g.features[0], g.config)) for g in plan.groups)
        score = float(sum(logits.log_softmax(1)[s, j] for s, j in enumerate(choice)))
        if size(replace(plan, groups=groups)).serving_bytes <= budget and score > best:
            best, widths = score, given_widths
    assert _widths(state, budget) == widths
    assert size(derive_autodim(state, budget).plan).serving_bytes <= budget


def test_a_budget_below_the_smallest_widths_is_refused() -> None:
    state = trained(supernet())
    with pytest.raises(ValueError, match=r"autodim: the smallest plan takes ([\d,]+) bytes and"):
        derive_autodim(state, 300)
    smallest = size(derive_autodim(trained(supernet(candidates=(2,))), None).plan).serving_bytes
    assert _widths(state, smallest) == {"a": 2, "c": 2}
    with pytest.raises(ValueError, match=f"the smallest plan takes {smallest:,} bytes"):
        derive_autodim(state, smallest - 1)


def test_nothing_of_the_search_is_left_in_the_plan() -> None:
    derived = derive_autodim(trained(supernet()), 2_400)
    assert (derived.tables, derived.dense, derived.epochs) == (None, "fresh", None)
    collection = CompressedEmbeddingBagCollection(derived.plan)
    keys = " ".join(collection.state_dict())
    assert not any(word in keys for word in ("logits", "norms", "temperature", "running_mean"))
    config = {g.features[0]: g.config.method for g in derived.plan.groups}
    assert config == {"a": "mixed", "b": "full", "c": "mixed"}


@given(
    costs=st.lists(st.lists(st.integers(1, 400), min_size=3, max_size=3), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_choices_are_the_best_of_all_that_fit(
    costs: list[list[int]], share: float, seed: int
) -> None:
    table = np.array(costs)
    scores = np.random.default_rng(seed).normal(size=table.shape)
    low, high = int(table.min(1).sum()), int(table.max(1).sum())
    limit = int(low + share * (high - low))
    rows = np.arange(len(table))
    found = best_choices(scores, table, limit)
    assert found is not None
    assert table[rows, found].sum() <= limit
    fitting = [c for c in product(range(3), repeat=len(table)) if table[rows, c].sum() <= limit]
    assert scores[rows, found].sum() == pytest.approx(max(scores[rows, c].sum() for c in fitting))
    assert best_choices(scores, table, low - 1) is None


def test_large_costs_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    costs = np.sort(rng.integers(10**4, 10**8, (26, 5)), axis=1)
    scores = rng.normal(size=(26, 5))
    for limit in (int(costs.min(1).sum()), int(costs.mean(1).sum()), int(costs.max(1).sum())):
        found = best_choices(scores, costs, limit)
        assert found is not None
        assert costs[np.arange(26), found].sum() <= limit
    assert found is not None
    assert (found == scores.argmax(1)).all()
