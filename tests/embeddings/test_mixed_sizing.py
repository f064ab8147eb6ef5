"""Widths of mixed dimensions: the popularity rule and budgets; faults of the reference code."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("compactrec.embeddings.mixed")

from compactrec.embeddings import Feature, Group, Plan, full_plan, make_plan, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.mixed import MixedConfig
from compactrec.embeddings.mixed_sizing import (
    Rounding,
    mixed_scalars,
    popularity_dims,
)
from tests.reference import mixed
from tests.reference.kaggle import KAGGLE_SIZES

K = KAGGLE_SIZES
KAGGLE = tuple(Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(K, start=1))
SIZES = st.lists(st.integers(1, 10**7), min_size=1, max_size=12)
ALPHAS = st.floats(0, 1.5)


def mixed_dims(
    rows: Sequence[int],
    alpha: float,
    *,
    base_dim: int,
    lookups: Sequence[float] | None = None,
    rounding: Rounding = "nearest",
    multiple: int = 4,
    min_dim: int = 1,
) -> list[int]:
    """The rule for blocks of `rows` rows that are looked up `lookups` times an example (once)."""
    times = [1.0] * len(rows) if lookups is None else lookups
    return popularity_dims(
        [k / n for k, n in zip(times, rows, strict=True)],
        alpha,
        base_dim,
        rounding=rounding,
        multiple=multiple,
        min_dim=min_dim,
    )


# --- the popularity rule ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "alpha", "nearest", "pow2", "fours"),
    [
        (16, 0.1, 135_834_738, 135_615_272, 135_244_828),
        (16, 0.2, 34_406_355, 34_430_361, 135_055_088),
        (16, 0.3, 33_788_516, 33_787_596, 135_052_728),
        (32, 0.1, 246_187_329, 271_234_512, 272_477_988),
        (32, 0.2, 68_520_432, 68_863_506, 135_196_260),
        (32, 0.3, 33_864_918, 33_955_366, 135_065_792),
        (64, 0.1, 504_616_607, 542_484_896, 543_376_776),
        (64, 0.2, 111_384_433, 137_738_148, 137_651_340),
        (64, 0.3, 34_800_227, 34_726_411, 135_173_072),
        (128, 0.2, 235_389_837, 275_520_840, 274_183_872),
        (128, 0.3, 51_011_258, 59_357_947, 135_531_864),
    ],
)
def test_kaggle_totals(dim: int, alpha: float, nearest: int, pow2: int, fours: int) -> None:
    totals = []
    for rounding, min_dim in (("nearest", 1), ("pow2", 1), ("multiple", 4)):
        widths = mixed_dims(
            K,
            alpha,
            base_dim=dim,
            rounding=rounding,
            multiple=4,
            min_dim=min_dim,  # type: ignore[arg-type]
        )
        totals.append(mixed.param_count(K, widths, dim))
        # what is stored is that and at most three rows of padding per table
        assert 0 <= mixed_scalars(K, widths, dim) - totals[-1] <= 3 * sum(widths)
        features = tuple(f.model_copy(update={"dim": dim}) for f in KAGGLE)
        groups = tuple(
            Group((f.name,), MixedConfig(dims=(d,))) for f, d in zip(features, widths, strict=True)
        )
        report = size(Plan(features, groups))
        assert (report.table_bytes + report.dense_bytes) // 4 == mixed_scalars(K, widths, dim)
    assert totals == [nearest, pow2, fours]


@pytest.mark.parametrize(("dim", "alpha"), mixed.KAGGLE_WIDTHS, ids=str)
def test_widths_of_the_reference_on_kaggle(dim: int, alpha: float) -> None:
    widths = mixed_dims(K, alpha, base_dim=dim)
    assert widths == mixed.KAGGLE_WIDTHS[dim, alpha]
    exact = mixed.param_count(K, widths, dim)
    assert 0 <= mixed_scalars(K, widths, dim) - exact <= 3 * sum(widths)


def test_toy_widths() -> None:
    assert mixed_dims([100, 10, 10, 1000], 0.5, base_dim=8) == [3, 8, 8, 1]


@given(
    SIZES,
    ALPHAS,
    st.sampled_from([4, 10, 16, 39]),
    st.sampled_from(["nearest", "packed", "pow2", "floor"]),
)
def test_rule_equals_reference(sizes: list[int], alpha: float, dim: int, rounding: str) -> None:
    widths = mixed_dims(sizes, alpha, base_dim=dim, rounding=rounding)  # type: ignore[arg-type]
    expected = mixed.mixed_dims(sizes, alpha, dim, rounding=rounding)
    real = mixed.real_widths(sizes, alpha, dim)
    for width, want, exact in zip(widths, expected, real, strict=True):
        # at a tie the last float bit decides which side it falls on
        tie = min(abs(math.log2(exact) % 1 - 0.5), abs(2 * exact - round(2 * exact)))
        assert width == want or tie < 1e-6


@given(SIZES, ALPHAS, st.sampled_from(["nearest", "packed", "pow2", "multiple", "floor", "ceil"]))
def test_widths_are_whole_and_ordered(sizes: list[int], alpha: float, rounding: str) -> None:
    """In the reference rounding to powers of two gives floats, which are no widths of a table."""
    widths = mixed_dims(sizes, alpha, base_dim=16, rounding=rounding)  # type: ignore[arg-type]
    assert all(type(width) is int and 1 <= width <= 16 for width in widths)
    assert max(widths) == 16 == widths[sizes.index(min(sizes))]
    for n, width in zip(sizes, widths, strict=True):
        for m, other in zip(sizes, widths, strict=True):
            assert width <= other or n <= m


@given(SIZES, ALPHAS, st.randoms(use_true_random=False))
def test_permuted_sizes_permute_widths(sizes: list[int], alpha: float, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(sizes)))
    random.shuffle(order)
    widths = mixed_dims(sizes, alpha, base_dim=16)
    assert mixed_dims([sizes[i] for i in order], alpha, base_dim=16) == [widths[i] for i in order]


@given(SIZES, ALPHAS, st.sampled_from([2, 64, 1024]))
def test_scaling_all_sizes_changes_nothing(sizes: list[int], alpha: float, factor: int) -> None:
    widths = mixed_dims(sizes, alpha, base_dim=16)
    assert mixed_dims([factor * n for n in sizes], alpha, base_dim=16) == widths


@given(SIZES, ALPHAS, st.integers(0, 11), st.floats(1, 100))
def test_more_lookups_never_make_a_block_narrower(
    sizes: list[int], alpha: float, which: int, times: float
) -> None:
    which %= len(sizes)
    lookups = [1.0] * len(sizes)
    before = mixed_dims(sizes, alpha, base_dim=16, lookups=lookups)
    lookups[which] = times
    assert mixed_dims(sizes, alpha, base_dim=16, lookups=lookups)[which] >= before[which]


def test_no_temperature_is_a_plain_table() -> None:
    widths = mixed_dims(K, 0.0, base_dim=16)
    assert widths == [16] * 26
    layer = CompressedEmbedding(50, 16, MixedConfig(dims=(16,)))
    (weight,) = layer.parameters()  # no projection
    assert torch.equal(layer.materialize(), weight)


def test_popular_small_table_does_not_exceed_the_base_width() -> None:
    """The reference takes lambda from the smallest table, not from the most popular row: 58."""
    lookups = [100.0 if n == 4 else 1.0 for n in K]
    widths = mixed_dims(K, 0.3, base_dim=16, lookups=lookups)
    assert max(widths) == 16 == widths[K.index(4)]


@pytest.mark.parametrize("dim", [400, 39, 48])
def test_base_width_survives_rounding_to_powers(dim: int) -> None:
    """The reference rounds 400 to 512 and then does not fit the bottom network."""
    widths = mixed_dims(K, 0.2, base_dim=dim, rounding="pow2")
    assert max(widths) == dim
    assert all(width == dim or width & (width - 1) == 0 for width in widths)


@pytest.mark.parametrize("rounding", ["nearest", "packed", "pow2", "multiple"])
@pytest.mark.parametrize("threshold", [1, 200])
def test_small_tables_and_every_rounding_can_be_built(threshold: int, rounding: str) -> None:
    """In the reference a table below the threshold, or a rounded width, is a TypeError."""
    features = tuple(
        Feature(name=f"C{i}", num_ids=min(n, 3000), dim=16) for i, n in enumerate(K, start=1)
    )
    options = {"rounding": rounding, "alpha": 0.3}
    budget = size(full_plan(features)).serving_bytes // 2
    plan = make_plan("mixed", features, budget, threshold=threshold, options=options)
    for group in plan.groups:
        small = plan.group_features(group)[0].num_ids <= threshold  # type: ignore[operator]
        assert (group.config.method == "full") == small
    collection = CompressedEmbeddingBagCollection(plan)
    assert all(c.embedding_dim == 16 for c in collection.embedding_bag_configs())


# --- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [2, 4, 8, 15])
@pytest.mark.parametrize("rounding", ["nearest", "packed", "pow2", "floor"])
def test_plans_meet_their_budget(share: int, rounding: str) -> None:
    budget = size(full_plan(KAGGLE)).serving_bytes // share
    plan = make_plan("mixed", KAGGLE, budget, options={"rounding": rounding})
    report = size(plan)
    assert 0.99 * budget < report.serving_bytes <= budget
    split = [g for g in plan.groups if isinstance(g.config, MixedConfig) and g.config.rows]
    assert len(split) <= 1  # one feature at most has what was left over, for its first ids
    widths = [g.config.dims[-1] for g in plan.groups if isinstance(g.config, MixedConfig)]
    rows = [
        plan.group_features(g)[0].num_ids for g in plan.groups if isinstance(g.config, MixedConfig)
    ]
    for n, width in zip(rows, widths, strict=True):
        for m, other in zip(rows, widths, strict=True):
            assert width <= other or n <= m  # type: ignore[operator]


@pytest.mark.parametrize(
    ("rounding", "next_widths"),
    [
        ("packed", {1: 2, 2: 4, 4: 8, 8: 12, 12: 16}),
        ("pow2", {1: 2, 2: 4, 4: 8, 8: 16}),
        ("multiple", {4: 8, 8: 12, 12: 16}),
        ("nearest", {d: d + 1 for d in range(1, 16)}),
    ],
)
def test_what_is_left_over_widens_the_first_ids_of_a_feature(
    rounding: str, next_widths: dict[int, int]
) -> None:
    feature = Feature(name="a", num_ids=50_000, dim=16)
    full = size(full_plan((feature,))).serving_bytes
    options = {"rounding": rounding, "min_dim": min(next_widths)}
    for share in (1.1, 1.5, 2.3, 3.3, 3.9):
        plan = make_plan("mixed", (feature,), int(full / share), options=options)
        config = plan.groups[0].config
        assert isinstance(config, MixedConfig)
        wide, narrow = config.dims
        assert wide == next_widths[narrow]
        more = MixedConfig(dims=config.dims, rows=(config.rows[0] + 100, config.rows[1] - 100))
        assert size(Plan((feature,), (Group(("a",), more),))).serving_bytes > int(full / share)


@pytest.mark.parametrize("num_blocks", [1, 4])
def test_features_that_are_looked_up_often_are_wide(num_blocks: int) -> None:
    """A bag of many ids makes its feature popular: look-ups per row count, not rows alone."""
    once = np.sort(np.random.default_rng(0).zipf(1.3, 20_000).clip(max=10_000))[::-1]
    features = tuple(Feature(name=n, num_ids=20_000, dim=16, max_bag=50) for n in ("a", "b"))
    budget = size(full_plan(features)).serving_bytes // 3

    def widths(times: int) -> list[float]:
        counts = {"a": once, "b": times * once}
        plan = make_plan(
            "mixed", features, budget, counts=counts, options={"num_blocks": num_blocks}
        )
        configs = [g.config for g in plan.groups]
        assert all(isinstance(c, MixedConfig) for c in configs)
        return [float(np.dot(c.rows or (20_000,), c.dims)) for c in configs]  # type: ignore[attr-defined]

    a, b = widths(1)
    assert a >= b
    a, b = widths(50)
    assert b > 2 * a


def test_a_feature_at_its_own_width_holds_back_no_other() -> None:
    features = (Feature(name="a", num_ids=300, dim=1), Feature(name="b", num_ids=9000, dim=16))
    budget = size(full_plan(features)).serving_bytes // 2
    plan = make_plan("mixed", features, budget)
    assert 0.99 * budget < size(plan).serving_bytes <= budget


def test_sixteenth_of_kaggle_needs_width_one() -> None:
    """Packed narrow rows: with widths of at least 4 nothing below a quarter can be reached."""
    full = size(full_plan(KAGGLE)).serving_bytes
    plan = make_plan("mixed", KAGGLE, full // 15)
    assert size(plan).serving_bytes <= full // 15
    with pytest.raises(ValueError, match=r"mixed: the budget is .* but the smallest plan takes"):
        make_plan("mixed", KAGGLE, full // 15, options={"min_dim": 4})
