"""Partitions, combinations and totals of the compositional reference against golden numbers."""

import numpy as np
import pytest

from tests.reference import compositional, hashed, pooling
from tests.reference.kaggle import KAGGLE_SIZES

K = KAGGLE_SIZES

QR = [  # c, threshold, table rows, model, hash-trick scalars
    (2, 1, 16_881_348, 270_577_553, 270_100_736),
    (3, 1, 11_254_279, 180_544_449, 180_067_216),
    (4, 1, 8_440_758, 135_528_113, 135_050_464),
    (4, 20, 8_440_774, 135_528_369, 135_051_040),
    (4, 200, 8_440_878, 135_530_033, 135_052_896),
    (4, 2000, 8_443_096, 135_565_521, 135_088_640),
    (4, 20000, 8_476_228, 136_095_633, 135_619_136),
    (5, 1, 6_752_655, 108_518_465, 108_040_400),
    (6, 1, 5_627_264, 90_512_209, 90_033_728),
    (7, 1, 4_823_420, 77_650_705, 77_171_808),
    (60, 1, 564_285, 9_504_545, 9_003_600),
    (60, 200, 564_002, 9_500_017, 9_006_752),
]


@pytest.mark.parametrize(("collisions", "threshold", "rows", "model", "hash_scalars"), QR)
def test_quotient_remainder_totals_on_kaggle(
    collisions: int, threshold: int, rows: int, model: int, hash_scalars: int
) -> None:
    got = compositional.thresholded_rows(K, collisions, threshold)
    assert got == rows
    assert compositional.param_count([got], 16) + 475_985 == model
    hash_rows = sum(hashed.reference_rows(n, collisions, threshold) for n in K)
    assert hashed.param_count(hash_rows, 16) == hash_scalars


@pytest.mark.parametrize(
    ("hidden", "functions"), [(16, 56_576), (32, 111_488), (64, 221_312), (128, 440_960)]
)
def test_path_totals_on_kaggle(hidden: int, functions: int) -> None:
    counts = [compositional.path_param_count(n, 4, 16, hidden) for n in K]
    assert sum(table for table, _ in counts) == 135_050_464
    assert sum(function for _, function in counts) == functions


def test_path_total_of_the_golden_list() -> None:
    assert sum(sum(compositional.path_param_count(n, 4, 16, 64)) for n in K) == 135_271_776


def test_rows_of_the_largest_kaggle_table() -> None:
    n = 10_131_227
    rows = {c: sum(compositional.quotient_remainder_rows(n, c)) for c in (4, 60, 3183)}
    assert rows == {4: 2_532_811, 60: 168_914, 3183: 6_366}


def test_quotient_remainder_of_large_ids() -> None:
    digits = compositional.quotient_remainder(40_000_000, 4)
    assert digits(39_999_999) == (9_999_999, 3)
    radix = compositional.mixed_radix([250, 220, 200], 200 * 220 * 250)
    assert radix(123_456) == (206, 53, 2)  # the digits (2, 53, 206), least significant first


@pytest.mark.parametrize("num_ids", [1, 2, 9, 97, 100])
@pytest.mark.parametrize("collisions", [1, 2, 3, 7, 120])
@pytest.mark.parametrize("big", ["quotient", "remainder"])
def test_quotient_remainder_is_complementary(num_ids: int, collisions: int, big: str) -> None:
    digits = compositional.quotient_remainder(num_ids, collisions, big)
    rows = compositional.quotient_remainder_rows(num_ids, collisions, big)
    assert compositional.distinct(digits, num_ids)
    for x in range(num_ids):
        assert all(0 <= d < r for d, r in zip(digits(x), rows, strict=True))
    if big == "quotient":
        assert all(q * collisions + r == x for x in range(num_ids) for q, r in [digits(x)])


def test_other_families_are_complementary() -> None:
    assert compositional.distinct(compositional.mixed_radix([5, 4, 6], 120), 120)
    assert compositional.distinct(compositional.chinese_remainder([5, 7, 3], 105), 105)
    # the example of the paper's definition: {0}{134}{2}, {013}{24}, {03}{124}
    buckets = [(0, 0, 0), (1, 0, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1)]
    assert compositional.distinct(compositional.metadata(buckets), 5)


def test_families_that_are_not_complementary_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot tell 121"):
        compositional.mixed_radix([5, 4, 6], 121)
    with pytest.raises(ValueError, match="not coprime"):
        compositional.chinese_remainder([4, 6], 12)
    with pytest.raises(ValueError, match="cannot tell 36"):
        compositional.chinese_remainder([5, 7], 36)
    with pytest.raises(ValueError, match="share all attributes"):
        compositional.metadata([(0, 1), (1, 1), (0, 1)])


def test_combines_by_hand() -> None:
    tables = [np.array([[2.0, 3.0], [5.0, 7.0]]), np.array([[1.0, -1.0], [10.0, 0.5]])]
    digits = compositional.quotient_remainder(4, 2)  # id 2 is (1, 0)
    assert compositional.embed(2, tables, digits, "product").tolist() == [5.0, -7.0]
    assert compositional.embed(2, tables, digits, "sum").tolist() == [6.0, 6.0]
    assert compositional.embed(2, tables, digits, "concat").tolist() == [5.0, 7.0, 1.0, -1.0]
    with pytest.raises(ValueError, match="unknown operation"):
        compositional.embed(2, tables, digits, "mean")


def test_product_of_a_bag_is_the_sum_of_products() -> None:
    tables = [np.array([[2.0], [5.0]]), np.array([[1.0], [10.0]])]
    digits = compositional.quotient_remainder(4, 2)
    pooled = pooling.pool(
        lambda x: compositional.embed(x, tables, digits, "product"), [[0, 3]], [[2.0, 3.0]], dim=1
    )
    assert pooled.tolist() == [[2.0 * 2.0 * 1.0 + 3.0 * 5.0 * 10.0]]


def test_path_by_hand() -> None:
    table = np.array([[1.0, -2.0], [3.0, 4.0]])
    linear = [[(np.array([[1.0], [1.0]]),), (np.array([[2.0], [0.0]]),)]]
    digits = compositional.quotient_remainder(4, 2)
    got = [compositional.path(x, table, linear, digits).tolist() for x in range(4)]
    assert got == [[-1.0], [2.0], [7.0], [6.0]]
    one = (np.eye(2), np.array([0.5, 0.0]), np.array([[1.0], [1.0]]), np.array([-1.0]))
    mlp = compositional.path(0, table, [[one, one]], digits)
    assert mlp.tolist() == [1.5 + 0.0 - 1.0]  # relu removes -2
