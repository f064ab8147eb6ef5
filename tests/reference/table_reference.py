"""Slow, literal preparation of any small table, in plain Python, written from its description."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Column", "mix", "number", "row_splits", "token"]

MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Column:
    """A categorical column: its kind of token and how its vocabulary is made."""

    name: str
    kind: str
    mode: str = "full"
    min_count: int = 1
    num_ids: int | None = None


def mix(x: int) -> int:
    """splitmix64 on plain integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def row_splits(rule: str, num_rows: int, seed: int, validation: str, test: str) -> list[str]:
    """The split of every row."""
    if rule == "reference":
        day = num_rows // 7
        half = (day + 1) // 2
        return ["train"] * (num_rows - day) + ["test"] * half + ["validation"] * (day - half)
    num_validation = math.floor(Fraction(validation) * num_rows)
    num_test = math.floor(Fraction(test) * num_rows)
    num_train = num_rows - num_validation - num_test
    if rule == "time":
        names = ["train"] * num_train + ["validation"] * num_validation + ["test"] * num_test
        return names
    ranked = sorted(range(num_rows), key=lambda row: mix(row ^ mix(seed)))
    result = ["train"] * num_rows
    for row in ranked[:num_test]:
        result[row] = "test"
    for row in ranked[num_test : num_test + num_validation]:
        result[row] = "validation"
    return result


def token(text: str, kind: str) -> int | str:
    """The token of one field."""
    if kind == "int":
        return int(text)
    if kind == "hex":
        return int(text, 16) if text else -1
    if kind == "bucket":
        value = float(text) if text else 0.0
        return math.floor(math.log(value) ** 2) if value > 2 else int(value)
    return text


def number(
    column: Column, bags: list[list[int | str]], splits: list[str]
) -> tuple[list[list[int]], int | None, list[int], dict[str, int]]:
    """(ids per row, num_ids, training counts per id, never-trained ids per split)."""
    trained = Counter(t for bag, s in zip(bags, splits, strict=True) if s == "train" for t in bag)
    unseen = {
        split: sum(
            t not in trained for bag, s in zip(bags, splits, strict=True) if s == split for t in bag
        )
        for split in ("validation", "test")
    }
    if column.mode == "hashed":
        ids = [[_hash(t, column) for t in bag] for bag in bags]
        size = column.num_ids
        return ids, size, _counts(ids, splits, size), dict.fromkeys(unseen, 0)
    first: dict[int | str, int] = {}
    for bag, split in zip(bags, splits, strict=True):
        for t in bag if split == "train" else ():
            first.setdefault(t, len(first))
    kept = [t for t in first if trained[t] >= max(column.min_count, 1)]
    kept.sort(key=lambda t: (-trained[t], first[t]))
    vocabulary = {t: i for i, t in enumerate(kept, start=1)}
    ids = [[vocabulary.get(t, 0) for t in bag] for bag in bags]
    return ids, len(kept) + 1, _counts(ids, splits, len(kept) + 1), unseen


def _counts(ids: list[list[int]], splits: list[str], size: int | None) -> list[int]:
    counts = [0] * (size or 0)
    for bag, split in zip(ids, splits, strict=True):
        for i in bag if split == "train" and size else ():
            counts[i] += 1
    return counts


def _hash(t: int | str, column: Column) -> int:
    key = _word(t) >> 1 if isinstance(t, str) else t & MASK
    if column.num_ids is None:
        return key if isinstance(t, str) else mix(key) >> 1
    return (mix(key ^ mix(_word(f"0:{column.name}"))) >> 1) % column.num_ids


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
