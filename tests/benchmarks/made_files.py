"""Made raw files of the shape of each published data set: a few hundred lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.data.folders import criteo_line

__all__ = ["made_criteo", "made_files", "write_lines"]

AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
Files = Mapping[str, list[Path]]


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


def _kaggle(folder: Path) -> Files:
    return {"train": [made_criteo(folder / "train.txt")]}


def _days(folder: Path) -> Files:
    return {"train": [made_criteo(folder / f"day_{day}", 120, day) for day in range(3)]}


def _x1(folder: Path) -> Files:
    rng = np.random.default_rng(1)
    header = ",".join(["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))])
    files = {}
    for split, num_rows in (("train", 200), ("validation", 60), ("test", 60)):
        lines = [
            ",".join([
                str(int(rng.random() < 0.4)), *(f"{v:.3f}" for v in rng.random(13)),
                *(f"{v}.0" for v in rng.integers(0, 9, 26)),
            ])
            for _ in range(num_rows)
        ]  # fmt: skip
        files[split] = [write_lines(folder / f"{split}.csv", [header, *lines])]
    return files


def _avazu(folder: Path) -> Files:
    rng = np.random.default_rng(2)
    lines = []
    for row in range(300):
        hour = f"141021{row % 24:02}"
        tokens = [f"t{rng.integers(0, k + 2)}" for k in range(21)]
        lines.append(",".join([f"u{row}", str(int(rng.random() < 0.4)), hour, *tokens]))
    return {"train": [write_lines(folder / "train.csv", [AVAZU, *lines])]}


def _kdd12(folder: Path) -> Files:
    rng = np.random.default_rng(3)
    lines = [
        "\t".join([str(rng.integers(0, 3)), *(str(v) for v in rng.integers(0, 12, 11))])
        for _ in range(300)
    ]
    return {"train": [write_lines(folder / "training.txt", lines)]}


def _ml1m(folder: Path) -> Files:
    rng = np.random.default_rng(4)
    users = [f"{u}::{'FM'[u % 2]}::{u % 7}::{u % 5}::{u % 9:05}" for u in range(20)]
    write_lines(folder / "users.dat", users)
    lines = [
        f"{rng.integers(0, 20)}::{rng.integers(0, 30)}::{rng.integers(1, 6)}::97830{row:04}"
        for row in range(400)
    ]
    return {"train": [write_lines(folder / "ratings.dat", lines)]}


_SHAPES = {
    "bars-criteo-x1": _x1, "avazu-x4": _avazu, "unified-avazu": _avazu, "optembed-avazu": _avazu,
    "optembed-kdd12": _kdd12, "unified-ml1m": _ml1m, "mlperf-dlrm-dcnv2": _days,
}  # fmt: skip


def made_files(name: str) -> Callable[[Path], Files]:
    """What makes the files of a protocol in a folder; Kaggle's train.txt where nothing is said."""
    return _SHAPES.get(name, _kaggle)
