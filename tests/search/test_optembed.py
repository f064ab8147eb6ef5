"""OptEmbed: thresholds, random widths, what is kept and what it costs."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.embeddings import CompressedEmbeddingBagCollection, size
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.search import Trained, optembed
from compactrec.embeddings.search.evolution import Budget, Evolved, evolve
from compactrec.embeddings.search.optembed import OptEmbedSupernet, derive_optembed
from compactrec.embeddings.search.prefix_mask import PrefixMask, prefix_masks
from compactrec.embeddings.thresholded import step
from tests.search.support import (
    DIM,
    FEATURES,
    SEARCHED,
    batch_of,
    loss_of,
    make_task,
    no_rows,
    train_weights,
)


def supernet(**options: object) -> OptEmbedSupernet:
    torch.manual_seed(0)
    options = {"generations": 5, **options}
    return OptEmbedSupernet(make_task("optembed", **options))  # type: ignore[arg-type]


def trained(net: OptEmbedSupernet, initial: dict[str, Tensor] | None = None) -> Trained:
    """A state whose fitness likes wide 'a' and narrow 'c'."""

    def fitness(masks: Tensor) -> Tensor:
        return (masks[:, 0].sum(1) - masks[:, 2].sum(1)).double()

    return Trained(net.task, net.eval(), initial or net.raw_tables(), fitness, no_rows)  # type: ignore[arg-type]


def set_thresholds(net: OptEmbedSupernet, value: float) -> None:
    with torch.no_grad():
        for threshold in net.architecture_parameters():
            threshold.fill_(value)


def test_the_step_and_its_surrogate_at_the_published_points() -> None:
    u = torch.tensor([-1.5, -1, -0.7, -0.4, -0.2, 0, 0.2, 0.4, 0.7, 1, 1.5], requires_grad=True)
    hard = step(u)
    assert hard.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    (slope,) = torch.autograd.grad(hard.sum(), u)
    expected = torch.tensor([0, 0.4, 0.4, 0.4, 1.2, 2, 1.2, 0.4, 0.4, 0.4, 0])
    torch.testing.assert_close(slope, expected)


def test_prefixes_are_lower_triangular() -> None:
    masks = prefix_masks(torch.arange(1, DIM + 1), DIM)
    assert torch.equal(masks, torch.ones(DIM, DIM).tril())
    assert masks.sum(1).tolist() == list(range(1, DIM + 1))


def test_widths_are_uniform_and_of_each_example_and_feature() -> None:
    torch.manual_seed(0)
    layer = PrefixMask(torch.tensor([True, False, True]), DIM)
    masks = layer.draw(4000)
    assert masks.shape == (4000, 3, DIM)
    assert bool((masks[:, 1] == 1).all()), "a feature that is not searched is whole"
    widths = masks.sum(2).long()
    for column in (0, 2):
        counts = torch.bincount(widths[:, column], minlength=DIM + 1)[1:]
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert float((widths[:, 0] == widths[:, 2]).float().mean()) == pytest.approx(1 / DIM, abs=0.02)
    layer.eval()
    vectors = torch.rand(5, 3, DIM)
    assert torch.equal(layer(vectors), vectors)


def test_the_penalty_pushes_thresholds_up() -> None:
    net = supernet(alpha=0.03)
    set_thresholds(net, 0.7)
    thresholds = net.architecture_parameters()
    penalty = net.penalty()
    assert isinstance(penalty, Tensor)
    found = torch.autograd.grad(penalty, thresholds)
    assert len(found) == len(SEARCHED)
    for gradient in found:
        torch.testing.assert_close(gradient, torch.full((1,), -0.03 * np.exp(-0.7)).float())


def test_low_thresholds_keep_all_and_high_ones_leave_nothing() -> None:
    net = supernet().eval()
    plain = net.raw_tables()
    set_thresholds(net, -1e30)
    assert all(torch.equal(net.effective_tables()[n], plain[n]) for n in plain)
    set_thresholds(net, 1e6)
    tables = net.effective_tables()
    assert all(float(tables[n].abs().max()) == 0.0 for n in SEARCHED)
    assert torch.equal(tables["b"], plain["b"])
    out = net(batch_of()).to_dict()
    assert all(float(out[n].detach().abs().max()) == 0.0 for n in SEARCHED)


def test_thresholds_move_by_the_task_and_by_their_own_optimizer() -> None:
    net = supernet(threshold_learning_rate=0.5)
    optimizer = net.architecture_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    thresholds = net.architecture_parameters()
    before = [t.detach().clone() for t in thresholds]
    net(batch_of()).values().square().sum().backward()
    gradients = [t.grad for t in thresholds]
    optimizer.step()
    assert len(thresholds) == len(SEARCHED)
    for old, new, gradient in zip(before, thresholds, gradients, strict=True):
        assert gradient is not None
        assert float(gradient.abs()) > 0
        torch.testing.assert_close(new.detach(), old - 0.5 * gradient)
        assert not torch.equal(new.detach(), old)
    assert [p.architecture for p in net.phases] == ["train"]


HELD = {"a": 40, "b": 7, "c": 20}
"""Batches of the next test hold these many first ids of each feature, and no others."""


@pytest.mark.parametrize("decay_mode", ["dense_coupled", "touched_rows"])
def test_rows_that_no_batch_holds_go_by_dense_decay_alone(decay_mode: str) -> None:
    """Adam's coupled decay takes them to nothing, however weak it is; under ``touched_rows`` they
    stay as they began, above their threshold."""
    net = supernet(variant="E", threshold_learning_rate=0.1, alpha=0.01, retrain="none")
    config = TrainConfig.model_validate(
        {
            "data": "-", "out": "-", "method": "full", "dim": DIM, "engine": "eager",
            "table_optimizer": "adam", "table_learning_rate": 0.01, "table_decay": 0.001,
            "dense_learning_rate": 0.01, "decay_mode": decay_mode,
        }
    )  # fmt: skip
    first = net.raw_tables()
    model = nn.ModuleDict({"net": net, "head": nn.Linear(DIM * len(FEATURES), 1)})
    optimizer = net.architecture_optimizer()
    assert optimizer is not None
    weights = Optimizers(model, [net.collection], config, exclude=net.architecture_parameters())
    held = tuple(f.model_copy(update={"num_ids": HELD[f.name]}) for f in FEATURES)
    for seed in range(150):
        batch = batch_of(held, size=64, seed=seed)
        lengths = batch["a"].lengths()
        owners = torch.repeat_interleave(torch.arange(64), lengths)
        odd = torch.zeros(64).index_add(0, owners, (batch["a"].values() % 2).float())
        labels = (2 * odd - lengths + 2 * (batch["c"].values() % 2) - 1 > 0).float()
        weights.zero_grad()
        optimizer.zero_grad()
        (loss_of(net, model["head"], batch, labels) + net.penalty()).backward()
        weights.step()
        optimizer.step()
    thresholds = torch.cat(net.architecture_parameters()).detach()
    assert 0.05 < float(thresholds.min()) <= float(thresholds.max()) < 0.2
    derived = derive_optembed(trained(net.eval()), None)
    assert derived.tables is not None
    for name in SEARCHED:
        kept = derived.tables[name].abs().sum(1) > 0
        unseen = kept[HELD[name] :]
        assert bool(kept[: HELD[name]].all())
        assert derived.notes["kept_rows"][name] == int(kept.sum())  # type: ignore[index,call-overload]
        assert bool(unseen.any()) == bool(unseen.all()) == (decay_mode == "touched_rows")
        if decay_mode == "touched_rows":
            assert torch.equal(net.raw_tables()[name][HELD[name] :], first[name][HELD[name] :])


@pytest.mark.parametrize("variant", ["full", "E", "D"])
def test_the_plan_is_the_masked_table(variant: str) -> None:
    net = supernet(variant=variant, retrain="none")
    train_weights(net)
    net.eval()
    if variant != "D":
        norms = torch.cat([m for m in net.margins().values()])
        set_thresholds(net, float(norms.median()))
    derived = derive_optembed(trained(net), None)
    assert derived.tables is not None
    collection = CompressedEmbeddingBagCollection(derived.plan)
    place(collection, derived.tables)
    widths = derived.notes["widths"]
    effective = net.effective_tables()
    values = 0
    for name in ("a", "b", "c"):
        table = logical_table(collection, name)
        width = widths[name] if name in SEARCHED else DIM  # type: ignore[index,call-overload]
        expected = effective[name] * (torch.arange(DIM) < width)
        assert torch.equal(table, expected)
        values += int((expected != 0).sum()) if name in SEARCHED else 0
    assert values == derived.notes["kept_values"]
    assert derived.epochs == 0
    if variant == "E":
        assert set(widths.values()) == {DIM}  # type: ignore[union-attr]
    if variant == "D":
        assert derived.notes["kept_rows"] == {"a": 60, "c": 31}


def test_the_small_tables_train_like_the_masked_ones() -> None:
    """After steps with frozen masks the materialised tables are the masked ones."""
    net = supernet(retrain="initial")
    norms = torch.cat([m for m in net.margins().values()])
    set_thresholds(net, float(norms.median()))
    derived = derive_optembed(trained(net), None)
    assert derived.tables is not None
    assert derived.dense == "initial"
    small = CompressedEmbeddingBagCollection(derived.plan)
    place(small, derived.tables)
    masked = {n: t.clone() for n, t in derived.tables.items()}
    masks = {n: (t != 0).float() for n, t in masked.items()}
    head = torch.randn(DIM * 3, generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        batch = batch_of(seed=seed)
        small.zero_grad(set_to_none=True)
        (small(batch).values() @ head).square().mean().backward()
        leaves = {n: t.requires_grad_() for n, t in masked.items()}
        vectors = []
        for i, feature in enumerate(FEATURES):
            jagged = batch[feature.name]
            bag = torch.repeat_interleave(torch.arange(batch.stride()), jagged.lengths())
            pooled = torch.zeros(batch.stride(), DIM)
            rows = (leaves[feature.name] * masks[feature.name])[jagged.values()]
            vectors.append(pooled.index_add(0, bag, rows) @ head[i * DIM : (i + 1) * DIM])
        torch.stack(vectors).sum(0).square().mean().backward()
        with torch.no_grad():
            for parameter in small.parameters():
                if parameter.grad is not None:
                    parameter -= 0.3 * parameter.grad
            masked = {
                n: (leaf - 0.3 * leaf.grad * masks[n]).detach()  # type: ignore[operator]
                for n, leaf in leaves.items()
            }
    for name, table in masked.items():
        torch.testing.assert_close(logical_table(small, name), table, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["full", "E", "D"])
@pytest.mark.parametrize("budget", [2_600, 1_900])
def test_plans_fit_their_budget(variant: str, budget: int) -> None:
    net = supernet(variant=variant)
    before = [t.detach().clone() for t in net.architecture_parameters()]
    derived = derive_optembed(trained(net), budget)
    assert size(derived.plan).serving_bytes <= budget
    after = [t.detach() for t in net.architecture_parameters()]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))
    if variant != "E":
        widths = derived.notes["widths"]
        assert widths["a"] > widths["c"]  # type: ignore[index,call-overload,operator]


def test_a_size_term_makes_plans_smaller() -> None:
    plain = derive_optembed(trained(supernet()), None)
    small = derive_optembed(trained(supernet(size_weight=1e4)), None)
    assert size(small.plan).serving_bytes < size(plain.plan).serving_bytes


def test_retraining_starts_where_the_option_says() -> None:
    first = supernet().raw_tables()
    net = supernet()
    train_weights(net)
    fresh = derive_optembed(trained(supernet(retrain="fresh")), 2_600)
    assert (fresh.tables, fresh.dense, fresh.epochs) == (None, "fresh", None)
    ticket = derive_optembed(trained(net, first), 2_600)
    assert ticket.tables is not None
    kept = ticket.tables["a"] != 0
    assert torch.equal(ticket.tables["a"][kept], first["a"][kept])


def test_a_threshold_rules_the_rows_of_its_own_feature_alone() -> None:
    """In the published code boundaries of fields drift, and rows get a neighbour's threshold."""
    net = supernet()
    first, second = net.architecture_parameters()
    with torch.no_grad():
        first.fill_(1e6)
        second.fill_(-1e6)
    tables = net.eval().effective_tables()
    assert float(tables["a"].abs().max()) == 0.0
    assert bool((tables["c"].abs().sum(1) > 0).all())
    assert sum(len(t) for t in tables.values()) == sum(f.num_ids or 0 for f in FEATURES)


@pytest.mark.parametrize("variant", ["full", "E", "D"])
def test_a_budget_that_cannot_be_met_names_the_smallest_bytes(variant: str) -> None:
    net = supernet(variant=variant)
    with pytest.raises(ValueError, match=r"take.* ([\d,]+) bytes.* budget is 100;") as refusal:
        derive_optembed(trained(net), 100)
    found = re.search(r"takes? (?:only )?([\d,]+) bytes|still takes ([\d,]+)", str(refusal.value))
    assert found is not None
    smallest = int((found[1] or found[2]).replace(",", ""))
    derived = derive_optembed(trained(net), smallest)
    assert size(derived.plan).serving_bytes == smallest
    with pytest.raises(ValueError, match="raise the budget"):
        derive_optembed(trained(net), smallest - 1)


@pytest.mark.parametrize("variant", ["full", "E"])
def test_thresholds_above_every_row_leave_a_plan_without_rows(variant: str) -> None:
    net = supernet(variant=variant)
    set_thresholds(net, 1e6)
    derived = derive_optembed(trained(net), 300)
    assert derived.notes["kept_values"] == 0
    with pytest.raises(ValueError, match="raise the budget"):
        derive_optembed(trained(net), 200)


def test_deriving_leaves_the_state_as_it_was() -> None:
    """To the last bit, or a second budget would see other rows."""
    net = supernet()
    set_thresholds(net, 0.1)
    before = [t.detach().clone() for t in net.architecture_parameters()]
    with net.raised(1e6):
        assert all(float(t.detach()) > 1e5 for t in net.architecture_parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(before, net.architecture_parameters(), strict=True)
    )
    one, two = (derive_optembed(trained(net), 1_900) for _ in range(2))
    assert one.plan == two.plan
    assert one.notes == two.notes


def test_candidates_cost_what_their_plan_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code counts one column too few for every kept row while it searches."""
    seen: list[Budget] = []

    def spy(*args: Any) -> Evolved:
        seen.append(args[-1])
        return evolve(*args)

    monkeypatch.setattr(optembed, "evolve", spy)
    net = supernet()
    norms = torch.cat(list(net.margins().values()))
    set_thresholds(net, float(norms.median()))
    derived = derive_optembed(trained(net), 2_300)
    widths = np.array(list(derived.notes["widths"].values()))  # type: ignore[union-attr]
    assert seen[0].of(widths) == size(derived.plan).serving_bytes <= 2_300


def test_variants_are_named_as_in_the_first_version() -> None:
    """In the last version of the published code the words for E and D have changed places."""
    rows, widths = supernet(variant="E"), supernet(variant="D")
    assert (len(rows.architecture_parameters()), rows.layer) == (len(SEARCHED), None)
    assert widths.architecture_parameters() == []
    assert isinstance(widths.layer, PrefixMask)
    assert [p.architecture for p in widths.phases] == ["off"]
    assert widths.penalty() == 0.0
    assert widths.architecture_optimizer() is None


def test_the_published_code_has_no_budget() -> None:
    with pytest.raises(ValueError, match="strict_official is the published code, which knows no"):
        derive_optembed(trained(supernet(strict_official=True)), 2_000)
    assert derive_optembed(trained(supernet(strict_official=True)), None).notes["num_judged"]


def test_an_empty_bag_and_a_weightless_row_give_zeros() -> None:
    net = supernet().eval()
    set_thresholds(net, -1.0)  # below every norm, that of a zero row too
    batch = batch_of()
    out = net(batch)["a"]
    empty = batch["a"].lengths() == 0
    assert bool(empty.any())
    assert float(out[empty].detach().abs().max()) == 0.0
