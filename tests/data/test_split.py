"""Split rules: exact sizes, exact rows, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from compactrec.data.split import TEST, TRAIN, VALIDATION, SplitRule, make_row_split
from tests.reference.table_reference import row_splits

KAGGLE_ROWS = 45_840_617
NAMES = np.array(["train", "validation", "test"])


def test_sizes_of_the_whole_kaggle_file() -> None:
    assert SplitRule(rule="reference").sizes(KAGGLE_ROWS) == (39_291_958, 3_274_329, 3_274_330)
    assert SplitRule(rule="x4").sizes(KAGGLE_ROWS) == (36_672_493, 4_584_062, 4_584_062)
    assert SplitRule(rule="time").sizes(KAGGLE_ROWS) == (36_017_629, 3_274_329, 6_548_659)


def test_reference_puts_test_before_validation() -> None:
    split = make_row_split(SplitRule(rule="reference"), KAGGLE_ROWS)
    edges = [39_291_957, 39_291_958, 39_291_958 + 3_274_329, 39_291_958 + 3_274_330]
    found = [int(split.of(row, row + 1)[0]) for row in edges]
    assert found == [TRAIN, TEST, TEST, VALIDATION]
    assert split.of(KAGGLE_ROWS - 1, KAGGLE_ROWS).tolist() == [VALIDATION]


@pytest.mark.parametrize("rule", ["time", "random", "reference", "x4"])
@pytest.mark.parametrize("num_rows", [14, 23, 1000, 4099])
@pytest.mark.parametrize("seed", [0, 5])
def test_equals_reference(rule: str, num_rows: int, seed: int) -> None:
    part = f"{(num_rows + 5) // 10}/{num_rows}"
    amounts = {"time": ("1/14", "1/7"), "random": ("1/10", "1/10")}.get(rule, (part, part))
    split = make_row_split(SplitRule(rule=rule, seed=seed), num_rows)  # type: ignore[arg-type]
    pieces = [split.of(start, min(start + 97, num_rows)) for start in range(0, num_rows, 97)]
    codes = np.concatenate(pieces)
    assert NAMES[codes].tolist() == row_splits(rule, num_rows, seed, *amounts)
    assert np.bincount(codes, minlength=3).tolist() == list(split.sizes)


def test_random_is_random_and_depends_on_the_seed() -> None:
    codes = [
        make_row_split(SplitRule(rule="random", seed=seed), 100_000).of(0, 100_000)
        for seed in (0, 0, 1)
    ]
    assert (codes[0] == codes[1]).all()
    assert 0.25 < (codes[0] != codes[2]).mean() < 0.4  # 1 - (0.8^2 + 0.1^2 + 0.1^2) = 0.34
    thirds = [np.mean(part == TEST) for part in np.array_split(codes[0], 3)]
    assert all(0.09 < share < 0.11 for share in thirds)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"validation": "1/4", "test": 10}, (65, 25, 10)),
        ({"validation": 0, "test": "0.5"}, (50, 0, 50)),
        ({"validation": 0.25, "test": "0"}, (75, 25, 0)),
    ],
)
def test_amounts(given: dict[str, str | int | float], sizes: tuple[int, int, int]) -> None:
    assert SplitRule(rule="time", **given).sizes(100) == sizes


@pytest.mark.parametrize(
    ("given", "num_rows", "words"),
    [
        ({"rule": "reference"}, 6, r"leaves no rows for \['validation', 'test'\] out of 6 rows"),
        ({"rule": "time", "test": 100}, 50, r"leaves no rows for \['train'\]"),
        ({"rule": "time", "validation": "1/100"}, 50, r"leaves no rows for \['validation'\]"),
        ({"rule": "x4", "test": 5}, 50, "'x4' has fixed sizes"),
        ({"rule": "time", "test": "a seventh"}, 50, "a fraction such as '1/7'.*'a seventh'"),
        ({"rule": "time", "test": "3/2"}, 50, "a fraction in .*'3/2'"),
        ({"rule": "time", "test": -1}, 50, "a fraction in .*-1"),
        ({"rule": "time", "test": 1.0}, 50, "without a point, got 1.0"),
        ({"rule": "time", "test": "5.0"}, 50, "without a point, got '5.0'"),
        ({"rule": "time", "test": "4/4"}, 50, "a fraction in .*'4/4'"),
        ({"rule": "files"}, 50, "one list of files per split"),
    ],
)
def test_errors(given: dict[str, str | int], num_rows: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_row_split(SplitRule.model_validate(given), num_rows)
