"""DNIS: what its supernet computes, who moves what, and what is derived."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    full_plan,
    size,
)
from compactrec.embeddings.checkpoint_state import model_tensors, put_model
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.search import (
    DnisOptions,
    DnisSupernet,
    Losses,
    SearchTask,
    get_search,
)
from compactrec.embeddings.search.base import parse_search_options
from compactrec.embeddings.search.block_columns import BlockColumns
from compactrec.embeddings.search.dnis import per_block
from compactrec.embeddings.search.pruning import masked, masks_at_ratio, searched_tables
from tests.contract.support import make_batch
from tests.search.tiny_loop import Example, kjt, run, trained

D = 8
FEATURES = (
    Feature(name="a", num_ids=200, dim=D, max_bag=3),
    Feature(name="few", num_ids=4, dim=D),
    Feature(name="b", num_ids=90, dim=D),
    Feature(name="c", num_ids=61, dim=D, pooling="mean", max_bag=2),
)
SEARCHED = ("a", "b", "c")


def counts() -> dict[str, np.ndarray]:
    """Ids of ``a`` are numbered by frequency, those of ``b`` and ``c`` are not."""
    rng = np.random.default_rng(5)
    zipf = {f.name: (900 / np.arange(1, (f.num_ids or 0) + 1)).astype(np.int64) for f in FEATURES}
    return {n: c if n == "a" else rng.permutation(c) for n, c in zipf.items()}


def task(**options: Any) -> SearchTask:
    parsed = parse_search_options(get_search("dnis"), options)
    return SearchTask(FEATURES, SEARCHED, counts(), parsed)


def supernet(seed: int = 0, **options: Any) -> DnisSupernet:
    torch.manual_seed(seed)
    return DnisSupernet(task(**options))


def moved(net: DnisSupernet, seed: int = 1) -> DnisSupernet:
    """Gates of all sizes, some closed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alpha in net.architecture_parameters():
            alpha.copy_(torch.rand(alpha.shape, generator=generator).sub(0.2).clamp(0, 1))
    return net


def full_bytes() -> int:
    return size(full_plan(FEATURES)).serving_bytes


def examples(num_batches: int, seed: int) -> list[Example]:
    """Ids by frequency, labels that depend on the id of ``a``."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_batches):
        ids = {
            n: torch.from_numpy(rng.choice(len(c), size=64, p=c / c.sum()))
            for n, c in counts().items()
        }
        found.append((kjt(ids), (ids["a"] % 2).float()))
    return found


def head() -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(len(FEATURES) * D, 1)


# What the supernet computes


@pytest.mark.parametrize("blocks", ["quantile", "per_field_quantile"])
def test_open_gates_change_no_bit(blocks: str) -> None:
    net = supernet(blocks=blocks)
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, net.effective_tables())
    batch = make_batch(plain.plan, "single", size=50).kjt()
    assert torch.equal(net(batch).values(), plain(batch).values())
    bags = make_batch(plain.plan, "multi", size=50).kjt()
    torch.testing.assert_close(net(bags).values(), plain(bags).values(), rtol=1e-6, atol=1e-6)


def test_rows_of_a_closed_block_are_zero() -> None:
    net = supernet(num_blocks=4)
    (alpha,) = net.architecture_parameters()
    with torch.no_grad():
        alpha[1] = 0.0
    tables = net.effective_tables()
    for name, of_id in net.block_of().items():
        closed = torch.from_numpy(of_id) == 1
        assert closed.any()
        assert not tables[name][closed].any()
        assert bool((tables[name][~closed] != 0).all())
    assert bool((tables["few"] != 0).all())


@pytest.mark.parametrize("blocks", ["quantile", "per_field_quantile"])
@pytest.mark.parametrize("normalize", [False, True])
def test_folded_tables_give_the_same_vectors(blocks: str, normalize: bool) -> None:
    net = moved(supernet(blocks=blocks, normalize=normalize))
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, net.effective_tables())
    batch = make_batch(plain.plan, "multi", size=50).kjt()
    torch.testing.assert_close(net(batch).values(), plain(batch).values(), rtol=1e-5, atol=1e-6)


def test_raw_tables_are_those_without_gates() -> None:
    net = supernet()
    before = net.effective_tables()
    after = moved(net).raw_tables()
    (alpha,) = net.architecture_parameters()
    assert not bool((alpha == 1).all()), "the gates are put back"
    for name, table in after.items():
        assert torch.equal(table, before[name])
        assert torch.equal(table, net.effective_tables()[name]) == (name == "few")


def test_blocks_over_all_features_have_one_gate() -> None:
    net = supernet(num_blocks=5)
    (alpha,) = net.architecture_parameters()
    assert alpha.shape == (len(net.blocks["a"].rows), D)
    batch = make_batch(net.collection.plan, "single", size=80).kjt()
    (together,) = torch.autograd.grad(net(batch).values().square().sum(), [alpha])
    apart = supernet(num_blocks=5)
    for gate in apart.gates.values():
        gate.alpha = nn.Parameter(gate.alpha.detach().clone())
    each = torch.autograd.grad(
        apart(batch).values().square().sum(), [gate.alpha for gate in apart.gates.values()]
    )
    torch.testing.assert_close(together, torch.stack(each).sum(0))
    assert all(bool(gradient.any()) for gradient in each)


def test_gates_of_each_feature_are_its_own() -> None:
    net = supernet(blocks="per_field_quantile", num_blocks=3)
    assert len(net.architecture_parameters()) == len(SEARCHED)


def test_a_state_is_saved_and_loaded_with_its_one_gate() -> None:
    net = moved(supernet())
    state = net.state_dict()
    saved = {name: tensor.clone() for name, tensor in model_tensors(net).items()}
    assert sum(name.endswith(".alpha") for name in saved) == 1, "a file holds it once"
    names = [name for name in state if name.endswith(".alpha")]
    assert len(names) == len(SEARCHED)
    other = supernet(seed=9)
    put_model(other, saved)
    (mine,), (theirs,) = net.architecture_parameters(), other.architecture_parameters()
    assert torch.equal(mine, theirs)
    assert all(gate.alpha is theirs for gate in other.gates.values())
    for name, table in net.effective_tables().items():
        assert torch.equal(other.effective_tables()[name], table)


def test_rows_are_ranked_by_the_frequencies_of_the_task_alone() -> None:
    """Public code counts all rows, test rows too, before it splits them."""
    net = supernet(num_blocks=4)
    joined = np.concatenate([counts()[n] for n in SEARCHED])
    blocks = np.concatenate([net.block_of()[n] for n in SEARCHED])
    assert np.all(np.diff(blocks[np.argsort(-joined, kind="stable")]) >= 0)
    assert all(len(set(blocks[joined == n])) == 1 for n in set(joined))


def test_frequencies_are_needed_for_what_is_searched() -> None:
    wrong = counts() | {"b": np.ones(3, dtype=np.int64)}
    with pytest.raises(ValueError, match="'b' has 90 ids and 3 training frequencies; a searched"):
        DnisSupernet(SearchTask(FEATURES, SEARCHED, wrong, DnisOptions()))


# Who moves what


def short(**options: Any) -> DnisSupernet:
    given = {"warm_epochs": 1, "search_epochs": 2, "num_blocks": 4} | options
    return supernet(**given)


def test_gates_are_one_at_first_and_move_once_a_step_in_the_search() -> None:
    """Which rows give whom a gradient is the loop's to keep: `test_search_steps.py`."""
    net = short()
    (alpha,) = net.architecture_parameters()
    opened: list[bool] = []
    spy = run(
        net,
        head(),
        examples(6, 0),
        examples(4, 1),
        after=lambda phase: opened.append(bool((alpha == 1).all())),
    )
    assert opened[:6] == [True] * 6, "all gates are one through the warm start"
    assert not opened[-1]
    assert spy.steps == {"warm start": ["w"] * 6, "search": ["w", "a"] * 12}
    assert spy.validated == [0, 1, 2, 3, 0, 1] * 2
    assert spy.bounds == (0.0, 1.0)


def test_gates_stay_between_zero_and_one_under_a_rate_that_overshoots() -> None:
    net = short(alpha_learning_rate=2.0)
    (alpha,) = net.architecture_parameters()
    closed: list[bool] = []
    spy = run(
        net,
        head(),
        examples(8, 0),
        examples(8, 1),
        after=lambda phase: closed.append(bool((alpha == 0).any())),
    )
    assert spy.bounds == (0.0, 1.0)
    assert any(closed), "without a clamp some would be below zero"


def test_a_search_may_start_cold() -> None:
    assert [phase.name for phase in short(warm_epochs=0).phases] == ["search"]


def test_the_published_epoch_ends_with_the_shorter_split() -> None:
    spy = run(short(epoch_ends="shorter"), head(), examples(6, 0), examples(4, 1))
    assert spy.validated == [0, 1, 2, 3] * 2


def test_the_search_trains_the_network_on_request() -> None:
    """Public code always freezes all but the embeddings in the search, against its objective."""
    for search_weights, frozen in (("embeddings_only", True), ("all", False)):
        layer, seen = head(), []
        run(
            short(search_weights=search_weights),
            layer,
            examples(4, 0),
            examples(4, 1),
            after=lambda phase, layer=layer, seen=seen: seen.append(  # type: ignore[misc]
                (phase, layer.weight.detach().clone())
            ),
        )
        warm = [w for phase, w in seen if phase == "warm start"][-1]
        assert torch.equal(warm, seen[-1][1]) == frozen


def test_frozen_gates_before_pruning_are_a_phase_of_their_own() -> None:
    net = short(retrain="frozen_alpha_then_prune", retrain_epochs=3)
    (alpha,) = net.architecture_parameters()
    seen: list[tuple[str, Tensor]] = []
    spy = run(
        net,
        head(),
        examples(4, 0),
        examples(4, 1),
        after=lambda phase: seen.append((phase, alpha.detach().clone())),
    )
    assert spy.steps["alpha frozen"] == ["w"] * 12
    searched = [a for phase, a in seen if phase == "search"][-1]
    assert all(torch.equal(a, searched) for phase, a in seen if phase == "alpha frozen")


def test_normalised_gradients_have_mean_one_by_block() -> None:
    gradient = torch.tensor([[1e-2, -3e-2], [400.0, 0.0], [0.0, 0.0], [-2.0, 1.0]])
    means = per_block(gradient).abs().mean(1)
    torch.testing.assert_close(means, torch.tensor([1.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-5)
    assert torch.equal(per_block(gradient).sign(), gradient.sign())


def losses(net: DnisSupernet, layer: nn.Module) -> Iterator[Losses]:
    """First without, then with a training loss that depends on the gates and the weights."""
    (train, labels), (held_out, held_labels) = examples(1, 3)[0], examples(1, 4)[0]

    def loss(features: Any, wanted: Tensor) -> Tensor:
        logits = layer(net(features).values())[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logits, wanted)

    held = {id(p) for p in net.architecture_parameters()}
    weights = [p for p in [*net.parameters(), *layer.parameters()] if id(p) not in held]

    def never() -> Tensor:
        raise AssertionError("first order looked at the training loss")

    for of_train in (never, lambda: loss(train, labels)):
        yield Losses(of_train, lambda: loss(held_out, held_labels), weights, 0.1)


def test_the_gradient_is_of_the_validation_loss_and_the_l1_norm() -> None:
    net, layer = moved(supernet(l1=0.5)), head()
    first = next(losses(net, layer))
    (found,) = net.architecture_gradient(first)
    (alpha,) = net.architecture_parameters()
    (of_loss,) = torch.autograd.grad(first.validation(), [alpha])
    torch.testing.assert_close(found, per_block(of_loss + 0.5 * alpha.detach().sign()))
    untouched = supernet(blocks="per_field_quantile", l1=0.1)
    gradients = untouched.architecture_gradient(next(losses(untouched, layer)))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_second_order_looks_through_a_step_of_the_weights() -> None:
    found = {}
    for options in ({}, {"second_order": True, "xi": 0.0}, {"second_order": True}):
        net, layer = moved(supernet(l1=0.0, **options)), head()  # type: ignore[arg-type]
        both = list(losses(net, layer))
        used = both[1] if options == {"second_order": True} else both[0]
        (found[len(found)],) = net.architecture_gradient(used)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=1e-3)


def test_gates_of_frequent_rows_stay_open_where_rare_rows_are_noise() -> None:
    """Labels depend on 4 of 16 dimensions, and for frequent rows only."""
    width, num_ids, frequent = 16, 60, 12
    feature = Feature(name="x", num_ids=num_ids, dim=width)
    often = np.where(np.arange(num_ids) < frequent, 100, 10)
    options = DnisOptions(blocks="explicit", cuts=(frequent,), warm_epochs=2, search_epochs=4)
    torch.manual_seed(0)
    net = DnisSupernet(SearchTask((feature,), ("x",), {"x": often}, options))
    layer = nn.Linear(width, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()[0, :4] = 1.0
    layer.weight.requires_grad_(False)
    rng = np.random.default_rng(0)
    taste = rng.normal(size=num_ids) * 3

    def drawn(num_batches: int) -> list[Example]:
        found = []
        for _ in range(num_batches):
            ids = rng.choice(num_ids, size=128, p=often / often.sum())
            logits = np.where(ids < frequent, taste[ids], 0.0)
            labels = rng.random(128) < 1 / (1 + np.exp(-logits))
            found.append((kjt({"x": torch.from_numpy(ids)}), torch.from_numpy(labels).float()))
        return found

    run(net, _Fixed(layer), drawn(20), drawn(10))
    (alpha,) = net.architecture_parameters()
    means = alpha.detach().mean(1)
    assert float(means[0]) > float(means[1]) + 0.05
    assert float(alpha[0, :4].detach().min()) > float(alpha[0, 4:].detach().max())


class _Fixed(nn.Module):
    """A head whose weights no optimizer sees."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", layer.weight.detach())

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors @ self.weight.T  # type: ignore[no-any-return, operator]


# What is derived


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
@pytest.mark.parametrize("blocks", ["quantile", "per_field_quantile"])
@pytest.mark.parametrize("share", [0.75, 0.3])
def test_a_budget_is_kept_and_used(structure: str, blocks: str, share: float) -> None:
    net = moved(supernet(structure=structure, blocks=blocks))
    budget = int(share * full_bytes())
    derived = get_search("dnis").derive(trained(net.task, net), budget)
    taken = size(derived.plan).serving_bytes
    largest_column = 4 * 200
    assert budget - (largest_column if structure == "structured" else 400) < taken <= budget
    assert derived.plan.features == FEATURES
    methods = {g.config.method for g in derived.plan.groups}
    assert methods <= {"full", "sparse" if structure == "unstructured" else "pruned"}
    assert len(methods) == 2


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
@pytest.mark.parametrize("chosen", [{"ratio": 0.6}, {"threshold": 0.02}, {}], ids=str)
def test_the_plan_stands_for_the_pruned_product(structure: str, chosen: dict[str, float]) -> None:
    net = moved(supernet(structure=structure, **chosen))
    derived = get_search("dnis").derive(trained(net.task, net), None)
    collection = CompressedEmbeddingBagCollection(derived.plan)
    assert derived.tables is not None
    place(collection, derived.tables)
    folded = net.effective_tables()
    for name, table in derived.tables.items():
        assert torch.equal(logical_table(collection, name), table)
        kept = table != 0
        assert torch.equal(table[kept], folded[name][kept])
        if not chosen:
            assert torch.equal(table, folded[name])
    kept_values = sum(int((derived.tables[n] != 0).sum()) for n in SEARCHED)
    total = sum(derived.tables[n].numel() for n in SEARCHED)
    if "ratio" in chosen:
        slack = 1 if structure == "unstructured" else 400
        assert 0 <= 0.4 * total - kept_values + 1 <= slack + 1
    if "threshold" in chosen:
        assert 0 < kept_values < total


def test_unstructured_ratio_is_magnitude_pruning_of_the_product() -> None:
    net = moved(supernet(ratio=0.7))
    derived = get_search("dnis").derive(trained(net.task, net), None)
    folded = net.effective_tables()
    expected = masked(folded, masks_at_ratio(searched_tables(net.task, folded), 0.7))
    assert derived.tables is not None
    assert all(torch.equal(derived.tables[n], expected[n]) for n in expected)


def test_the_product_decides_not_the_table_and_not_the_gate() -> None:
    """A public notebook prunes by |E| while the gates still multiply in the forward pass."""
    net = supernet(ratio=0.5, num_blocks=2)
    (alpha,) = net.architecture_parameters()
    with torch.no_grad():
        for gate_block, (weight, gate) in enumerate(((8.0, 0.05), (1.0, 0.9))):
            alpha[gate_block] = gate
            for name in SEARCHED:
                table = net.collection.tables.embedding_bags[f"t_{name}__b{gate_block}"].weight
                table.fill_(weight)
    derived = get_search("dnis").derive(trained(net.task, net), None)
    assert derived.tables is not None
    rows = {n: torch.from_numpy(b) for n, b in net.block_of().items()}
    num_second = sum(int((b == 1).sum()) for b in rows.values())
    kept_second = sum(int((derived.tables[n][rows[n] == 1] != 0).sum()) for n in SEARCHED)
    total = sum(len(b) for b in rows.values()) * D
    assert kept_second == min(num_second * D, total - round(0.5 * total))


def test_trading_scale_between_gate_and_table_changes_nothing() -> None:
    derived = []
    for factor in (1.0, 0.5):  # halves are exact
        net = moved(supernet())
        (alpha,) = net.architecture_parameters()
        with torch.no_grad():
            alpha.mul_(factor)
            for name, parameter in net.collection.tables.named_parameters():
                if "few" not in name:
                    parameter.div_(factor)
        derived.append(get_search("dnis").derive(trained(net.task, net), full_bytes() // 3))
    assert derived[0].plan == derived[1].plan


def test_blocks_keep_the_columns_of_largest_mean() -> None:
    net = supernet(structure="structured", blocks="explicit", cuts=(20, 200), ratio=0.5)
    moved(net)
    derived = get_search("dnis").derive(trained(net.task, net), None)
    folded, tables = net.effective_tables(), derived.tables
    assert tables is not None
    blocks = net.block_of()
    scores, kept = [], []
    for b in range(len(net.blocks["a"].rows)):
        rows = torch.cat([folded[n][torch.from_numpy(blocks[n] == b)] for n in SEARCHED])
        left = torch.cat([tables[n][torch.from_numpy(blocks[n] == b)] for n in SEARCHED])
        scores += rows.double().abs().mean(0).tolist()
        kept += (left != 0).any(0).tolist()
        assert bool(((left != 0).all(0) | (left == 0).all(0)).all()), "whole columns of a block"
    assert min(s for s, k in zip(scores, kept, strict=True) if k) >= max(
        s for s, k in zip(scores, kept, strict=True) if not k
    )
    assert 0 < sum(kept) < len(kept)


@pytest.mark.parametrize("blocks", ["quantile", "per_field_quantile"])
def test_bytes_of_blocks_on_paper_are_those_of_the_plan(blocks: str) -> None:
    net = moved(supernet(blocks=blocks, num_blocks=4))
    shared = blocks == "quantile"
    columns = BlockColumns(net.task, net.effective_tables(), net.block_of(), shared=shared)
    for num_columns in range(0, columns.scores.size + 1, 3):
        kept = columns.keeping(num_columns)
        assert columns.plan_bytes(kept) == size(columns.plan(kept)).serving_bytes
    assert size(columns.plan(columns.keeping(columns.scores.size))).serving_bytes == full_bytes()


def test_what_a_budget_leaves_over_goes_to_the_next_columns_that_fit() -> None:
    net = moved(supernet(structure="structured", blocks="explicit", cuts=(6, 40)))
    budget = int(0.3 * full_bytes())
    plan = get_search("dnis").derive(trained(net.task, net), budget).plan
    taken = size(plan).serving_bytes
    columns = BlockColumns(net.task, net.effective_tables(), net.block_of(), shared=True)
    in_order = max(
        n
        for n in range(columns.scores.size)
        if size(columns.plan(columns.keeping(n))).serving_bytes <= budget
    )
    assert size(columns.plan(columns.keeping(in_order))).serving_bytes < taken <= budget


def test_a_feature_whose_blocks_cost_more_than_its_table_keeps_the_table() -> None:
    net = moved(supernet(structure="structured", blocks="per_field_quantile"))
    full = {f.name: size(full_plan((f,))).serving_bytes for f in FEATURES}
    for budget in range(full_bytes() // 2, full_bytes() + 600, 600):
        plan = get_search("dnis").derive(trained(net.task, net), budget).plan
        for group in size(plan).groups:
            (name,) = group.features
            if group.method == "pruned":
                assert group.table_bytes + group.aux_bytes < full[name]
    assert {g.method for g in size(plan).groups} == {"full"}


def test_deriving_is_pure() -> None:
    net = moved(supernet())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one, two = (get_search("dnis").derive(trained(net.task, net), 5000) for _ in range(2))
    assert one.plan == two.plan
    assert one.notes == two.notes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_a_budget_that_is_too_small_names_the_smallest(structure: str) -> None:
    net = supernet(structure=structure)
    with pytest.raises(ValueError, match=r"the smallest plan takes \d+ bytes and the budget is 10"):
        get_search("dnis").derive(trained(net.task, net), 10)


@pytest.mark.parametrize(
    ("retrain", "epochs"),
    [("none", 0), ("frozen_alpha_then_prune", 0), ("prune_then_masked_finetune", None)],
)
def test_what_is_retrained(retrain: str, epochs: int | None) -> None:
    net = supernet(retrain=retrain)
    derived = get_search("dnis").derive(trained(net.task, net), full_bytes() // 2)
    assert derived.epochs == epochs
    assert derived.dense == "trained"


def test_pruned_values_stay_zero_when_what_is_left_is_trained() -> None:
    net = moved(supernet())
    derived = get_search("dnis").derive(trained(net.task, net), full_bytes() // 3)
    assert derived.tables is not None
    collection = CompressedEmbeddingBagCollection(derived.plan)
    place(collection, derived.tables)
    layer = head()
    optimizer = torch.optim.Adam([*collection.parameters(), *layer.parameters()], lr=0.05)
    for features, labels in examples(5, 11):
        optimizer.zero_grad()
        logits = layer(collection(features).values())[:, 0]
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
    full = {g.features[0] for g in derived.plan.groups if g.config.method == "full"}
    for name in {*SEARCHED} - full:
        dropped = derived.tables[name] == 0
        table = logical_table(collection, name)
        assert not table[dropped].any()
        assert not torch.equal(table, derived.tables[name])


def test_notes_say_what_was_found() -> None:
    net = moved(supernet(ratio=0.25, num_blocks=3))
    notes = get_search("dnis").derive(trained(net.task, net), None).notes
    values = (200 + 90 + 61) * D
    assert notes["kept_values"] == values - round(0.25 * values)
    assert notes["dropped"] == pytest.approx(0.25, abs=1 / values)
    per_row = notes["kept_per_row"]
    assert isinstance(per_row, dict)
    rows = {n: net.blocks[n].rows for n in SEARCHED}
    pairs = [p for n in SEARCHED for p in zip(per_row[n], rows[n], strict=True)]  # type: ignore[arg-type]
    assert all((k is None) == (n == 0) for k, n in pairs)
    total = sum(float(k) * n for k, n in pairs if n)  # type: ignore[arg-type]
    assert total == pytest.approx(notes["kept_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": [3]}, "cuts go with blocks 'explicit', got 'quantile'"),
        ({"blocks": "explicit"}, r"cuts go with blocks 'explicit', got 'explicit' and \(\)"),
        ({"blocks": "explicit", "cuts": [0.3, 1.5]}, "cuts are ranks from 1 on or shares between"),
        ({"blocks": "explicit", "cuts": [0]}, "cuts are ranks from 1 on or shares between"),
        ({"ratio": 0.5, "threshold": 0.1}, "give ratio or threshold, got both: 0.5, 0.1"),
        ({"ratio": 1.5}, "dnis: option ratio: .* less than or equal to 1, got 1.5"),
        ({"lambda1": 1.0}, "dnis: option lambda1: .*; options are: blocks, num_blocks"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_search_options(get_search("dnis"), options)
