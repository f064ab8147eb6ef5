"""A small data folder, written by hand in the format of `docs/data.md`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from compactrec.data.manifest import Manifest, Shard, SparseFeature, Split
from compactrec.file_hash import file_sha256

SIZES = {"C1": 40, "C2": 7, "C3": 250}
DENSE = ("I1", "I2")
ROWS = {"train": 1_099, "validation": 701, "test": 601}
"""Odd: the last batch has no equal parts."""

Columns = dict[str, npt.NDArray[np.generic]]


def write_folder(folder: Path, *, constant: bool = False, dense: tuple[str, ...] = DENSE) -> Path:
    """Clicks that follow effects of C1 and I1; with ``constant`` all inputs are alike."""
    rng = np.random.default_rng(11)
    effects = rng.normal(size=SIZES["C1"]) * 2
    splits, counts = {}, {}
    for split, num_rows in ROWS.items():
        columns: Columns = {n: rng.integers(0, size, num_rows) for n, size in SIZES.items()}
        columns |= {name: rng.normal(size=num_rows) for name in dense}
        if constant:
            columns = {name: np.zeros_like(values) for name, values in columns.items()}
        logits = effects[columns["C1"]] + (columns["I1"] if dense else 0.0)
        columns["label"] = rng.random(num_rows) < 1 / (1 + np.exp(-logits))
        splits[split] = _write_split(folder, split, columns, dense)
        if split == "train":
            counts = {n: np.bincount(columns[n], minlength=size) for n, size in SIZES.items()}
    for name, count in counts.items():
        _write_vocabulary(folder / f"vocabulary/{name}.parquet", count)
    manifest = Manifest(
        name="tiny",
        protocol="compactrec",
        dense=dense,
        sparse=tuple(
            SparseFeature(name=n, num_ids=size, vocabulary=f"vocabulary/{n}.parquet")
            for n, size in SIZES.items()
        ),
        splits=splits,
    )
    manifest.save(folder)
    return folder


def _write_split(folder: Path, split: str, columns: Columns, dense: tuple[str, ...]) -> Split:
    path = folder / split / "00000.parquet"
    path.parent.mkdir(parents=True)
    typed = {
        "label": pa.array(columns["label"].astype(np.float32)),
        **{name: pa.array(columns[name].astype(np.float32)) for name in dense},
        **{name: pa.array(columns[name].astype(np.int32)) for name in SIZES},
    }
    table = pa.table(typed)
    pq.write_table(table, path)
    shard = Shard(path=f"{split}/00000.parquet", num_rows=table.num_rows, sha256=file_sha256(path))
    return Split(num_rows=table.num_rows, shards=(shard,))


def _write_vocabulary(path: Path, count: npt.NDArray[np.int64]) -> None:
    path.parent.mkdir(exist_ok=True)
    ids = np.arange(len(count))
    tokens = pa.array([str(i) for i in ids])
    pq.write_table(pa.table({"token": tokens, "id": ids, "count": count}), path)
