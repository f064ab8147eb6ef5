"""iHAS, the reconstruction: phases, clusters, routers, budgets, and that no label is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.model import build_model, click_model
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import SearchConfig
from compactrec.benchmarks.search_loop import SearchLoop
from compactrec.benchmarks.train import train
from compactrec.data.manifest import Manifest
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Plan,
    RoutedPlan,
    full_plan,
    load_plan,
    size,
)
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.pruned import PrunedConfig
from compactrec.embeddings.search import Phase, Trained
from compactrec.embeddings.search.base import Rows
from compactrec.embeddings.search.cluster_plans import RankedMasks
from compactrec.embeddings.search.ihas import IhasSupernet, derive_ihas
from compactrec.models.routed import RoutedModel, bags_of
from tests.benchmarks.folder import ROWS
from tests.search.support import DIM, FEATURES, SEARCHED, batch_of, make_task

NUM_ROWS = 1500
BATCH = 400


def supernet(*, num_patterns: int = 3, **options: Any) -> IhasSupernet:
    """Gates that the id of ``c`` decides: ids 0, 1, 2, ... mod ``num_patterns`` open other columns
    of ``a`` and of ``c`` itself."""
    torch.manual_seed(0)
    net = IhasSupernet(make_task("ihas", **options))
    tables = {f.name: 0.01 * torch.randn(f.num_ids or 0, DIM) for f in FEATURES}
    pattern = torch.arange(31) % num_patterns
    tables["c"][torch.arange(31), pattern] += 10.0  # a feature of its own for every pattern
    place(net.collection, tables)
    layer = net.gates.network.layers[-1]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        outputs = layer.weight.shape[0]
        signs = torch.where(torch.rand(outputs, num_patterns, generator=generator) > 0.5, 1.0, -1.0)
        if net.options.granularity == "field" and num_patterns == 3:
            signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
        for p in range(num_patterns if net.options.granularity == "element" else 0):
            signs[DIM + p, p] = 1.0  # the column that tells the patterns apart stays visible
        strength = 0.3 + torch.rand(outputs, 1, generator=generator)
        place_of_c = 2 * DIM
        layer.weight[:, place_of_c : place_of_c + num_patterns] = signs * strength / 10
    return net.eval()


def trained(net: IhasSupernet, labels: float = 0.0, num_batches: int = 4) -> Trained:
    """Rows from :func:`batch_of`; a training split of four batches."""

    def rows(split: str, num_rows: int) -> Iterator[Rows]:
        left = num_rows
        for at in range(num_batches):
            if left <= 0:
                return
            count = min(left, BATCH)
            left -= count
            bags = batch_of(FEATURES, count, seed=at if split == "train" else 50 + at)
            with torch.no_grad():
                vectors = net.vectors(bags)
            ids = {k: (bags[k].values(), bags[k].lengths()) for k in bags.keys()}  # noqa: SIM118
            yield Rows(vectors, torch.full((count,), labels), ids)

    def fitness(masks: Tensor) -> Tensor:
        raise AssertionError("iHAS judges no candidates")

    return Trained(net.task, net, {}, fitness, rows)  # type: ignore[arg-type]


def derived(budget: int | None = None, *, num_patterns: int = 3, **options: Any) -> Any:
    net = supernet(num_patterns=num_patterns, **{"router_buckets": 64, **options})
    return derive_ihas(trained(net), budget)


def test_the_start_is_the_backbone() -> None:
    torch.manual_seed(0)
    net = IhasSupernet(make_task("ihas")).eval()
    plain = CompressedEmbeddingBagCollection(full_plan(FEATURES))
    place(plain, net.effective_tables())
    bags = batch_of()
    assert torch.equal(net(bags).values(), plain(bags).values())
    assert net.figures() == {}


@pytest.mark.parametrize(("polarisation", "closes"), [(0.003, True), (0.0034, False)])
def test_the_default_penalties_can_close_a_gate_and_stronger_polarisation_cannot(
    polarisation: float, closes: bool
) -> None:
    torch.manual_seed(0)
    net = IhasSupernet(make_task("ihas", polarisation=polarisation)).train()
    layer = net.gates.network.layers[-1]
    with torch.no_grad():
        layer.weight.zero_()  # type: ignore[operator]
    net(batch_of())
    (gradient,) = torch.autograd.grad(net.penalty(), [layer.bias])  # type: ignore[list-item]
    assert bool((gradient > 0).all()) == closes
    assert bool((gradient < 0).all()) != closes
    pi = torch.sigmoid(torch.tensor(2.0))
    assert float(4 * (2 * pi - 1)) == pytest.approx(3.05, abs=0.005)


def test_temperature_falls_over_all_phases() -> None:
    net = supernet(epochs=4)
    joint, settle = net.phases
    assert (joint.epochs, settle.epochs) == (3, 1)
    assert (joint.weights, settle.weights) == ("all", "dense")
    assert {p.architecture for p in net.phases} == {"train"}
    seen = []
    for phase, done in ((joint, 0.0), (joint, 2 / 3), (settle, 0.0), (settle, 1.0)):
        net.before_step(phase, done)
        seen.append(net.gates.temperature)
    assert seen == pytest.approx([1.0, 0.1**0.5, 0.1**0.75, 0.1])
    assert [p.name for p in supernet(epochs=1).phases] == ["joint"]
    assert [p.name for p in supernet(freeze_last_epoch=False).phases] == ["joint"]


def test_the_penalty_is_of_training_batches() -> None:
    net = supernet(sparsity=0.3, polarisation=0.7).train()
    net(batch_of())
    expected = 0.3 * net.gates.open_share() + 0.7 * net.gates.polarisation()
    torch.testing.assert_close(net.penalty(), expected)
    assert net.figures().keys() == {"open", "decided", "temperature"}


@pytest.mark.parametrize("router", ["linear", "gates"])
@pytest.mark.parametrize("compared", ["gates", "vectors"])
def test_planted_clusters_come_out(router: str, compared: str) -> None:
    """Three kinds of examples: three clusters, each with the columns that its gates open."""
    found = derived(router=router, compared=compared, num_clusters=3, router_buckets=4096)
    plan = found.plan
    assert isinstance(plan, RoutedPlan)
    assert plan.num_clusters == found.notes["clusters"] == 3
    assert sum(found.notes["shares"]) == pytest.approx(1)
    assert found.notes["reconstruction"] is True
    net = supernet()
    model, _ = build_model(config_of(), plan, 2)
    assert isinstance(model, RoutedModel)
    bags = batch_of(FEATURES, 600, seed=77)
    owners = model.clusters(bags)
    pattern = bags["c"].values() % 3
    for k in range(3):
        mine = owners == k
        assert pattern[mine].unique().numel() == 1, "the router parts the kinds of examples"
        with torch.no_grad():
            gates = net.gates.network.deterministic(net.vectors(bags))[mine].float().mean(0)
        for s, name in enumerate(SEARCHED):
            open_columns = tuple((gates[s] >= 0.5).nonzero()[:, 0].tolist())
            config = next(g.config for g in plan.plans[k].groups if g.features == (name,))
            assert getattr(config, "columns", None) == ((open_columns,) if open_columns else ())
    if router == "linear":
        assert found.notes["router_agreement"] > 0.97


def test_the_gate_router_sends_rows_where_k_means_put_them() -> None:
    net = supernet(router="gates", num_clusters=3)
    plan = derive_ihas(trained(net), None).plan
    assert isinstance(plan, RoutedPlan)
    model, _ = build_model(config_of(), plan, 2)
    bags = batch_of(FEATURES, 300, seed=9)
    from compactrec.embeddings.search.gate_router import cluster_points
    from compactrec.embeddings.search.kmeans import nearest

    with torch.no_grad():
        points = cluster_points(net.gates.network, net.vectors(bags), "gates")
    expected = nearest(points, plan.arrays["centroids"])
    assert torch.equal(model.router(bags_of(bags)), expected)  # type: ignore[operator]
    full = size(full_plan(FEATURES)).table_bytes
    assert size(plan).routing_bytes > full, "an exact router holds the full tables"


@pytest.mark.parametrize("router", ["linear", "gates"])
@pytest.mark.parametrize("tables", ["separate", "shared"])
def test_no_label_is_read(router: str, tables: str) -> None:
    options = {"router": router, "tables": tables, "router_buckets": 64}
    net = supernet(**options)
    first = derive_ihas(trained(net, labels=0.0), 20_000 if router == "linear" else None)
    other = derive_ihas(trained(net, labels=1.0), 20_000 if router == "linear" else None)
    assert first.plan == other.plan
    assert first.notes == other.notes


def kept(plan: RoutedPlan | Plan) -> set[tuple[int, str, int]]:
    found = set()
    for k, part in enumerate(plan.plans):
        for group in part.groups:
            for name in group.features:
                if name not in SEARCHED:
                    continue
                columns = range(DIM)
                if isinstance(group.config, PrunedConfig):
                    columns = [c for of in group.config.columns for c in of]  # type: ignore[assignment]
                found |= {(k, name, c) for c in columns}
    return found


@pytest.mark.parametrize("granularity", ["element", "hierarchical", "field"])
def test_budgets_are_kept_and_larger_ones_hold_smaller_ones(granularity: str) -> None:
    before: set[tuple[int, str, int]] = set()
    smallest = None
    for budget in (3_500, 5_000, 7_000, 9_000, 12_000, 10**9):
        plan = derived(budget, granularity=granularity).plan
        assert isinstance(plan, RoutedPlan)
        assert size(plan).serving_bytes <= budget
        now = kept(plan)
        assert before <= now
        smallest = smallest or now
        before = now
    assert len(before) == plan.num_clusters * 2 * DIM, "a large budget keeps everything"
    assert smallest is not None
    assert len(smallest) < len(before) / 2


def test_a_budget_is_used_up() -> None:
    plan = derived(9_000).plan
    assert 9_000 - size(plan).serving_bytes < 4 * 60 * 4 + 8 * 40


def test_a_budget_that_is_too_small_names_the_smallest() -> None:
    message = r"ihas: the smallest plan takes [\d,]+ bytes and the budget is 100 bytes; .* fewer cl"
    with pytest.raises(ValueError, match=message) as error:
        derived(100)
    smallest = int(str(error.value).split("takes ")[1].split(" bytes")[0].replace(",", ""))
    assert size(derived(smallest).plan).serving_bytes == smallest
    with pytest.raises(ValueError, match="the smallest plan takes"):
        derived(smallest - 1)


@pytest.mark.parametrize("tables", ["separate", "shared"])
@pytest.mark.parametrize("budget", [None, 3_000])
def test_one_cluster_is_one_plain_plan(tables: str, budget: int | None) -> None:
    found = derived(budget, num_clusters=1, tables=tables)
    assert isinstance(found.plan, Plan)
    assert found.notes["shares"] == [1.0]
    if budget is not None:
        assert size(found.plan).serving_bytes <= budget
    _check_columns_of_all(found, budget)
    same = derived(budget, num_clusters=4, num_patterns=1, tables=tables)
    assert isinstance(same.plan, Plan), "gates that are all alike make no clusters"


def _check_columns_of_all(found: Any, budget: int | None) -> None:
    """The columns are those of the mean gate over every sampled example."""
    net = supernet()
    rows = trained(net).rows("train", net.options.cluster_rows)
    with torch.no_grad():
        gates = torch.cat([net.gates.network.deterministic(r.vectors) for r in rows])
    means = gates.double().mean(0)
    assert len(gates) == 4 * BATCH
    assert found.notes["mean_gate"] == pytest.approx(float(means.mean()), abs=1e-12)
    assert means.unique().numel() > 4, "kinds of examples differ, and so do their shares"
    columns = torch.zeros(len(SEARCHED), DIM, dtype=torch.bool)
    for group in found.plan.groups:
        for name in set(group.features) & {*SEARCHED}:
            own = group.config.columns[0] if isinstance(group.config, PrunedConfig) else range(DIM)
            columns[SEARCHED.index(name), list(own)] = True
    assert 0 < int(columns.sum()) < columns.numel()
    if budget is None:
        assert torch.equal(columns, means >= 0.5)
    else:
        assert float(means[columns].min()) >= float(means[~columns].max())


def test_more_clusters_take_more_memory() -> None:
    one, three = derived(num_clusters=1), derived(num_clusters=3)
    untouched = 4 * 7 * DIM  # the feature that is not searched, in every copy
    assert size(three.plan).table_bytes > size(one.plan).table_bytes + 2 * untouched


def test_shared_tables_hold_the_columns_that_any_cluster_keeps() -> None:
    separate, shared = derived(num_clusters=3).plan, derived(num_clusters=3, tables="shared").plan
    assert isinstance(shared, RoutedPlan)
    assert shared.shared
    union: dict[str, set[int]] = {name: set() for name in SEARCHED}
    for k, columns in enumerate(shared.columns):
        for name in SEARCHED:
            assert {c for j, n, c in kept(separate) if (j, n) == (k, name)} == {*columns[name]}
            union[name] |= {*columns[name]}
    assert kept(shared) == {(0, name, c) for name in SEARCHED for c in union[name]}
    assert size(shared).serving_bytes < size(separate).serving_bytes


def test_small_clusters_are_dissolved() -> None:
    """Two kinds, one of them two ids of 31: it is a cluster only where that share is enough."""

    def net(min_share: float) -> IhasSupernet:
        made = supernet(num_patterns=2, num_clusters=2, min_share=min_share)
        rare = torch.zeros(31, DIM)
        rare[:, 0] = 10.0
        rare[:2, 0], rare[:2, 1] = 0.0, 10.0
        tables = made.effective_tables()
        place(made.collection, {**tables, "c": rare})
        return made

    small = derive_ihas(trained(net(0.01)), None)
    assert isinstance(small.plan, RoutedPlan)
    assert min(small.notes["shares"]) == pytest.approx(2 / 31, abs=0.02)  # type: ignore
    assert isinstance(derive_ihas(trained(net(0.2)), None).plan, Plan)


def test_limited_rows_are_those_that_a_cluster_has() -> None:
    net = supernet(num_clusters=3, router="gates", limit_rows=True)
    source = trained(net)
    plan = derive_ihas(source, None).plan
    assert isinstance(plan, RoutedPlan)
    model, _ = build_model(config_of(), plan, 2)
    assert isinstance(model, RoutedModel)
    seen: list[set[int]] = [set() for _ in range(3)]
    for at in range(4):
        bags = batch_of(FEATURES, BATCH, seed=at)
        owners = model.clusters(bags)
        for id_, owner in zip(bags["c"].values().tolist(), owners.tolist(), strict=True):
            seen[owner].add(id_)
    for k in range(3):
        table = logical_table(model.experts[k].embeddings, "c")  # type: ignore[arg-type]
        rows = set(table.abs().sum(1).nonzero()[:, 0].tolist())
        assert not rows or rows == seen[k]
        assert 0 < len(seen[k]) < 31
    assert size(plan).table_bytes < size(derived(num_clusters=3, router="gates").plan).table_bytes


def test_the_same_state_derives_the_same_plan() -> None:
    assert derived(8_000).plan == derived(8_000).plan


def config_of(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": "-", "out": "-", "method": "full", "dim": 8, "bottom": (8,), "top": (8, 1),
        "engine": "eager", "batch_size": 64, "eval_batch_size": 256, "threshold": 20,
        "num_threads": 1, "quiet": True, "evals_per_epoch": 1, "dense_learning_rate": 0.005,
        "table_optimizer": "adam", "table_learning_rate": 0.01, "table_decay": 0.01,
        "decay_mode": "dense_coupled",
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


@pytest.mark.parametrize("decay_mode", ["dense_coupled", "dense_decoupled", "touched_rows"])
def test_tables_rest_in_the_last_epoch_while_gates_learn(
    data: Path, tmp_path: Path, decay_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(data=data, out=tmp_path, decay_mode=decay_mode)
    task = replace(
        make_task("ihas"),
        features=tuple(f for f in full_plan(load_features(data)).features),
        searched=("C1", "C3"),
    )
    states: dict[str, list[tuple[Tensor, Tensor]]] = {"joint": [], "settle": []}

    class Watched(IhasSupernet):
        def after_step(self, phase: Phase) -> None:
            table = self.effective_tables()["C3"].clone()
            gates = self.gates.network.layers[-1].weight
            assert isinstance(gates, Tensor)
            states[phase.name].append((table, gates.detach().clone()))

    torch.manual_seed(0)
    net = Watched(task)
    model = click_model(config, net, 2)
    SearchLoop(config, model, net, CheckpointFolder(tmp_path / "checkpoint", {}), "ihas").run()
    last_joint = states["joint"][-1]
    assert not torch.equal(states["joint"][0][0], last_joint[0])
    assert len(states["settle"]) == 18
    for (table, gates), (_, before) in zip(
        states["settle"], [last_joint, *states["settle"]], strict=False
    ):
        assert torch.equal(table, last_joint[0])
        assert not torch.equal(gates, before)


def load_features(data: Path) -> list[Any]:
    from compactrec.data.loader import BatchLoader

    return BatchLoader(data, "train", 64).features(8)


@pytest.mark.parametrize("tables", ["separate", "shared"])
def test_search_derive_retrain(data: Path, tmp_path: Path, tables: str) -> None:
    """The whole way: a search at two budgets, and a model per cluster trained from its plan."""
    options = {
        "epochs": 2, "num_clusters": 2, "router_buckets": 64, "tables": tables, "bias": 0.0,
        "gate_learning_rate": 0.05,
    }  # fmt: skip
    made = SearchConfig(
        search="ihas",
        options=options,
        budgets=(9_000, 5_500),
        train=config_of(data=data, out=tmp_path / "search"),
    )
    result = search(made)
    assert [f.reason for f in result.found] == [None, None]
    assert {entry.phase for entry in result.history} == {"joint", "settle"}
    assert Manifest.load(data).splits["test"].num_rows == ROWS["test"]
    for found in result.found:
        assert found.plan is not None
        assert found.budget_bytes is not None
        path = tmp_path / "search" / found.plan
        plan = load_plan(path)
        assert size(plan).serving_bytes <= found.budget_bytes
        assert found.serving_bytes == size(plan).serving_bytes
        assert found.start is None
        run = train(
            config_of(
                data=data, out=tmp_path / path.stem, plan=path, method=None, engine="fused",
                table_optimizer="adagrad", table_learning_rate=0.1, table_decay=0.0, epochs=2,
            )
        )  # fmt: skip
        assert run.bytes.serving_bytes == size(plan).serving_bytes
        assert run.tested.auc > 0.6


def test_masks_take_the_largest_means_first_then_the_largest_chances() -> None:
    means = torch.tensor([[[1.0, 0.5, 1.0]], [[0.0, 0.5, 0.2]]], dtype=torch.float64)
    chances = torch.tensor([[[0.6, 0.5, 0.9]], [[0.1, 0.7, 0.3]]], dtype=torch.float64)
    masks = RankedMasks(means, chances)
    order = [(0, 0, 2), (0, 0, 0), (1, 0, 1), (0, 0, 1), (1, 0, 2), (1, 0, 0)]
    for count in range(7):
        kept_now = {tuple(place) for place in masks(count).nonzero().tolist()}
        assert kept_now == set(order[:count])
