"""Widths, blocks and layer of the mixed-dimension reference against golden numbers."""

import numpy as np
import pytest

from tests.reference import mixed
from tests.reference.kaggle import KAGGLE_SIZES

K = KAGGLE_SIZES

CORRECTED = [  # D, alpha, nearest, pow2, multiple of 4
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
]


@pytest.mark.parametrize(("dim", "alpha", "nearest", "pow2", "fours"), CORRECTED)
def test_corrected_widths_on_kaggle(
    dim: int, alpha: float, nearest: int, pow2: int, fours: int
) -> None:
    modes = {"nearest": (1, 1), "pow2": (1, 1), "multiple": (4, 4)}
    totals = []
    for rounding, (multiple, min_dim) in modes.items():
        widths = mixed.mixed_dims(
            K, alpha, dim, rounding=rounding, multiple=multiple, min_dim=min_dim
        )
        assert max(widths) == dim
        totals.append(mixed.param_count(K, widths, dim))
    assert totals == [nearest, pow2, fours]


@pytest.mark.parametrize(("dim", "alpha"), mixed.KAGGLE_WIDTHS)
def test_reference_widths_on_kaggle(dim: int, alpha: float) -> None:
    assert mixed.reference_mixed_dims(K, alpha, d0=dim) == mixed.KAGGLE_WIDTHS[dim, alpha]


@pytest.mark.parametrize(
    ("dim", "alpha", "tables", "projections"),
    [
        (16, 0.2, 34_404_195, 2_160),
        (16, 0.3, 33_786_932, 1_584),
        (32, 0.2, 68_511_920, 8_512),
        (64, 0.2, 111_350_769, 33_664),
        (128, 0.3, 50_915_770, 95_488),
        (400, 0.2, 732_392_869, 1_324_400),
    ],
)
def test_reference_totals_on_kaggle(dim: int, alpha: float, tables: int, projections: int) -> None:
    widths = [int(d) for d in mixed.reference_mixed_dims(K, alpha, d0=dim)]
    assert sum(n * d for n, d in zip(K, widths, strict=True)) == tables
    assert mixed.param_count(K, widths, dim) == tables + projections


def test_reference_rule_toys_and_faults() -> None:
    assert mixed.reference_mixed_dims([100, 10, 10, 1000], 0.5, d0=8) == [3, 8, 8, 1]
    assert mixed.reference_mixed_dims(K, 0.0, d0=16) == [16] * 26
    over = [int(d) for d in mixed.reference_mixed_dims(K, 0.3, budget=1e8)]
    tables = sum(n * d for n, d in zip(K, over, strict=True))
    assert (tables, mixed.param_count(K, over, max(over)) - tables) == (107_092_605, 316_414)
    # faults: the base width is rounded too; widths above the base under look-up counts
    assert max(mixed.reference_mixed_dims(K, 0.2, d0=400, round_pow2=True)) == 512.0
    looked_up = [100.0 if n == 4 else 1.0 for n in K]
    assert mixed.reference_mixed_dims(K, 0.3, d0=16, lookups=looked_up)[K.index(4)] == 58


def test_corrected_rule_uses_popularity_per_row() -> None:
    looked_up = [100.0 if n == 4 else 1.0 for n in K]
    widths = mixed.mixed_dims(K, 0.3, 16, lookups=looked_up)
    assert widths[K.index(4)] == 16 == max(widths)
    assert widths[K.index(3)] < 16
    assert mixed.mixed_dims([1000, 250], 0.5, 8) == [4, 8]
    assert mixed.mixed_dims([7 * n for n in K], 0.2, 64) == mixed.mixed_dims(K, 0.2, 64)


def test_base_width_is_never_rounded() -> None:
    assert max(mixed.mixed_dims(K, 0.2, 39, rounding="pow2")) == 39
    assert mixed.round_width(38.9, 39, "pow2") == 32


@pytest.mark.parametrize(
    ("d", "expected"),
    [  # nearest, pow2, multiple of 4, packed, floor, ceil at D = 16
        (0.3, [1, 1, 4, 1, 1, 1]),
        (2.5, [2, 2, 4, 2, 2, 3]),
        (2.9, [3, 4, 4, 2, 2, 3]),
        (6.0, [6, 8, 8, 8, 6, 6]),
        (5.6, [6, 4, 4, 4, 5, 6]),
        (16.0, [16, 16, 16, 16, 16, 16]),
        (40.0, [16, 16, 16, 16, 16, 16]),
    ],
)
def test_round_width(d: float, expected: list[int]) -> None:
    modes = ["nearest", "pow2", "multiple", "packed", "floor", "ceil"]
    assert [mixed.round_width(d, 16, mode, multiple=4) for mode in modes] == expected


def test_mixed_layer_by_hand() -> None:
    tables = [np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])]
    projections = [None, np.array([[10.0, -1.0]])]
    got = [mixed.embed(x, tables, projections).tolist() for x in range(3)]
    assert got == [[1.0, 2.0], [30.0, -3.0], [40.0, -4.0]]
    assert mixed.param_count([1, 2], [2, 1], 2) == 1 * 2 + 2 * 1 + 1 * 2
    with pytest.raises(IndexError):
        mixed.embed(3, tables, projections)


@pytest.mark.parametrize(
    ("freq", "num_blocks", "ends"),
    [
        ([5, 5, 5, 5], 2, [2, 4]),
        ([1, 2, 3, 4], 2, [2, 4]),  # ranked 4, 3, 2, 1: 7 of 10 is the first sum over half
        ([70, 10, 10, 10], 4, [1, 2, 4]),  # the heavy row fills a block; an empty one is dropped
        ([3, 0, 3, 0, 0], 2, [1, 5]),  # rows never seen fall into the last block
        ([0, 0, 0], 2, [1, 3]),
        ([9], 3, [1]),
    ],
)
def test_equipartition_ends(freq: list[int], num_blocks: int, ends: list[int]) -> None:
    assert mixed.equipartition(freq, num_blocks)[0] == ends


def test_equipartition_remap_and_masses() -> None:
    freq = np.random.default_rng(0).zipf(1.3, 500).clip(max=10_000).tolist()
    ends, remap = mixed.equipartition(freq, 8)
    assert sorted(remap) == list(range(500))
    by_rank = np.zeros(500, dtype=int)
    by_rank[remap] = freq
    assert (np.diff(by_rank) <= 0).all()
    starts = [0, *ends[:-1]]
    masses = [int(by_rank[a:b].sum()) for a, b in zip(starts, ends, strict=True)]
    assert max(masses) - min(masses) <= max(freq)
