"""Slow, literal versions of the Criteo protocols, in plain Python, from their description."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Prepared", "bars_x4", "dlrm_kaggle"]

DENSE = [f"I{i}" for i in range(1, 14)]
SPARSE = [f"C{i}" for i in range(1, 27)]


@dataclass
class Prepared:
    """Rows per split, and per column the number of ids and the training counts by id."""

    labels: dict[str, list[int]]
    dense: dict[str, list[list[np.float32]]]
    ids: dict[str, list[list[int]]]
    num_ids: dict[str, int]
    counts: dict[str, list[int]]
    tokens: dict[str, dict[int, int]] = field(default_factory=dict)


def dlrm_kaggle(lines: list[str], max_ind_range: int = 0) -> Prepared:
    """Seven days by position, one dictionary over all of them, the last day cut in two."""
    per_day, extra = divmod(len(lines), 7)
    days: list[list[str]] = []
    start = 0
    for day in range(7):
        size = per_day + (1 if day < extra else 0)
        days.append(lines[start : start + size])
        start += size
    parsed = [[_parse(line, max_ind_range) for line in day] for day in days]
    dictionaries: list[dict[int, int]] = [{} for _ in SPARSE]
    for day_rows in parsed:
        for _, _, tokens in day_rows:
            for column, token in enumerate(tokens):
                if token not in dictionaries[column]:
                    dictionaries[column][token] = len(dictionaries[column])
    half = (len(parsed[6]) + 1) // 2
    rows = {
        "train": [row for day_rows in parsed[:6] for row in day_rows],
        "test": parsed[6][:half],
        "validation": parsed[6][half:],
    }
    counts = {name: [0] * len(d) for name, d in zip(SPARSE, dictionaries, strict=True)}
    for _, _, tokens in rows["train"]:
        for name, dictionary, token in zip(SPARSE, dictionaries, tokens, strict=True):
            counts[name][dictionary[token]] += 1
    return Prepared(
        labels={split: [label for label, _, _ in part] for split, part in rows.items()},
        dense={
            split: [[_log(value) for value in dense] for _, dense, _ in part]
            for split, part in rows.items()
        },
        ids={
            split: [
                [dictionary[token] for dictionary, token in zip(dictionaries, tokens, strict=True)]
                for _, _, tokens in part
            ]
            for split, part in rows.items()
        },
        num_ids={name: len(d) for name, d in zip(SPARSE, dictionaries, strict=True)},
        counts=counts,
        tokens=dict(zip(SPARSE, dictionaries, strict=True)),
    )


def bars_x4(splits: dict[str, list[str]], min_count: int) -> Prepared:
    """All 39 columns categorical; 0 is padding, the last id is for everything unknown."""
    rows = {split: [_parse_x4(line) for line in part] for split, part in splits.items()}
    names = DENSE + SPARSE
    ids: dict[str, list[list[int]]] = {split: [[] for _ in part] for split, part in rows.items()}
    num_ids, counts = {}, {}
    for column, name in enumerate(names):
        fill: int | str = 0 if name in DENSE else ""
        seen = Counter(row[1][column] for row in rows["train"])
        kept = [t for t, count in seen.most_common() if count >= min_count and t != fill]
        vocabulary = {token: number for number, token in enumerate(kept, start=1)}
        oov = len(kept) + 1
        num_ids[name] = oov + 1
        counts[name] = [0] * (oov + 1)
        for split, part in rows.items():
            for row, (_, tokens) in enumerate(part):
                number = vocabulary.get(tokens[column], oov)
                ids[split][row].append(number)
                if split == "train":
                    counts[name][number] += 1
    return Prepared(
        labels={split: [label for label, _ in part] for split, part in rows.items()},
        dense={split: [[] for _ in part] for split, part in rows.items()},
        ids=ids,
        num_ids=num_ids,
        counts=counts,
    )


def _parse(line: str, max_ind_range: int) -> tuple[int, list[int], list[int]]:
    fields = line.rstrip("\n").split("\t")
    assert len(fields) == 40
    fields = [text if text else "0" for text in fields]
    tokens = [int(text, 16) for text in fields[14:]]
    if max_ind_range > 0:
        tokens = [token % max_ind_range for token in tokens]
    return int(fields[0]), [int(text) for text in fields[1:14]], tokens


def _log(value: int) -> np.float32:
    clamped = 0 if value < 0 else value
    return np.float32(np.log(np.float32(clamped) + np.float32(1)))


def _parse_x4(line: str) -> tuple[int, list[int | str]]:
    fields = line.rstrip("\n").split("\t")
    tokens: list[int | str] = [_bucket(float(text) if text else 0.0) for text in fields[1:14]]
    return int(fields[0]), tokens + list(fields[14:])


def _bucket(value: float) -> int:
    return math.floor(math.log(value) ** 2) if value > 2 else int(value)
