"""Bags made up from single ids, as MLPerf's DLRM-DCNv2 data are: always the same for an id.

For each table of n rows and bags of m ids there is a lookup (n, m): its first column is the id
itself, the others are uniform draws below n by NumPy's generator with one seed for all tables, in
their order (MLPerf's `multi_hot.py` in facebookresearch/dlrm). A table of 40 million rows with bags
of 100 would be 16 GB: the draws go to a file on disk, only of rows whose ids occur, and are read
from there. Ids are numbered by first appearance, so the rows that occur are the first ones. All
draws have to be made, as each depends on how many came before: a minute for MLPerf's tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["BagTable", "Bags", "make_bags"]

_DRAWS = 1 << 22
"""Drawn at a time."""


@dataclass(frozen=True)
class BagTable:
    """One table: its rows, the ids per bag, and how many of its rows are wanted."""

    num_rows: int
    bag: int
    num_used: int


class Bags:
    """The bags of one table; made by `make_bags`."""

    def __init__(self, table: BagTable, path: Path | None) -> None:
        self._bag = table.bag
        shape = (table.num_used, table.bag - 1)
        self._drawn = np.memmap(path, np.int32, "r", shape=shape) if path else None

    def of(self, ids: np.ndarray) -> np.ndarray:
        """(N,) ids -> (N, bag) ids, the first of them the id itself."""
        first = ids.astype(np.int32)[:, np.newaxis]
        return first if self._drawn is None else np.concatenate((first, self._drawn[ids]), axis=1)


def make_bags(tables: Sequence[BagTable], folder: Path, seed: int = 0) -> list[Bags]:
    """The bags of all tables, in their order; the draws lie in `folder` until it is removed."""
    random = np.random.RandomState(seed)
    made = []
    for number, table in enumerate(tables):
        path = folder / f"bags_{number}.bin" if table.bag > 1 and table.num_used else None
        rest = any(later.bag > 1 and later.num_used for later in tables[number + 1 :])
        drawn = _draws(random, table, table.num_rows if rest else table.num_used)
        if path is None:
            for _ in drawn:
                pass
        else:
            with path.open("wb") as file:
                file.writelines(rows.data for rows in _first(drawn, table.num_used))
        made.append(Bags(table, path))
    return made


def _draws(random: np.random.RandomState, table: BagTable, num_rows: int) -> Iterator[np.ndarray]:
    """Rows of draws, some at a time: the same numbers as all at once."""
    width = table.bag - 1
    step = max(1, _DRAWS // width) if width else num_rows
    for start in range(0, num_rows if width else 0, step):
        size = (min(step, num_rows - start), width)
        yield random.randint(0, table.num_rows, size=size)


def _first(drawn: Iterator[np.ndarray], num_rows: int) -> Iterator[np.ndarray]:
    """The first rows as int32; the others are drawn too."""
    for rows in drawn:
        yield np.ascontiguousarray(rows[: max(num_rows, 0)].astype(np.int32))
        num_rows -= len(rows)
