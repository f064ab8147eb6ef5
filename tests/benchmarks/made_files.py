"""Made raw files of the shape of each published data set: a few hundred lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.folders import criteo_line

__all__ = ["made_criteo", "write_lines"]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def made_criteo(path: Path, num_rows: int = 350, seed: int = 0) -> Path:
    """Lines of Kaggle's train.txt; the label follows C1, and some fields are empty."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(num_rows):
        token = int(rng.integers(0, 9))
        dense = {"I1": "" if row % 9 == 0 else str(row % 13), "I2": str(row % 7 - 3)}
        sparse = {"C1": f"{token:08x}", "C3": "" if row % 6 == 0 else f"{row * row % 53:08x}"}
        lines.append(criteo_line(int(rng.random() < 0.1 + 0.09 * token), dense, sparse, row))
    return write_lines(path, lines)
