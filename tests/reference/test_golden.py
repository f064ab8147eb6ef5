"""The references against golden numbers from papers, public code and hand calculation."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.reference import full, hashed, hashing, packing, pooling, rare, unified, uniform
from tests.reference.kaggle import KAGGLE_SIZES, dlrm_dense_params, dlrm_params

K = KAGGLE_SIZES


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0, 0xE220A8397B1DCDAF),
        (1, 0x910A2DEC89025CC1),
        (42, 0xBDD732262FEB6E95),
        (2**40, 0x1FDD7128F310C389),
    ],
)
def test_mix(x: int, expected: int) -> None:
    assert hashing.mix(x) == expected
    assert int(hashing.mix_array(np.array([x]))[0]) == expected


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [527, 215, 428, 264, 112, 553]),
        (1, [79, 303, 613, 457, 591, 346]),
        (7, [610, 207, 290, 546, 357, 265]),
    ],
)
def test_salted_hash(seed: int, expected: list[int]) -> None:
    ids = [0, 1, 2, 3, 1_000_000, 2**40 + 5]
    assert [hashing.hash_id(x, seed, 1000) for x in ids] == expected
    assert hashing.hash_array(np.array(ids), seed, 1000).tolist() == expected


def test_hash_of_negative_ids_is_of_their_64_bits() -> None:
    ids = np.array([-1, -(2**63), -5])
    expected = [hashing.hash_id(int(x) + 2**64, 3, 97) for x in ids]
    assert hashing.hash_array(ids, 3, 97).tolist() == expected


def test_hash_is_uniform_and_salts_are_independent() -> None:
    ids = np.arange(200_000)
    first, second = hashing.hash_array(ids, 0, 1000), hashing.hash_array(ids, 1, 1000)
    observed = np.bincount(first, minlength=1000)
    chi2 = float(((observed - 200) ** 2 / 200).sum()) / 999
    assert chi2 == pytest.approx(1.07, abs=0.01)
    assert float((first == second).mean()) == pytest.approx(0.001045, abs=1e-6)


def test_sign_is_balanced_and_independent_of_the_row() -> None:
    ids = range(20_000)
    signs = np.array([hashing.sign(x, 3) for x in ids])
    rows = np.array([hashing.hash_id(x, 4, 2) for x in ids])
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.mean()) < 4 / math.sqrt(20_000)
    assert abs((signs * (2 * rows - 1)).mean()) < 4 / math.sqrt(20_000)


def test_pool_by_hand() -> None:
    table = np.array([[1.0, 2.0], [10.0, -20.0], [100.0, 200.0]])
    bags, weights = [[0, 1], [], [2]], [[2.0, 0.5], [], [-1.0]]

    def embed(i: int) -> Any:
        return full.embed(i, table)

    total = pooling.pool(embed, bags, weights, "sum", dim=2)
    np.testing.assert_array_equal(total, [[7.0, -6.0], [0.0, 0.0], [-100.0, -200.0]])
    mean = pooling.pool(embed, bags, weights, "mean", dim=2)
    np.testing.assert_array_equal(mean, [[3.5, -3.0], [0.0, 0.0], [-100.0, -200.0]])
    top = pooling.pool(embed, bags, None, "max", dim=2)
    np.testing.assert_array_equal(top, [[10.0, 2.0], [0.0, 0.0], [100.0, 200.0]])


def test_pool_takes_torch_tensors() -> None:
    table = torch.arange(6, dtype=torch.float64).view(3, 2).requires_grad_()
    pooled = pooling.pool(lambda i: table[i], [[0, 2], []], dim=2)
    pooled.sum().backward()
    assert pooled.tolist() == [[4.0, 6.0], [0.0, 0.0]]
    assert table.grad is not None
    assert table.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_kaggle_model_totals() -> None:
    assert sum(K) == 33_762_577
    assert sum(n <= 200 for n in K) == 8
    assert 16 * sum(K) == 540_201_232
    bottom, top = dlrm_dense_params([13, 512, 256, 64, 16], [512, 256, 1], 26)
    assert (bottom, top, bottom + top) == (155_984, 320_001, 475_985)
    assert dlrm_params() == 540_677_217


def test_feature_generation_adds_half_a_million_top_weights() -> None:
    bottom_one, top_one = dlrm_dense_params([13, 512, 256, 64, 16], [512, 256, 1], 26)
    bottom_two, top_two = dlrm_dense_params([13, 512, 256, 64, 16], [512, 256, 1], 52)
    assert bottom_one == bottom_two
    assert top_two - top_one == 525_824


def test_hashed_by_hand() -> None:
    table = np.arange(10.0).reshape(5, 2)
    assert hashed.embed(13, table, "mod").tolist() == table[3].tolist()
    assert hashed.embed(1, np.arange(1000.0)[:, None], "mix", seed=7).tolist() == [207.0]
    signs = {float(hashed.embed(x, np.ones((5, 1)), "mod", sign_seed=1)[0]) for x in range(50)}
    assert signs == {-1.0, 1.0}


def test_unified_by_hand() -> None:
    table = np.stack([np.arange(1000.0), -np.arange(1000.0)], axis=1)
    got = unified.embed(2, [table], [0, 7], [0, 0])
    assert got.tolist() == [428.0, -428.0, 290.0, -290.0]
    two = unified.embed(2, [table, table + 0.5], [0, 7], [1, 0])
    assert two.tolist() == [428.5, -427.5, 290.0, -290.0]
    assert unified.param_count(160_605, 39) == 6_263_595


def test_uniform_by_hand() -> None:
    table, projection = np.array([[1.0], [2.0]]), np.array([[3.0, -4.0]])
    assert uniform.embed(1, table, projection).tolist() == [6.0, -8.0]
    assert uniform.embed(1, table, None).tolist() == [2.0]
    assert uniform.param_count(100, 2, 8) == 216
    assert uniform.param_count(100, 8, 8) == 800


def test_rare_by_hand() -> None:
    kept = rare.kept_ids([0, 5, 9, 5, 1], num_rows=3)
    assert kept == [2, 1]
    assert [rare.row(x, kept) for x in range(5)] == [0, 2, 1, 0, 0]
    assert rare.embed(2, np.array([[0.0], [1.0], [2.0]]), kept).tolist() == [1.0]


def test_unpack_by_hand() -> None:
    assert [packing.lanes(w) for w in (1, 2, 3, 4, 6, 8, 10)] == [4, 2, 4, 1, 2, 1, 2]
    assert packing.packed_shape(5, 3) == (2, 12)
    table = np.arange(12.0).reshape(3, 4)
    assert packing.unpack(table, 5, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    with pytest.raises(ValueError, match="does not hold 7 rows of 2"):
        packing.unpack(table, 7, 2)
