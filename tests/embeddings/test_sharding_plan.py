"""Plans and estimates of shardings, without processes: bytes add up, and what cannot be is said."""

from typing import Any

import pytest
import torch

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, full_plan, size
from compactrec.embeddings.sharding_bytes import Ranks, loads_of, shards_of
from compactrec.embeddings.sharding_config import Sharding
from compactrec.embeddings.sharding_estimate import RankCost, add_bytes, check_fits, estimate
from compactrec.embeddings.sharding_plan import plan_tables

PLAN = full_plan(
    (
        Feature(name="a", num_ids=1000, dim=16, max_bag=3),
        Feature(name="b", num_ids=501, dim=16),
        Feature(name="c", num_ids=3, dim=8),
    )
)


def tables() -> Any:
    return CompressedEmbeddingBagCollection(PLAN, device=torch.device("meta")).tables


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "table_row_wise"])
@pytest.mark.parametrize("num", [1, 2, 4])
def test_shards_hold_every_weight_once(kind: str, num: int) -> None:
    ranks = Ranks(num)
    made = plan_tables(tables(), Sharding.model_validate({"default": kind}), ranks, "sgd")
    for config in tables().embedding_bag_configs():
        shards = shards_of(config, made[config.name], ranks)
        held = sum(rows * dim for _, rows, dim in shards)
        assert held == config.num_embeddings * config.embedding_dim
        # Rows lie on every rank or on one: FBGEMM's CPU operator fails where a rank has none.
        assert kind == "column_wise" or len(shards) in (1, num)
        assert all(dim % 4 == 0 and rank < num for rank, _, dim in shards)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_bytes_of_all_ranks_are_those_of_the_plan(optimizer: Any) -> None:
    sharding = Sharding.model_validate({"default": "row_wise"})
    costs = estimate(PLAN, sharding, Ranks(2), optimizer, batch_size=64)
    report = size(PLAN, optimizer=optimizer)
    assert sum(cost.weight_bytes for cost in costs) == report.table_bytes
    assert sum(cost.optimizer_bytes for cost in costs) == report.optimizer_bytes
    assert all(cost.seconds > 0 for cost in costs)
    copies = Sharding.model_validate({"default": "data_parallel"})
    for cost in estimate(PLAN, copies, Ranks(2), optimizer, batch_size=64):
        assert cost.weight_bytes == cost.gradient_bytes == report.table_bytes


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [("sgd", (0, 0, 0, 0)), ("adagrad", (64_000, 16_064, 16_000, 96)),
     ("rowwise_adagrad", (4_000, 1_004, 1_000, 12))],
)  # fmt: skip
def test_bytes_by_hand(optimizer: str, states: tuple[int, ...]) -> None:
    """a (1000 x 16) is whole on rank 0, b (501 x 16) has 251 and 250 rows, c (3 x 8) is on both.

    ``states`` are of a, of the two parts of b and of a copy of c, which has a gradient too.
    """
    given = {
        "t_a__.*": {"kind": "table_wise", "place": 0}, "t_b__.*": "row_wise",
        "t_c__.*": "data_parallel",
    }  # fmt: skip
    sharding, ranks = Sharding.model_validate({"tables": given}), Ranks(2)
    configs = {config.name: config for config in tables().embedding_bag_configs()}
    made = plan_tables(tables(), sharding, ranks, optimizer)
    a, b, b_too, c = states
    weights = [64_000 + 16_064 + 96, 16_000 + 96]
    loads = [weights[0] + a + b + c + 96, weights[1] + b_too + c + 96]
    assert loads_of(made, configs, ranks, optimizer) == loads
    # Of one-hot tables only what is replicated has no state: torchrec's kernels keep one for all.
    for constant, left_out in ((set(), 0), ({"t_c__id"}, c), ({"t_a__id", "t_b__id"}, 0)):
        costs = [RankCost(rank) for rank in range(2)]
        add_bytes(costs, [*configs.values()], made, ranks, optimizer, constant)
        assert [cost.weight_bytes for cost in costs] == weights
        assert [cost.gradient_bytes for cost in costs] == [96, 96]
        assert [cost.num_bytes for cost in costs] == [load - left_out for load in loads]
        assert [cost.replicated_bytes for cost in costs] == [192 + c - left_out] * 2


def test_seconds_by_hand() -> None:
    """64 examples on 2 ranks; 1 GB/s of memory, so a byte is 1 ns, and 0.5 GB/s between ranks.

    Of a (1000 x 16, bags of 3) each rank has half of the rows: 96 ids, 12 * 96 * 16 = 18,432 bytes
    of memory; (8 * 96 + 8 * 16 * 64) / 2 = 4,480 bytes between ranks. Of b (501 x 16) rank 0 has
    all rows: 12 * 64 * 16 = 12,288 and (8 * 64 + 8 * 16 * 64) / 2 = 4,352. c (3 x 8, 96
    bytes) is on both: 12 * 32 * 8 + 3 * 96 = 3,360 and 2 * 96 / 2 = 96.
    """
    given = {
        "tables": {
            "t_a__.*": "row_wise", "t_c__.*": "data_parallel",
            "t_b__.*": {"kind": "table_wise", "place": 0},
        },
        "memory_gb_per_second": 1.0, "network_gb_per_second": 0.5,
    }  # fmt: skip
    costs = estimate(PLAN, Sharding.model_validate(given), Ranks(2), "sgd", batch_size=64)
    second = 18_432 + 3_360 + 2 * (4_480 + 96)
    expected = [second + 12_288 + 2 * 4_352, second]
    assert [cost.seconds for cost in costs] == pytest.approx([1e-9 * ns for ns in expected])


def test_seconds_of_columns_by_hand() -> None:
    """Each rank has 4 of the 8 columns of c: every id goes to both, half a vector comes back."""
    sharding = Sharding.model_validate(
        {"default": "column_wise", "memory_gb_per_second": 2.0, "network_gb_per_second": 1.0}
    )
    plan = full_plan((Feature(name="c", num_ids=3, dim=8),))
    costs = estimate(plan, sharding, Ranks(2), "sgd", batch_size=64)
    expected = 1e-9 * (12 * 64 * 4 / 2 + (8 * 64 + 8 * 4 * 64) / 2)
    assert [cost.seconds for cost in costs] == pytest.approx([expected] * 2)


def test_what_does_not_fit_is_named() -> None:
    sharding = Sharding.model_validate({"default": "table_wise"})
    costs = estimate(PLAN, sharding, Ranks(2), "sgd", batch_size=64)
    check_fits(costs, 64_000)
    with pytest.raises(ValueError, match=r"63,999; its largest .* 't_a__id'; it alone is too"):
        check_fits(costs, 63_999)


@pytest.mark.parametrize(
    ("given", "optimizer", "text"),
    [
        ({"default": {"kind": "table_wise", "place": 2}}, "sgd", "place 2 is not there, ranks are"),
        ({"default": "column_wise"}, "rowwise_adagrad", "column_wise gives every part of a row a"),
        (
            {"default": {"kind": "row_wise", "kernel": "fused_uvm"}}, "sgd",
            "kernel 'fused_uvm' keeps rows in the host's memory for a GPU",
        ),
        (
            {"rank_memory_bytes": 10}, "sgd",
            "there is no place for 3 tables of 96,160 bytes, the largest 't_a__id' with 64,000, on "
            ".* counts activations",
        ),
        (
            {"rank_memory_bytes": 10}, "adagrad",
            "3 tables of 192,320 bytes, the largest 't_a__id' with 128,000, on 2 rank",
        ),
        ({"default": "row_wise"}, "adam", "no optimizer 'adam'; take one of sgd, rowwise_adagrad"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(given: dict[str, Any], optimizer: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        plan_tables(tables(), Sharding.model_validate(given), Ranks(2), optimizer)


def test_tables_get_their_kernels_and_caches() -> None:
    """A GPU's, which planning does not need; a replicated table keeps torchrec's own."""
    by_rows = {"kind": "row_wise", "kernel": "fused_uvm_caching"}
    tables_to = {
        "t_a__.*": {**by_rows, "cache_load_factor": 0.3},
        "t_b__.*": {"kind": "table_wise", "kernel": "fused_uvm"},
    }
    for kind, kernel in (("row_wise", "fused"), ("data_parallel", "dense")):
        sharding = Sharding.model_validate({"default": kind, "tables": tables_to})
        made: Any = plan_tables(tables(), sharding, Ranks(2, device="cuda"), "sgd")
        assert {name: chosen.compute_kernel for name, chosen in made.items()} == {
            "t_a__id": "fused_uvm_caching", "t_b__id": "fused_uvm", "t_c__id": kernel,
        }  # fmt: skip
        caches = [chosen.cache_params for chosen in made.values()]
        assert [cache and cache.load_factor for cache in caches] == [0.3, None, None]


def test_ranks_must_be_alike() -> None:
    with pytest.raises(ValueError, match="3 ranks cannot be 2 on each machine"):
        Ranks(3, 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_what_is_left_to_the_planner_keeps_to_the_memory(optimizer: Any) -> None:
    """Without a limit some are replicated; with one, tables are whole or spread by rows."""
    needed = size(PLAN, optimizer=optimizer)
    total = needed.table_bytes + needed.optimizer_bytes
    free = estimate(PLAN, Sharding(), Ranks(2), optimizer, batch_size=64)
    assert any(cost.replicated_bytes for cost in free)
    memory = total // 2 + 1000
    costs = estimate(PLAN, Sharding(rank_memory_bytes=memory), Ranks(2), optimizer, batch_size=64)
    check_fits(costs, memory)
    assert sum(cost.num_bytes for cost in costs) == total
    assert sum(cost.num_shards for cost in costs) == 5  # two by rows, and one whole
    roomy = estimate(PLAN, Sharding(rank_memory_bytes=total), Ranks(2), optimizer, batch_size=64)
    check_fits(roomy, total)


@pytest.mark.parametrize(
    ("num", "memory", "text"),
    [
        (2, 40_192, "; 3 ranks or more could hold all of it, or take a smaller budget"),
        (3, 30_192, "; 4 ranks or more could"),
        (5, 16_192, "; 7 ranks or more could"),
        (5, 12_000, "; 9 ranks or more could"),  # its parts are too large, and row_wise already
        (3, 192, "replicated tables alone take 192 bytes of every rank: shard the largest of"),
    ],
)
def test_the_way_out_counts_replicated_tables_once(num: int, memory: int, text: str) -> None:
    given = {"default": "row_wise", "tables": {"t_c__.*": "data_parallel"}}
    sharding = Sharding.model_validate(given)
    costs = estimate(PLAN, sharding, Ranks(num), "sgd", batch_size=64)
    with pytest.raises(ValueError, match=text):
        check_fits(costs, memory)


def test_a_poor_balance_is_to_be_mended_first() -> None:
    sharding = Sharding.model_validate({"default": {"kind": "table_wise", "place": 0}})
    costs = estimate(PLAN, sharding, Ranks(2), "sgd", batch_size=64)
    with pytest.raises(ValueError, match="the ranks together have room: shard that table row_wise"):
        check_fits(costs, 64_000)
    with pytest.raises(
        ValueError, match="too large: shard that table row_wise, over 4 ranks or mo"
    ):
        check_fits(costs, 30_192)
    given = {"default": {"kind": "table_wise", "place": 0}, "tables": {"t_[ab]__.*": "row_wise"}}
    costs = estimate(PLAN, Sharding.model_validate(given), Ranks(2), "sgd", batch_size=64)
    with pytest.raises(ValueError, match="have room: that table is row_wise, so shard the others"):
        check_fits(costs, 48_100)


def test_a_replicated_table_that_is_the_largest_is_to_be_sharded() -> None:
    sharding = Sharding.model_validate({"default": "data_parallel"})
    for num in (2, 3):
        costs = estimate(PLAN, sharding, Ranks(num), "sgd", batch_size=64)
        with pytest.raises(ValueError, match=r"'t_a__id'; that table is replicated, .* shard it"):
            check_fits(costs, 150_000)
