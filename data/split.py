"""Which rows are trained on, selected on and tested on: named rules.

Rows are numbered from 0 in the order of the input, after malformed and dropped rows are gone. All
rules give exact sizes, need no memory that grows with the rows, and give the same split every time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from compactrec.data.hashing import mix

__all__ = ["TEST", "TRAIN", "VALIDATION", "RowSplit", "SplitRule", "make_row_split"]

TRAIN, VALIDATION, TEST = 0, 1, 2
_DEFAULTS = {"time": ("1/14", "1/7"), "random": ("1/10", "1/10")}
_BINS = 1 << 16
_STEP = 1 << 20


class SplitRule(BaseModel):
    """A rule and its numbers.

    * `time`: file order. The last `test` rows are the test split, the `validation` rows before them
      the validation split, all earlier ones train. Defaults: test 1/7, validation 1/14 of all rows.
    * `random`: rows are ranked by a hash of their number and `seed`; the lowest `test` ranks are
      test, the next `validation` ranks validation. Defaults: 1/10 each.
    * `x4`: as `random` with 1/10 each, sizes rounded to nearest (8:1:1 of the BARS benchmark).
    * `reference`: seven days by position. Six days train; the last day (`num_rows // 7`) is cut in
      two: its larger first half is test, its second half validation.
    * `torchrec`: as `reference`, but the last day's larger first half is validation, its second
      half test.
    * `tail`: the last 1/7 of the rows, ranked by the hash of `random`: the lower half, the larger
      one, is test, the upper validation.
    * `last_file`: of several files the last one's larger first half is validation, its second half
      test.
    * `files`: the caller gives one list of files per split.

    An amount is a fraction below 1 ("1/7", "0.1", 0.1), rounded down to rows, or a whole number of
    rows (20000). One that is written as a fraction and is whole (1.0, "5.0") is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["time", "random", "x4", "reference", "torchrec", "tail", "last_file", "files"] = (
        "time"
    )
    validation: str | int | float | None = None
    test: str | int | float | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.validation is not None or self.test is not None
        if given and self.rule not in _DEFAULTS:
            raise ValueError(
                f"split rule {self.rule!r} has fixed sizes; validation and test amounts are for "
                f"'time' and 'random'"
            )
        for value in (self.validation, self.test):
            if value is not None:
                _amount(value, 1)
        return self

    def sizes(self, num_rows: int) -> tuple[int, int, int]:
        """Rows of (train, validation, test); ValueError where a split would be empty."""
        if self.rule == "reference":
            day = num_rows // 7
            validation, test = day // 2, day - day // 2
        elif self.rule == "torchrec":
            test = num_rows // 7 // 2
            validation = num_rows // 7 - test
        elif self.rule == "tail":
            tail = num_rows - num_rows * 6 // 7
            validation, test = tail // 2, tail - tail // 2
        elif self.rule == "x4":
            validation = test = (num_rows + 5) // 10
        else:
            defaults = _DEFAULTS[self.rule]
            validation = _amount(
                defaults[0] if self.validation is None else self.validation, num_rows
            )
            test = _amount(defaults[1] if self.test is None else self.test, num_rows)
        sizes = {"train": num_rows - validation - test, "validation": validation, "test": test}
        not_wanted = {
            name
            for name, given in (("validation", self.validation), ("test", self.test))
            if given is not None and _exact(given) == 0
        }
        empty = [name for name, size in sizes.items() if size <= 0 and name not in not_wanted]
        if empty:
            raise ValueError(
                f"split rule {self.rule!r} leaves no rows for {empty} out of {num_rows} rows; give "
                f"more rows or other amounts"
            )
        return sizes["train"], validation, test


def _exact(value: str | int | float) -> Fraction:
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"a split amount is a fraction such as '1/7' or '0.1', or a number of rows, got "
            f"{value!r}"
        ) from error


def _amount(value: str | int | float, num_rows: int) -> int:
    exact = _exact(value)
    written_whole = not isinstance(value, float) and str(value).strip().lstrip("+-").isdigit()
    if exact < 0 or (exact >= 1 and not written_whole):
        raise ValueError(
            f"a split amount is a fraction in [0, 1) or a whole number of rows, written without a "
            f"point, got {value!r}"
        )
    return int(exact) if exact.denominator == 1 else int(exact * num_rows)


class RowSplit:
    """The split of every row; ask for it range by range."""

    def __init__(
        self, rule: SplitRule, sizes: tuple[int, int, int], bounds: tuple[int, int]
    ) -> None:
        self.rule, self.sizes, self._bounds = rule, sizes, bounds

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return sum(self.sizes)

    def of(self, start: int, stop: int) -> np.ndarray:
        """Split code (TRAIN, VALIDATION, TEST) of rows `start` to `stop`, shape (stop - start,)."""
        low, high = self._bounds
        codes = np.full(stop - start, TRAIN, dtype=np.uint8)
        rows = np.arange(start, stop)
        if self.rule.rule == "tail":
            codes[rows >= self.sizes[TRAIN]] = VALIDATION
            keys = _row_hash(start, stop, self.rule.seed)
            codes[(rows >= self.sizes[TRAIN]) & (keys < np.uint64(low))] = TEST
            return codes
        if self.rule.rule in ("random", "x4"):
            keys = _row_hash(start, stop, self.rule.seed)
            codes[keys < np.uint64(low)] = TEST
            codes[(keys >= np.uint64(low)) & (keys < np.uint64(high))] = VALIDATION
            return codes
        first, second = (TEST, VALIDATION) if self.rule.rule == "reference" else (VALIDATION, TEST)
        codes[rows >= low] = first
        codes[rows >= high] = second
        return codes


def make_row_split(
    rule: SplitRule, num_rows: int, file_rows: tuple[int, int, int] | None = None
) -> RowSplit:
    """The split of `num_rows` rows; `file_rows` are the rows per split for the rule `files`."""
    if rule.rule == "files":
        if file_rows is None:
            raise ValueError("split rule 'files' needs one list of files per split")
        if file_rows[TRAIN] == 0:
            raise ValueError("the training files hold no rows")
        return RowSplit(rule, file_rows, (file_rows[0], file_rows[0] + file_rows[1]))
    if rule.rule == "last_file":
        train, last = _of_last_file(file_rows)
        sizes = (train, last - last // 2, last // 2)
        return RowSplit(rule, sizes, (train, train + sizes[1]))
    sizes = train, validation, test = rule.sizes(num_rows)
    if rule.rule in ("random", "x4"):
        bounds = _thresholds(0, num_rows, rule.seed, (test, test + validation))
    elif rule.rule == "tail":
        bounds = _thresholds(train, num_rows, rule.seed, (test, test))
    else:
        bounds = (train, train + (test if rule.rule == "reference" else validation))
    return RowSplit(rule, sizes, bounds)


def _of_last_file(file_rows: tuple[int, int, int] | None) -> tuple[int, int]:
    """Rows of all files but the last one, and of that."""
    if file_rows is None or file_rows[0] == 0 or file_rows[1] < 2:
        raise ValueError(
            "split rule 'last_file' needs two files or more with rows in them: the last one's "
            "halves are validation and test, all before it is train"
        )
    return file_rows[0], file_rows[1]


def _row_hash(start: int, stop: int, seed: int) -> np.ndarray:
    """A bijection of the row number, so ranks have no ties."""
    salt = mix(np.array([seed], dtype=np.uint64))[0]
    return mix(np.arange(start, stop, dtype=np.uint64) ^ salt)


def _thresholds(first: int, num_rows: int, seed: int, ranks: tuple[int, int]) -> tuple[int, int]:
    """Hash values below which exactly `ranks` of the rows from `first` on lie.

    One sweep for bins, one inside two bins.
    """
    shift = np.uint64(48)
    histogram = np.zeros(_BINS, dtype=np.int64)
    for start in range(first, num_rows, _STEP):
        keys = _row_hash(start, min(start + _STEP, num_rows), seed)
        histogram += np.bincount((keys >> shift).astype(np.int64), minlength=_BINS)
    below = np.concatenate(([0], np.cumsum(histogram)))
    bins = [int(np.searchsorted(below, rank, side="right")) - 1 for rank in ranks]
    inside: dict[int, list[np.ndarray]] = {b: [] for b in bins}
    for start in range(first, num_rows, _STEP):
        keys = _row_hash(start, min(start + _STEP, num_rows), seed)
        for b, parts in inside.items():
            parts.append(keys[(keys >> shift).astype(np.int64) == b])
    result = []
    for rank, b in zip(ranks, bins, strict=True):
        keys = np.sort(np.concatenate(inside[b]))
        result.append(int(keys[rank - int(below[b])]))
    return result[0], result[1]
