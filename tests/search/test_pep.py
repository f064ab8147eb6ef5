"""PEP: the threshold's formula, what moves it, the masks it leaves, and training what is left."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, size, soft_threshold
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.search import Phase, SearchTask, Supernet, Trained, get_search
from compactrec.embeddings.search.base import parse_search_options
from compactrec.embeddings.search.pep import PepOptions, PepSupernet, derive_pep
from compactrec.embeddings.search.pruning import sparse_plan
from compactrec.embeddings.soft_threshold import shrink
from tests.reference import soft_threshold as reference
from tests.search.support import (
    FEATURES,
    SEARCHED,
    batch_of,
    loss_of,
    make_task,
    no_fitness,
    no_rows,
)

BUDGETS = (2_000, 1_300)
STEPS = 60
GRAINS = ("id_dim", "id", "dim", "feature")
each_grain = pytest.mark.parametrize("grain", GRAINS)


def supernet(budgets: tuple[int, ...] = BUDGETS, **options: object) -> PepSupernet:
    torch.manual_seed(0)
    task = make_task("pep", **options)  # type: ignore[arg-type]
    return PepSupernet(replace(task, budgets=budgets, steps_per_epoch=STEPS))


def train(net: Supernet, steps: int, *, stop: bool = False, decay: float = 1e-5) -> list[Tensor]:
    """Joint steps as the loop makes them; the non-zero values of the searched tables after each."""
    torch.manual_seed(5)
    head = torch.nn.Linear(net.task.dim * len(net.task.features), 1)
    own = {id(p) for p in net.architecture_parameters()}
    weights = [
        p for p in [*net.parameters(), *head.parameters()] if id(p) not in own and p.requires_grad
    ]
    optimizer = torch.optim.Adam(weights, lr=1e-3, weight_decay=decay)
    architecture = net.architecture_optimizer()
    assert architecture is not None
    history = []
    for step in range(steps):
        batch = batch_of(net.task.features, seed=step)
        labels = (batch.values()[: batch.stride()] % 2).float()
        optimizer.zero_grad()
        architecture.zero_grad()
        loss_of(net, head, batch, labels).backward()
        optimizer.step()
        architecture.step()
        net.after_step(net.phases[0])
        if isinstance(net, PepSupernet):
            history.append(torch.cat([(m > 0).flatten() for m in net.margins().values()]))
        if stop and net.finished():
            break
    return history


def trained(net: PepSupernet) -> Trained:
    initial = supernet(net.task.budgets).raw_tables()
    return Trained(net.task, net.eval(), initial, no_fitness, no_rows)


# The threshold.


@given(v=st.floats(-3, 3, width=32), s=st.floats(-150, 5, width=32))
def test_values_shrink_by_the_threshold_and_keep_their_sign(v: float, s: float) -> None:
    value, of_s = torch.tensor(v), torch.tensor(s)
    found = float(shrink(value, of_s))
    assert found == pytest.approx(float(reference.shrink(value, of_s)), abs=1e-6)
    assert found * v >= 0
    threshold = 1 / (1 + math.exp(-s))
    assert abs(found) == pytest.approx(max(abs(v) - threshold, 0), abs=1e-6)


def test_a_higher_s_never_has_fewer_zeros() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    zeros = [int((shrink(values, s) == 0).sum()) for s in torch.linspace(-15, 2, 30)]
    assert zeros == sorted(zeros)
    assert zeros[0] < zeros[-1]


def test_signs_of_the_gradients() -> None:
    values = torch.tensor([0.9, -0.9, 0.1, -0.1], requires_grad=True)
    s = torch.full((4,), -1.0, requires_grad=True)  # a threshold of 0.27
    shrink(values, s).sum().backward()
    assert values.grad is not None
    assert s.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]
    slope = 0.26894 * (1 - 0.26894)
    torch.testing.assert_close(s.grad, torch.tensor([-slope, slope, 0, 0]), atol=1e-4, rtol=0)


# What moves s.


@pytest.mark.parametrize("start", [-150.0, -100.0])
def test_where_the_sigmoid_underflows_the_loss_cannot_move_s(start: float) -> None:
    s = torch.full((3,), start, requires_grad=True)
    assert float(s.detach().sigmoid().max()) == 0.0
    shrink(torch.tensor([1.0, -2.0, 3.0]), s).square().sum().backward()
    assert s.grad is not None
    assert s.grad.tolist() == [0, 0, 0]
    assert float(torch.tensor(-15.0).sigmoid()) == pytest.approx(3.06e-7, rel=0.01)


@each_grain
def test_under_coupled_decay_s_rises_by_the_rate_each_step(grain: str) -> None:
    net = supernet((), granularity=grain, start=-150.0, rate=1e-3)
    train(net, 200)
    for name in SEARCHED:
        moved = net.thresholds(name) + 150.0
        torch.testing.assert_close(moved, torch.full_like(moved, 0.2), rtol=0.01, atol=1e-4)


def test_ten_thousand_steps_of_coupled_decay() -> None:
    """The published start and rate: -150 to -140, so 150,000 steps to where it matters."""
    s = torch.full((2,), -150.0, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=1e-3, weight_decay=1e-5, fused=True)
    for _ in range(10_000):
        s.grad = torch.zeros(2)
        optimizer.step()
    assert s.tolist() == pytest.approx([-140.0] * 2, abs=0.1)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "none"])
def test_without_coupled_decay_it_never_prunes(decay: str) -> None:
    """At a rate of 3, where a gradient of any size moves ``s`` from -150 to 0 in 70 steps."""
    rate, start, steps = 3.0, -150.0, 70
    net = supernet((), start=start, rate=rate)
    parameters = net.architecture_parameters()
    optimizer: torch.optim.Optimizer
    match decay:
        case "coupled":
            optimizer = net.architecture_optimizer()
        case "decoupled":
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-5)
        case _:
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    head = torch.nn.Linear(24, 1)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(net, head, batch_of(seed=step), torch.ones(32)).backward()
        optimizer.step()
    s = torch.cat([p.detach().flatten() for p in parameters])
    zeros = sum(int((margin <= 0).sum()) for margin in net.margins().values())
    if decay == "coupled":
        assert float(s.mean()) > -10
        assert zeros > 0
        return
    expected = start * (1 - rate * 1e-5) ** steps if decay == "decoupled" else start
    torch.testing.assert_close(s, torch.full_like(s, expected), rtol=0, atol=2e-3)
    assert bool((s > start).all()) == (decay == "decoupled")
    assert zeros == 0


def test_a_start_that_nothing_can_move_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pep: option .*start -150.0 has no gradient in"):
        parse_search_options(get_search("pep"), {"start": -150.0, "decay": 0.0})
    with pytest.raises(ValueError, match="rate must be above 0 or 'auto', got -1"):
        parse_search_options(get_search("pep"), {"rate": -1})


@pytest.mark.parametrize("steps", [20, 3_000, 12_000, 400_000])
def test_by_default_the_threshold_matters_within_the_run(steps: int) -> None:
    start, rate = PepOptions().begin(steps)
    assert -15.0 <= start <= -10.0 + 1e-9
    assert start + 0.67 * rate * steps >= 0, "and is large before its end"
    assert rate == pytest.approx(max(1e-3, 15 / steps))
    assert PepOptions(start=-150.0, rate=0.5).begin(steps) == (-150.0, 0.5)


# The supernet.


@each_grain
def test_bags_are_sums_of_thresholded_rows(grain: str) -> None:
    net = supernet(granularity=grain, start=-2.0)
    train(net, 3)
    plain = CompressedEmbeddingBagCollection(sparse_plan(net.task, {}))
    place(plain, net.effective_tables())
    bags = batch_of(seed=9)
    torch.testing.assert_close(net(bags).values(), plain(bags).values(), rtol=1e-5, atol=1e-6)
    raw, effective = net.raw_tables(), net.effective_tables()
    for name in SEARCHED:
        expected = shrink(raw[name], net.thresholds(name))
        torch.testing.assert_close(effective[name], expected)
        assert torch.equal(effective[name] != 0, net.margins()[name] > 0)
    assert torch.equal(effective["b"], raw["b"])


def test_a_step_thresholds_what_its_batch_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published code thresholds the whole table in every step."""
    features = (
        Feature(name="a", num_ids=20_000, dim=8, max_bag=2),
        Feature(name="b", num_ids=5, dim=8),
        Feature(name="c", num_ids=9_000, dim=8),
    )
    task = replace(make_task("pep", features=features), budgets=(10_000,), steps_per_epoch=10_000)
    net = PepSupernet(task)
    assert net.look_every_steps == 50
    values = 0

    def counting(v: Tensor, s: Tensor) -> Tensor:
        nonlocal values
        values += v.numel()
        return shrink(v, s)

    monkeypatch.setattr(soft_threshold, "shrink", counting)
    looks = []
    monkeypatch.setattr(PepSupernet, "_look", lambda self: looks.append(int(self.num_steps)))
    for _ in range(100):
        net(batch_of(features, size=4))
        net.after_step(Phase("train", 1))
    assert 0 < values <= 100 * 4 * 8 * (2 + 1)
    assert looks == [50, 100]


@pytest.mark.parametrize("search", ["pep", "optembed"])
def test_decay_leaves_the_rows_alone_that_carry_weights(search: str) -> None:
    task = make_task(search)
    net = get_search(search).supernet(task)
    before = {n: p.detach().clone() for n, p in net.named_parameters() if not p.requires_grad}
    assert before, "one-hot rows are frozen"
    train(net, 20, decay=0.1)
    after = dict(net.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(float(value.sum()) >= 1 for value in before.values())


# Masks and plans.


def test_masks_are_kept_when_the_bytes_first_fall_to_a_budget() -> None:
    net = supernet(look_every_steps=1)
    history = train(net, STEPS, stop=True)
    assert net.finished()
    assert len(history) < STEPS, "training ends at the smallest budget"
    state = trained(net)
    plans = [derive_pep(state, budget) for budget in BUDGETS]
    at = []
    for budget, derived in zip(BUDGETS, plans, strict=True):
        assert 0.97 * budget < size(derived.plan).serving_bytes <= budget
        assert derived.notes["kept"] == "not zero when training reached the budget"
        mask = net.mask_at(budget)
        assert mask is not None
        flat = torch.cat([m.flatten() for m in mask.values()])
        # All that was not zero at the first look within the budget is kept, and little more.
        bytes_at = [_bytes(net.task, values) for values in history]
        first = next(i for i, taken in enumerate(bytes_at) if taken <= budget)
        assert bool((flat >= history[first]).all())
        assert int(history[first].sum()) <= int(flat.sum()) <= int(history[first - 1].sum())
        at.append(first)
    assert at[0] < at[1] == len(history) - 1


def test_a_late_look_takes_back_what_fell_last() -> None:
    """Between two looks far more may fall than the budget asks for."""
    net = supernet(look_every_steps=6)
    history = train(net, STEPS)
    at_looks = [_bytes(net.task, values) for values in history[5::6]]
    shares = []
    for budget in BUDGETS:
        shares.append(next(taken for taken in at_looks if taken <= budget) / budget)
        taken = size(derive_pep(trained(net), budget).plan).serving_bytes
        assert 0.97 * budget < taken <= budget
    assert min(shares) < 0.95


def _bytes(task: SearchTask, values: Tensor) -> int:
    pieces = values.split([(f.num_ids or 0) * f.dim for f in task.searched_features])
    named = zip(task.searched_features, pieces, strict=True)
    return size(sparse_plan(task, {f.name: p.view(-1, f.dim) for f, p in named})).serving_bytes


def test_a_resumed_search_has_its_masks() -> None:
    net = supernet(look_every_steps=1)
    train(net, STEPS, stop=True)
    other = supernet(look_every_steps=1)
    assert other.mask_at(BUDGETS[0]) is None
    other.load_state_dict(net.state_dict())
    assert other.finished()
    assert int(other.num_steps) == int(net.num_steps)
    for budget in BUDGETS:
        one, two = net.mask_at(budget), other.mask_at(budget)
        assert one is not None
        assert two is not None
        assert all(torch.equal(one[name], two[name]) for name in SEARCHED)
    dtypes = {b.dtype for name, b in net.named_buffers() if name.startswith("kept_")}
    assert dtypes == {torch.uint8}


def test_a_budget_that_training_did_not_reach_takes_the_largest_left() -> None:
    net = supernet(start=-15.0, rate=1e-4)
    train(net, 5)
    assert not net.finished()
    derived = derive_pep(trained(net), BUDGETS[1])
    assert 0.97 * BUDGETS[1] < size(derived.plan).serving_bytes <= BUDGETS[1]
    assert "training ended before the budget" in str(derived.notes["kept"])
    assert derived.tables is not None
    margins = net.margins()
    kept = torch.cat([margins[n][derived.tables[n] != 0] for n in SEARCHED])
    gone = torch.cat([margins[n][derived.tables[n] == 0] for n in SEARCHED])
    assert float(kept.min()) >= float(gone.max()) - 1e-6
    with pytest.raises(ValueError, match=r"the smallest plan takes .* bytes and the budget is 100"):
        derive_pep(trained(net), 100)


def test_without_a_budget_all_that_is_not_zero_stays() -> None:
    net = supernet((), start=-3.0)
    train(net, 5)
    assert not net.finished()
    derived = derive_pep(trained(net), None)
    nonzero = sum(int((net.effective_tables()[name] != 0).sum()) for name in SEARCHED)
    assert derived.notes["kept_values"] == nonzero
    assert 0 < nonzero < 91 * 8


@pytest.mark.parametrize("retrain", ["initial", "trained"])
def test_retraining_starts_from_kept_values_and_zeros_stay_zero(retrain: str) -> None:
    net = supernet(retrain=retrain, look_every_steps=1)
    train(net, STEPS, stop=True)
    state = trained(net)
    derived = derive_pep(state, BUDGETS[1])
    mask = net.mask_at(BUDGETS[1])
    assert derived.tables is not None
    assert mask is not None
    assert (derived.dense, derived.epochs) == (retrain, None)
    source = state.initial if retrain == "initial" else net.raw_tables()
    collection = CompressedEmbeddingBagCollection(derived.plan)
    place(collection, derived.tables)
    for name in SEARCHED:
        assert torch.equal(logical_table(collection, name), source[name] * mask[name])
    assert not any("__s" in key for key in collection.state_dict()), "no thresholds are left"
    optimizer = torch.optim.Adam(collection.parameters(), lr=0.1, weight_decay=1e-5)
    for step in range(5):
        optimizer.zero_grad()
        collection(batch_of(seed=step)).values().square().sum().backward()
        optimizer.step()
    for name in SEARCHED:
        after = logical_table(collection, name)
        assert bool((after[~mask[name]] == 0).all())
        assert not torch.equal(after, source[name] * mask[name])


def test_the_first_values_are_those_of_the_same_seed() -> None:
    first, second = supernet().raw_tables(), supernet(granularity="feature").raw_tables()
    assert all(torch.equal(first[f.name], second[f.name]) for f in FEATURES)
    assert {name: table.shape for name, table in first.items()} == {
        f.name: (f.num_ids, f.dim) for f in FEATURES
    }
