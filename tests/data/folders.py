"""Reads a data folder back into plain Python, and writes small Criteo files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from compactrec.data.manifest import Manifest

__all__ = ["GOLDEN_LINES", "criteo_line", "read_rows"]


def read_rows(folder: Path, split: str) -> dict[str, list[Any]]:
    """All rows of a split, column by column."""
    manifest = Manifest.load(folder)
    result: dict[str, list[Any]] = {}
    for path in manifest.shard_paths(folder, split):
        for name, values in pq.read_table(path).to_pydict().items():
            result.setdefault(name, []).extend(values)
    return result


def criteo_line(label: int, dense: dict[str, str], sparse: dict[str, str], row: int) -> str:
    """One line of train.txt; columns that are not named get values that vary with `row`."""
    numbers = [dense.get(f"I{i}", str((row * 7 + i) % 5)) for i in range(1, 14)]
    tokens = [sparse.get(f"C{i}", f"{(row * 31 + i) % (i + 2):08x}") for i in range(1, 27)]
    return "\t".join([str(label), *numbers, *tokens])


# label, I1, I2, I13, C1, C2, C26: missing fields, negative numbers, tokens from 2^31 up, repeats
_GOLDEN = (
    (0, "1", "-1", "0", "68fd1e64", "80000000", ""),
    (1, "", "0", "3", "05db9164", "ffffffff", "0000000a"),
    (0, "5", "-3", "", "68fd1e64", "", "0000000b"),
    (0, "0", "2", "1", "", "7fffffff", "0000000a"),
    (1, "2", "1", "44", "05db9164", "80000000", ""),
    (0, "", "", "7", "8cf07265", "ffffffff", "00000000"),
    (0, "-2", "9", "2", "05db9164", "80000001", "0000000c"),
    (1, "3", "4", "181", "68fd1e64", "", "0000000a"),
    (0, "1", "-1", "", "05db9164", "80000000", "0000000b"),
    (0, "7", "23", "6", "", "fffffffe", ""),
    (1, "0", "0", "1", "5a9ed9b0", "ffffffff", "0000000a"),
    (0, "4", "231", "2", "05db9164", "00000001", "0000000d"),
    (0, "1", "-2", "5", "be589b51", "80000000", "0000000e"),
    (1, "", "3", "0", "05db9164", "deadbeef", "0000000b"),
)
GOLDEN_LINES = [
    criteo_line(label, {"I1": i1, "I2": i2, "I13": i13}, {"C1": c1, "C2": c2, "C26": c26}, row)
    for row, (label, i1, i2, i13, c1, c2, c26) in enumerate(_GOLDEN)
]
