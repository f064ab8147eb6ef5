"""Synthetic click data with a known best AUC: a prepared data folder, or a raw Criteo-format file.

The rows come from :class:`compactrec.data.teacher.Teacher`. Both writers give the same rows for the
same seed and configuration, and the first rows do not depend on how many are asked for; preparing
the raw file with protocol ``compactrec`` gives the ids and rows of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compactrec.data.folder import building
from compactrec.data.manifest import SPLITS, Counters, Manifest, SparseFeature
from compactrec.data.progress import Progress
from compactrec.data.shards import ShardWriter
from compactrec.data.split import SplitRule
from compactrec.data.teacher import CHUNK_ROWS, Chunk, SyntheticConfig, Teacher

__all__ = ["make_synthetic", "raw_tokens", "write_raw_criteo"]

_AUC_BINS = 1 << 18
_MISSING_TOKEN = -1


def make_synthetic(
    out: str | Path,
    num_rows: int = 1_000_000,
    seed: int = 0,
    config: SyntheticConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write a data folder of synthetic clicks and return its manifest.

    The split is by time as for real data: the last 1/7 is test, 1/14 before it validation. The
    manifest's ``best_auc`` is what the true probabilities reach on the test split; its ``schema``
    holds the configuration and the same figure for every split. Memory does not grow with
    ``num_rows``.

    Args:
        out: folder to make; it appears only when it is complete.
        num_rows: rows of all splits together.
        seed: of teacher and rows.
        config: shape and difficulty; None is the default.
        overwrite: replace an existing data folder.
        progress: called with (stage, bytes done, bytes in all).

    Raises:
        ValueError: too few rows to fill three splits, or ``out`` exists.
    """
    config = config or SyntheticConfig()
    sizes = SplitRule().sizes(num_rows)
    teacher = Teacher(config, seed)
    with building(Path(out), overwrite) as folder:
        maps = _number(teacher, sizes[0], folder, progress)
        rows = _Rows(teacher, folder, maps, np.cumsum(sizes))
        for index, count in _chunks(num_rows):
            rows.add(index * CHUNK_ROWS, teacher.chunk(index, count))
            _report(progress, "writing", teacher, index * CHUNK_ROWS + count, num_rows)
        manifest = rows.manifest(num_rows)
        manifest.save(folder)
    return manifest


def write_raw_criteo(
    path: str | Path,
    num_rows: int,
    seed: int = 0,
    config: SyntheticConfig | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Write synthetic clicks as text in the format of Criteo's ``train.txt``.

    One line a row, no header, separated by tabs: label, the dense columns as whole numbers (some
    negative), the sparse columns as eight hexadecimal digits; a missing field is empty. A path
    ending in ``.gz`` is compressed.

    Args:
        path: file to write.
        num_rows: number of lines.
        seed: of teacher and rows.
        config: shape and difficulty; None is the default, with Criteo's 13 + 26 columns.
        progress: called with (stage, bytes done, bytes in all).

    Raises:
        ValueError: ``num_rows`` is below 1.
    """
    if num_rows < 1:
        raise ValueError(f"raw criteo: num_rows must be at least 1, got {num_rows}")
    teacher = Teacher(config or SyntheticConfig(), seed)
    tokens = [_hex(raw_tokens(f, size)) for f, size in enumerate(teacher.sizes)]
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    writer = None
    with pa.output_stream(str(path), compression="detect") as sink:
        for index, count in _chunks(num_rows):
            table = _text_table(teacher.chunk(index, count), tokens)
            writer = writer or pa_csv.CSVWriter(sink, table.schema, write_options=options)
            writer.write_table(table)
            _report(progress, "writing", teacher, index * CHUNK_ROWS + count, num_rows)
        if writer is not None:
            writer.close()


def raw_tokens(feature: int, size: int) -> NDArray[np.int64]:
    """(size,) distinct tokens below 2**32 by latent id, in raw files and vocabularies.

    Every second feature of ten ids or more has -1 for its second most probable id: the field that
    is missing. The rest is a mix that can be undone, so there are no clashes.
    """
    x = np.arange(size, dtype=np.uint32) ^ np.uint32((feature + 1) * 0x9E3779B1 & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    tokens = (x ^ (x >> np.uint32(16))).astype(np.int64)
    if size >= 10 and feature % 2 == 0:
        tokens[1] = _MISSING_TOKEN
    return tokens


class _Rows:
    """Takes chunks in row order and writes the shards of all splits."""

    def __init__(
        self, teacher: Teacher, folder: Path, maps: list[NDArray[np.int32]], ends: NDArray[np.int64]
    ) -> None:
        self._teacher, self._maps, self._ends = teacher, maps, ends
        self._writers = [ShardWriter(folder, split) for split in SPLITS]
        self._histograms = np.zeros((len(SPLITS), 2, _AUC_BINS), np.int64)
        self._unseen = np.zeros((len(SPLITS), len(maps)), np.int64)

    def add(self, first_row: int, chunk: Chunk) -> None:
        """Write the rows of a chunk that starts at ``first_row``."""
        config = self._teacher.config
        ids = [index[latent] for index, latent in zip(self._maps, chunk.ids, strict=True)]
        columns: dict[str, NDArray[Any]] = {"label": chunk.labels}
        columns |= dict(zip(config.dense_names(), chunk.transformed(), strict=True))
        columns |= dict(zip(config.sparse_names(), ids, strict=True))
        table = pa.table(columns)
        num_rows, start = table.num_rows, 0
        for split, end in enumerate(self._ends - first_row):
            stop = min(max(int(end), 0), num_rows)
            if start < stop:
                self._writers[split].add(table.slice(start, stop - start))
                part = slice(start, stop)
                self._count(split, chunk.probability[part], chunk.labels[part])
                self._unseen[split] += [int(np.sum(column[part] == 0)) for column in ids]
            start = max(start, stop)

    def manifest(self, num_rows: int) -> Manifest:
        """Close the shards and describe everything."""
        teacher, config = self._teacher, self._teacher.config
        best = {split: _auc(h) for split, h in zip(SPLITS, self._histograms, strict=True)}
        names = config.sparse_names()
        features = [
            SparseFeature(name=n, num_ids=int(m.max()) + 1, vocabulary=f"vocabulary/{n}.parquet")
            for n, m in zip(names, self._maps, strict=True)
        ]
        unseen = {
            split: dict(zip(names, map(int, counts), strict=True))
            for split, counts in zip(SPLITS[1:], self._unseen[1:], strict=True)
        }
        return Manifest(
            name="synthetic",
            protocol="synthetic",
            dense=tuple(config.dense_names()),
            sparse=tuple(features),
            splits={s: w.close() for s, w in zip(SPLITS, self._writers, strict=True)},
            split_rule=SplitRule().model_dump(exclude_none=True),
            counters=Counters(
                unseen_ids=unseen,
                positives=dict(zip(SPLITS, self._histograms[:, 1].sum(1).tolist(), strict=True)),
            ),
            schema={
                "generator": "synthetic",
                "num_rows": num_rows,
                "seed": teacher.seed,
                "config": config.model_dump(mode="json"),
                "best_auc": best,
            },
            best_auc=best["test"],
        )

    def _count(
        self, split: int, probability: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> None:
        bins = np.minimum((probability * _AUC_BINS).astype(np.int64), _AUC_BINS - 1)
        for label in (0, 1):
            self._histograms[split, label] += np.bincount(
                bins[labels == label], minlength=_AUC_BINS
            )


def _auc(histogram: NDArray[np.int64]) -> float | None:
    """ROC AUC from (2, bins) counts of negatives and positives; ties count half."""
    negatives, positives = histogram.astype(np.float64)
    pairs = negatives.sum() * positives.sum()
    if not pairs:
        return None
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / pairs)


def _number(
    teacher: Teacher, num_train: int, folder: Path, progress: Progress | None
) -> list[NDArray[np.int32]]:
    """Number the ids by falling training count, write the vocabularies, return latent id -> id."""
    counts = [np.zeros(size, np.int64) for size in teacher.sizes]
    first = [np.full(size, num_train, np.int64) for size in teacher.sizes]
    for index, num in _chunks(num_train):
        rows = np.arange(index * CHUNK_ROWS, index * CHUNK_ROWS + num)[::-1]
        for latent, count, seen in zip(teacher.ids(index, num), counts, first, strict=True):
            backwards = latent[::-1]
            new = count[backwards] == 0
            seen[backwards[new]] = rows[new]  # the last assignment, so the first row, stays
            count += np.bincount(latent, minlength=len(count))
        _report(progress, "numbering", teacher, index * CHUNK_ROWS + num, num_train)
    maps = []
    (folder / "vocabulary").mkdir()
    names = teacher.config.sparse_names()
    for f, (name, count, seen) in enumerate(zip(names, counts, first, strict=True)):
        order = np.lexsort((seen, -count))[: int(np.count_nonzero(count))]
        ids = np.arange(1, len(order) + 1)
        table = {"token": raw_tokens(f, len(count))[order], "id": ids, "count": count[order]}
        path = folder / "vocabulary" / f"{name}.parquet"
        pq.write_table(pa.table(table), path, compression="zstd")
        index_of = np.zeros(len(count), np.int32)
        index_of[order] = ids
        maps.append(index_of)
    return maps


def _hex(tokens: NDArray[np.int64]) -> pa.Array:
    """Tokens as text of eight digits; null where missing."""
    shifts = np.arange(28, -4, -4)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[(tokens[:, None] >> shifts) & 15]
    offsets = np.arange(0, 8 * len(tokens) + 1, 8, dtype=np.int32)
    text = pa.StringArray.from_buffers(len(tokens), pa.py_buffer(offsets), pa.py_buffer(digits))
    return pc.if_else(pa.array(tokens != _MISSING_TOKEN), text, None)


def _text_table(chunk: Chunk, tokens: list[pa.Array]) -> pa.Table:
    columns = [pa.array(chunk.labels.astype(np.int8))]
    columns += [pa.array(x, mask=m) for x, m in zip(chunk.dense, chunk.missing, strict=True)]
    columns += [t.take(pa.array(ids)) for t, ids in zip(tokens, chunk.ids, strict=True)]
    return pa.table(columns, names=[str(i) for i in range(len(columns))])


def _chunks(num_rows: int) -> list[tuple[int, int]]:
    """(chunk index, rows of it to use) for the first ``num_rows`` rows."""
    starts = range(0, num_rows, CHUNK_ROWS)
    return [(i, min(CHUNK_ROWS, num_rows - start)) for i, start in enumerate(starts)]


def _report(progress: Progress | None, stage: str, teacher: Teacher, done: int, total: int) -> None:
    if progress is not None:
        row_bytes = 4 * (1 + teacher.config.num_dense + len(teacher.sizes))
        progress(stage, done * row_bytes, total * row_bytes)
