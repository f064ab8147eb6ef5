"""DNIS: blocks, gates, their gradient, folding and pruning."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, full_plan, size
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.search import Losses, Trained
from compactrec.embeddings.search.base import Rows
from compactrec.embeddings.search.blocks import blocks_of_all, blocks_of_each, cut_points
from compactrec.embeddings.search.dnis import DnisSupernet, derive_dnis, normalised
from tests.search.support import (
    DIM,
    FEATURES,
    SEARCHED,
    batch_of,
    loss_of,
    make_task,
    train_weights,
)


def supernet(**options: object) -> DnisSupernet:
    torch.manual_seed(0)
    return DnisSupernet(make_task("dnis", **options))  # type: ignore[arg-type]


def no_rows(split: str, num_rows: int) -> Iterator[Rows]:
    raise AssertionError("DNIS looks at no rows when it derives")


def no_fitness(masks: Tensor) -> Tensor:
    raise AssertionError("DNIS judges no candidates")


def trained(net: DnisSupernet) -> Trained:
    return Trained(net.task, net.eval(), {}, no_fitness, no_rows)  # type: ignore[arg-type]


@torch.no_grad()
def set_alphas(net: DnisSupernet, value: float | None = None) -> None:
    for alpha in net.architecture_parameters():
        alpha.uniform_(0, 1) if value is None else alpha.fill_(value)


def test_open_gates_are_the_plain_tables_bit_by_bit() -> None:
    net = supernet()
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, net.raw_tables())
    bags = batch_of()
    torch.testing.assert_close(net(bags).values(), plain(bags).values(), rtol=1e-6, atol=1e-7)
    singles = batch_of([f.model_copy(update={"max_bag": 1}) for f in FEATURES])
    assert torch.equal(net(singles).values(), plain(singles).values())


def test_a_closed_block_contributes_nothing() -> None:
    net = supernet(num_blocks=3)
    (alpha,) = net.architecture_parameters()
    with torch.no_grad():
        alpha[1] = 0.0
    tables = net.effective_tables()
    for name in SEARCHED:
        rows = net.blocks[name].rows
        start, end = rows[0], rows[0] + rows[1]
        assert rows[1] > 0
        assert float(tables[name][start:end].abs().max()) == 0.0
        assert float(tables[name][:start].abs().min()) > 0.0
        assert float(tables[name][end:].abs().min()) > 0.0


@pytest.mark.parametrize("second_order", [False, True])
def test_alpha_stays_in_its_bounds_and_gets_validation_gradients_alone(second_order: bool) -> None:
    net = supernet(second_order=second_order, alpha_learning_rate=0.7, xi=0.1)
    head = train_weights(net)
    (alpha,) = net.architecture_parameters()
    optimizer = net.architecture_optimizer()
    weights = [p for p in [*net.parameters(), *head.parameters()] if p is not alpha]
    labels = torch.randint(2, (32,)).float()
    for step in range(5):
        train, validation = batch_of(seed=step), batch_of(seed=100 + step)
        alpha.requires_grad_(False)
        loss_of(net, head, train, labels).backward()
        assert alpha.grad is None, "a training batch moved alpha"
        kept = [None if w.grad is None else w.grad.clone() for w in weights]
        before = [w.detach().clone() for w in weights]
        alpha.requires_grad_(True)
        losses = Losses(
            lambda b=train: loss_of(net, head, b, labels),  # type: ignore[misc]
            lambda b=validation: loss_of(net, head, b, labels),  # type: ignore[misc]
            weights,
            0.1,
        )
        (alpha.grad,) = net.architecture_gradient(losses)
        optimizer.step()
        alpha.grad = None
        net.after_architecture_step()
        assert 0.0 <= float(alpha.detach().min()) <= float(alpha.detach().max()) <= 1.0
        for weight, old, grad in zip(weights, before, kept, strict=True):
            assert torch.equal(weight, old), "validation moved a weight"
            assert (weight.grad is None) == (grad is None)
            assert grad is None or torch.equal(weight.grad, grad)  # type: ignore[arg-type]
    assert float(alpha.detach().min()) < 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_every_block_moves_alike_whatever_its_gradient(seed: int, scale: float) -> None:
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) + 0.1
    gradient[0] *= scale
    gradient[2] = 0.0
    found = normalised(gradient)
    mean = found.abs().mean(1)
    expected = torch.tensor([gradient[0].abs().mean() / (gradient[0].abs().mean() + 1e-8), 1, 0, 1])
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(found).all()


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=40), min_size=1, max_size=3),
    num_blocks=st.integers(1, 6),
    split_ties=st.booleans(),
)
def test_blocks_follow_frequency_and_hold_every_id_once(
    counts: list[list[int]], num_blocks: int, split_ties: bool
) -> None:
    given_counts = {f"f{i}": np.array(c) for i, c in enumerate(counts)}
    cuts = [Fraction(b, num_blocks) for b in range(1, num_blocks)]
    found = blocks_of_all(given_counts, cuts, split_ties=split_ties)
    seen: list[tuple[int, int]] = []
    for name, count in given_counts.items():
        assert sum(found[name].rows) == len(count)
        rank = np.arange(len(count)) if found[name].rank is None else found[name].rank
        assert sorted(rank.tolist()) == list(range(len(count)))  # type: ignore[union-attr]
        block = np.searchsorted(np.cumsum(found[name].rows), rank, side="right")
        seen += list(zip(count.tolist(), block.tolist(), strict=True))
    for count, block in seen:
        for other, other_block in seen:
            if count > other:
                assert block <= other_block, "a more frequent id is in a later block"
            if not split_ties and count == other:
                assert block == other_block, "ids of one frequency are apart"


def test_a_row_at_a_cut_begins_the_next_block() -> None:
    ranked = np.array([9, 8, 7, 6, 5, 5, 5, 1])
    assert cut_points(ranked, [3], split_ties=True) == [3]
    found = blocks_of_each({"f": ranked}, [3], split_ties=True)["f"]
    assert found.rows == (3, 5)
    assert cut_points(ranked, [5], split_ties=False) == [4]
    assert cut_points(ranked, [6], split_ties=False) == [7]
    assert cut_points(ranked, [0.5, 0.5], split_ties=True) == [4]


def test_the_explicit_cuts_of_the_authors_are_taken() -> None:
    counts = np.arange(120_000)[::-1].copy()
    cuts = np.cumsum([51, 126, 1763, 17057, 91265]).tolist()
    found = blocks_of_each({"f": counts}, cuts, split_ties=True)["f"]
    assert found.rows == (51, 126, 1763, 17057, 91265, 120_000 - sum((51, 126, 1763, 17057, 91265)))


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("blocks", ["quantile", "per_field_quantile"])
def test_folding_changes_no_vector(numbered: bool, blocks: str) -> None:
    net = DnisSupernet(make_task("dnis", numbered=numbered, blocks=blocks))
    train_weights(net)
    set_alphas(net)
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, net.effective_tables())
    batch = batch_of(size=50)
    torch.testing.assert_close(net(batch).values(), plain(batch).values(), rtol=1e-6, atol=1e-7)


def test_alphas_are_shared_by_features_unless_each_has_its_own() -> None:
    (shared,) = supernet(num_blocks=4).architecture_parameters()
    assert shared.shape == (4, DIM)
    own = supernet(num_blocks=4, blocks="per_field_quantile").architecture_parameters()
    assert [tuple(a.shape) for a in own] == [(4, DIM), (4, DIM)]


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
@pytest.mark.parametrize("numbered", [True, False])
def test_plans_fit_their_budget_and_serve_the_pruned_product(
    structure: str, numbered: bool
) -> None:
    net = DnisSupernet(make_task("dnis", structure=structure, numbered=numbered, num_blocks=3))
    train_weights(net, rate=5.0)
    set_alphas(net)
    folded = net.effective_tables()
    masks = []
    for budget in (3_000, 2_000, 1_200):
        derived = derive_dnis(trained(net), budget)
        assert 0.93 * budget < size(derived.plan).serving_bytes <= budget
        collection = CompressedEmbeddingBagCollection(derived.plan)
        assert derived.tables is not None
        place(collection, derived.tables)
        for name in ("a", "b", "c"):
            table = logical_table(collection, name)
            assert torch.equal(table, derived.tables[name])
            kept = table != 0
            assert torch.equal(table, torch.where(kept, folded[name], 0.0))
        masks.append(torch.cat([(derived.tables[n] != 0).flatten() for n in SEARCHED]))
    assert bool((masks[2] <= masks[1]).all())
    assert bool((masks[1] <= masks[0]).all())
    assert 0 < int(masks[2].sum()) < int(masks[1].sum()) < int(masks[0].sum())


def test_importance_is_that_of_the_product_and_not_of_the_table() -> None:
    """A published notebook prunes |E| while alpha still multiplies."""
    net = supernet(num_blocks=1, ratio=0.5)
    (alpha,) = net.architecture_parameters()
    with torch.no_grad():
        alpha[0, : DIM // 2] = 1e-6
        for parameter in net.collection.tables.parameters():
            parameter.uniform_(1.0, 2.0)
            parameter[:, : DIM // 2] *= 100  # the largest values are behind closed gates
    derived = derive_dnis(trained(net), None)
    assert derived.tables is not None
    for name in SEARCHED:
        assert float(derived.tables[name][:, : DIM // 2].abs().max()) == 0.0
        assert float(derived.tables[name][:, DIM // 2 :].abs().min()) > 0.0


def test_ratio_and_threshold_stand_in_for_a_budget() -> None:
    net = supernet(ratio=0.75)
    derived = derive_dnis(trained(net), None)
    assert derived.notes["dropped"] == pytest.approx(0.75, abs=0.01)
    whole = derive_dnis(trained(supernet()), None)
    assert whole.notes["dropped"] == 0.0
    cut = derive_dnis(trained(supernet(threshold=0.1)), None)
    assert cut.tables is not None
    values = torch.cat([cut.tables[n].flatten() for n in SEARCHED])
    assert float(values[values != 0].abs().min()) >= 0.1


def test_phases_say_what_moves() -> None:
    names = [(p.name, p.architecture, p.weights, p.epoch_ends) for p in supernet().phases]
    assert names == [
        ("warm start", "off", "all", "train"), ("search", "validation", "tables", "train"),
    ]  # fmt: skip
    net = supernet(search_weights="all", retrain="frozen_alpha_then_prune", epoch_ends="shorter")
    assert [(p.architecture, p.weights) for p in net.phases] == [
        ("off", "all"), ("validation", "all"), ("off", "all"),
    ]  # fmt: skip
    assert net.phases[1].epoch_ends == "shorter"


@pytest.mark.parametrize(
    ("retrain", "epochs"),
    [("none", 0), ("frozen_alpha_then_prune", 0), ("prune_then_masked_finetune", None)],
)
def test_three_ways_to_go_on(retrain: str, epochs: int | None) -> None:
    derived = derive_dnis(trained(supernet(retrain=retrain)), 2_000)
    assert derived.epochs == epochs
    assert derived.dense == "trained"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "explicit"}, "cuts go with blocks='explicit'"),
        ({"cuts": [3]}, "cuts go with blocks='explicit', got 'quantile'"),
        ({"ratio": 0.5, "threshold": 0.1}, "give ratio or threshold, got 0.5 and 0.1"),
        ({"alpha_rate": 1}, "dnis: option alpha_rate: .*; options are: blocks, num_blocks"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("dnis", **options)  # type: ignore[arg-type]


def test_alphas_of_frequent_rows_stay_open_where_only_they_matter() -> None:
    """Labels depend on 4 of 8 columns of frequent ids alone."""
    net = supernet(num_blocks=2, alpha_learning_rate=0.02, l1=0.01)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.collection.tables.parameters():
            parameter.normal_()
    frequent = {n: sum(net.blocks[n].rows[:1]) for n in SEARCHED}
    tables = net.raw_tables()
    truth = torch.zeros(DIM)
    truth[:4] = 2.0

    def batch(seed: int) -> tuple[object, Tensor]:
        kjt = batch_of(size=400, seed=seed)
        score = torch.zeros(400)
        for name in SEARCHED:
            jagged = kjt[name]
            bag = torch.repeat_interleave(torch.arange(400), jagged.lengths())
            hit = jagged.values() < frequent[name]
            score.index_add_(0, bag, (tables[name][jagged.values()] @ truth) * hit)
        return kjt, (score > 0).float()

    head = torch.nn.Linear(DIM * 3, 1)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, :DIM], head.weight[0, 2 * DIM :] = truth, truth
    optimizer = net.architecture_optimizer()
    (alpha,) = net.architecture_parameters()
    for step in range(60):
        kjt, labels = batch(step)
        losses = Losses(
            lambda: torch.zeros(()),
            lambda: loss_of(net, head, kjt, labels),  # type: ignore[arg-type]  # noqa: B023
            [],
            0.0,
        )
        (alpha.grad,) = net.architecture_gradient(losses)
        optimizer.step()
        net.after_architecture_step()
    means = alpha.detach().mean(1)
    assert float(means[0]) > float(means[1])
