"""The unified embedding: cost, collisions, independence of order, many chunks."""

import json
import math

import pytest
import torch

pytest.importorskip("compactrec.embeddings.unified")

from compactrec.embeddings import (
    Feature,
    Group,
    Plan,
    full_plan,
    hash_strings,
    make_plan,
    plan_swap,
    size,
)
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.registry import config_from_dict
from compactrec.embeddings.unified import UnifiedConfig
from tests.contract.support import build, make_batch
from tests.reference import hashing
from tests.swap.models import Mixture


def plan_of(names: str, config: UnifiedConfig, dim: int = 4) -> Plan:
    features = tuple(Feature(name=n, dim=dim) for n in names)
    return Plan(features, (Group(tuple(names), config),))


def rows_of(plan: Plan, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Row of every id, by part."""
    collection = CompressedEmbeddingBagCollection(plan)
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    count = len(plan.features)
    batch = KeyedJaggedTensor(
        keys=[f.name for f in plan.features],
        values=ids.repeat(count),
        lengths=torch.ones(count * len(ids), dtype=torch.int32),
    )
    return {k: v.values() for k, v in collection.rewrite(batch).to_dict().items()}


@pytest.mark.parametrize(
    ("rows", "dim", "megabytes"),
    [
        (160_605, 39, 25.1),
        (80_302, 39, 12.5),
        (16_060, 39, 2.51),
        (252_838, 32, 32.4),
        (25_284, 32, 3.24),
        (2_528, 32, 0.324),
        (13_177, 30, 1.58),
        (6_588, 30, 0.791),
        (1_318, 30, 0.158),
    ],
)
def test_published_budgets(rows: int, dim: int, megabytes: float) -> None:
    stored = 4 * math.ceil(dim / 4)
    report = size(plan_of("ab", UnifiedConfig(num_rows=rows, dim=dim), dim=dim))
    assert report.table_bytes == 4 * rows * stored
    assert report.table_bytes * dim / stored / 1e6 == pytest.approx(megabytes, rel=0.005)


def test_cost_does_not_grow_with_features() -> None:
    config = UnifiedConfig(num_rows=1000, dim=4, num_tables=1)
    few, many = size(plan_of("ab", config)), size(plan_of("abcdefgh", config))
    assert few.table_bytes == many.table_bytes == 16_000
    two = UnifiedConfig(num_rows=1000, dim=4, num_tables=2)  # rows of each table, not of both
    assert size(plan_of("abcdefgh", two)).table_bytes == 32_000


def test_widths() -> None:
    features = (Feature(name="a", dim=4), Feature(name="b", dim=12), Feature(name="c", dim=8))
    plan = Plan(features, (Group(("a", "b", "c"), UnifiedConfig(num_rows=9, dim=4)),))
    out = build(plan)(make_batch(plan, "single").kjt())
    assert out.length_per_key() == [4, 12, 8]


def test_equal_values_meet_at_random() -> None:
    num_rows, count = 50, 20_000
    rows = rows_of(
        plan_of("abc", UnifiedConfig(num_rows=num_rows, dim=4), dim=8), torch.arange(count)
    )
    parts = list(rows)
    assert len(parts) == 6
    error = 3 * math.sqrt((1 / num_rows) * (1 - 1 / num_rows) / count)
    for i, one in enumerate(parts):
        for two in parts[i + 1 :]:
            agreement = float((rows[one] == rows[two]).double().mean())
            assert agreement == pytest.approx(1 / num_rows, abs=error), (one, two)


def test_rows_used_and_private_rows() -> None:
    num_rows, count = 4000, 3000
    rows = rows_of(plan_of("a", UnifiedConfig(num_rows=num_rows, dim=4)), torch.arange(count))
    counts = torch.bincount(rows["a__c0"], minlength=num_rows)
    used = num_rows * (1 - (1 - 1 / num_rows) ** count)
    assert int((counts > 0).sum()) == pytest.approx(used, rel=0.02)
    private = math.exp(-(count - 1) / num_rows)
    assert float((counts[rows["a__c0"]] == 1).double().mean()) == pytest.approx(private, abs=0.03)


def test_new_features_and_another_order_move_no_row() -> None:
    config = UnifiedConfig(num_rows=97, dim=4, num_tables=2)
    ids = torch.tensor([0, 1, 2**40, 5])
    first = rows_of(plan_of("ab", config, dim=8), ids)
    second = rows_of(plan_of("zbya", config, dim=8), ids)
    for part, rows in first.items():
        assert torch.equal(second[part], rows), part
    tables = [CompressedEmbeddingBagCollection(plan_of(n, config, dim=8)) for n in ("ab", "zbya")]
    one, two = (
        {
            part: c.name[-1]
            for c in collection.tables.embedding_bag_configs()
            for part in c.feature_names
        }
        for collection in tables
    )
    assert all(two[part] == one[part] for part in one)


def test_chunks_stand_in_numeric_order() -> None:
    """With 12 chunks, chunk 10 comes after chunk 9 and not after chunk 1."""
    plan = plan_of("a", UnifiedConfig(num_rows=500, dim=4), dim=48)
    collection = build(plan)
    batch = make_batch(plan, "single", size=3).kjt()
    physical = collection.rewrite(batch).to_dict()
    (table,) = [p for n, p in collection.named_parameters() if n.startswith("tables.")]
    chunks = [table[physical[f"a__c{j}"].values()] for j in range(12)]
    torch.testing.assert_close(collection(batch)["a"], torch.cat(chunks, dim=1))


def test_every_table_is_read() -> None:
    config = UnifiedConfig(num_rows=11, dim=4, num_tables=3)
    collection = CompressedEmbeddingBagCollection(plan_of("abcd", config, dim=24))
    reads = [len(c.feature_names) for c in collection.tables.embedding_bag_configs()]
    assert reads == [8, 8, 8]
    with pytest.raises(ValueError, match="4 of 5 tables would be read by no chunk; choose a small"):
        CompressedEmbeddingBagCollection(
            plan_of("a", UnifiedConfig(num_rows=9, dim=4, num_tables=5))
        )


def test_config_round_trip() -> None:
    config = UnifiedConfig(num_rows=11, dim=4, num_tables=3, seed=8)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_gradients_of_colliding_ids_add_up() -> None:
    layer = CompressedEmbedding(None, 4, UnifiedConfig(num_rows=1, dim=4))
    layer(torch.tensor([3, 2**60])).sum().backward()
    assert next(layer.parameters()).grad.tolist() == [[2.0] * 4]  # type: ignore[union-attr]


def test_a_map_without_collisions_trains_as_full_tables_do() -> None:
    """As many rows as ids, and a seed under which every id of both features has one of its own."""
    features = tuple(Feature(name=name, num_ids=3, dim=4) for name in "ab")

    def rows(seed: int) -> list[int]:
        salts = [hashing.name_seed(f"{name}__c0", seed) for name in "ab"]
        return [hashing.hash_id(x, salt, 6) for salt in salts for x in range(3)]

    seed = next(s for s in range(10_000) if len(set(rows(s))) == 6)
    config = UnifiedConfig(num_rows=6, dim=4, seed=seed)
    unified = build(Plan(features, (Group(("a", "b"), config),)))
    full = build(full_plan(features))
    (shared,) = unified.parameters()
    with torch.no_grad():
        own = shared[rows(seed)].split(3)
        for weight, start in zip(full.parameters(), own, strict=True):
            weight.copy_(start)
    optimizers = [torch.optim.Adagrad(m.parameters(), lr=0.1) for m in (unified, full)]
    before = shared.detach().clone()
    for step in range(5):
        batch = make_batch(unified.plan, "multi", seed=step).kjt()
        for module, optimizer in zip((unified, full), optimizers, strict=True):
            optimizer.zero_grad()
            (module(batch).values() - 1).square().sum().backward()
            optimizer.step()
    assert float((shared.detach() - before).abs().min()) > 0
    torch.testing.assert_close(shared[rows(seed)], torch.cat(list(full.parameters())))


def test_strings_need_no_vocabulary() -> None:
    layer = CompressedEmbedding(None, 8, UnifiedConfig(num_rows=10_000, dim=4))
    out = layer(hash_strings(["Berlin", "Paris", "Berlin"]))
    assert torch.equal(out[0], out[2])
    assert not torch.equal(out[0], out[1])


def test_budget_spends_everything_on_rows() -> None:
    features = tuple(Feature(name=n, num_ids=10_000, dim=d) for n, d in zip("abc", (8, 16, 24)))  # noqa: B905
    plan = make_plan("unified", features, 100_000, threshold=0)
    config = plan.groups[0].config
    assert isinstance(config, UnifiedConfig)
    assert config.dim == 8
    report = size(plan)
    assert report.serving_bytes <= 100_000 < report.serving_bytes + 32
    halves = make_plan(
        "unified", features, 100_000, threshold=0, options={"num_tables": 2, "dim": 4}
    )
    assert size(halves).serving_bytes <= 100_000 < size(halves).serving_bytes + 2 * 16


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'a' must be a multiple of the chunk width 4, got 6"):
        CompressedEmbeddingBagCollection(plan_of("a", UnifiedConfig(num_rows=9, dim=4), dim=6))
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        UnifiedConfig(num_rows=0, dim=4)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (900, "unified: no plan for 900 bytes holds the tables that several keys read; raise the"),
        (
            1080,
            "unified: the budget is 242 bytes, .* That budget is the part of ebc/item, tag in the "
            "1,080 bytes that were given",
        ),
    ],
)
def test_a_budget_too_small_for_ties_or_for_a_collection(budget: int, message: str) -> None:
    """What is left for them is less than what was given, and the message says of what."""
    with pytest.raises(ValueError, match=message):
        plan_swap(Mixture(), "unified", budget_bytes=budget, max_bags={"item": 3, "last_item": 3})
