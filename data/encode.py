"""Second pass: number the tokens of each column, then write rows of ids as parquet shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from compactrec.data.background import ahead
from compactrec.data.counting import ChunkTokens, ColumnRules
from compactrec.data.hashing import string_keys
from compactrec.data.ingest import StoredChunk, StoredColumn, read_tokens
from compactrec.data.manifest import SPLITS, SparseFeature, Split
from compactrec.data.multihot import Bags, BagTable, make_bags
from compactrec.data.protocol import Protocol
from compactrec.data.schema import Sparse, TableSchema
from compactrec.data.shards import ShardWriter
from compactrec.data.split import RowSplit
from compactrec.data.spool import Spool
from compactrec.data.transforms import dense_input
from compactrec.data.vocabulary import number_column

if TYPE_CHECKING:
    from compactrec.data.prepare import PrepareOptions

__all__ = ["Encoder"]

_INT32_IDS = 1 << 31


class Encoder:
    """Turns stored chunks into numbered features and shards."""

    def __init__(
        self, schema: TableSchema, options: PrepareOptions, protocol: Protocol,
        chunks: list[StoredChunk], row_split: RowSplit, spool: Spool, folder: Path,
        least: Mapping[int, float],
    ) -> None:  # fmt: skip
        self._schema, self._options, self._protocol = schema, options, protocol
        self._chunks, self._spool, self._folder = chunks, spool, folder
        self._features: list[SparseFeature] = []
        self._least = least
        self._bags: dict[str, Bags] = {}
        self._sizes = row_split.sizes
        start = 0
        for chunk in chunks:
            codes = row_split.of(start, start + chunk.num_rows)
            start += chunk.num_rows
            if (codes == codes[0]).all():
                chunk.split = int(codes[0])
            else:
                chunk.splits = spool.append(codes)

    # -- ids -----------------------------------------------------------------------------------

    def number(
        self, progress: Callable[[int, int], None]
    ) -> tuple[list[SparseFeature], dict[str, dict[str, int]]]:
        """Number every column; returns the features and the never-trained ids per split."""
        unseen: dict[str, dict[str, int]] = {split: {} for split in self._present()[1:]}
        examples = {}
        before = self._spool.bytes_read
        total = self._bytes_to_number()
        for spec in self._schema.sparse:
            columns = [chunk.sparse[spec.name] for chunk in self._chunks]
            stored = iter(columns)

            def store(ids: np.ndarray, stored: Iterator[StoredColumn] = stored) -> None:
                next(stored).ids = self._spool.append(ids)
                progress(min(self._spool.bytes_read - before, total), total)

            tokens = [self._tokens(*pair) for pair in zip(self._chunks, columns, strict=True)]
            numbered = number_column(self._rules(spec), tokens, self._folder, store)
            self._features.append(_with_bag(numbered.feature, spec, columns))
            for split, counts in unseen.items():
                counts[spec.name] = int(numbered.unseen[SPLITS.index(split)])
            if numbered.example:
                examples[spec.name] = numbered.example
        progress(total, total)
        if self._options.unseen == "error" and examples:
            found = {s: {k: v for k, v in c.items() if v} for s, c in unseen.items()}
            raise ValueError(
                f"there are tokens that training never has: {found}, for example {examples}; "
                f"--unseen oov, in Python unseen='oov', gives them the OOV id"
            )
        return self._features, unseen

    def _rules(self, spec: Sparse) -> ColumnRules:
        mode = spec.mode or self._options.mode
        fixed = self._protocol.min_count
        min_count = 1
        if fixed is not None:
            mode, min_count = "min_count", fixed
        elif mode == "min_count":
            min_count = spec.min_count or self._options.min_count or 2
        missing = None
        if self._protocol.missing_is_oov:
            missing = _missing_key(spec)
        most = None if mode != "most_frequent" else (spec.num_ids or 0) - 1
        return ColumnRules(
            spec.name, mode, min_count, spec.num_ids or self._options.num_ids, self._protocol,
            spec.type == "string", missing, self._options.max_ind_range, most, spec.wrap,
        )  # fmt: skip

    def _tokens(self, chunk: StoredChunk, column: StoredColumn) -> ChunkTokens:
        read = self._spool.read

        def values() -> tuple[np.ndarray, np.ndarray]:
            codes = read(column.codes)
            if chunk.splits is None:
                return codes, np.broadcast_to(np.uint8(chunk.split or 0), len(codes))
            split = read(chunk.splits)
            return codes, split if column.lengths is None else np.repeat(
                split, read(column.lengths)
            )

        strings = column.tokens
        return ChunkTokens(
            keys=lambda: read(column.keys),
            values=values,
            tokens=None if strings is None else lambda: read_tokens(self._spool, strings),
            num_keys=column.keys.length,
            num_values=column.codes.length,
            split=chunk.split,
        )

    # -- rows ----------------------------------------------------------------------------------

    def write(
        self, progress: Callable[[int, int], None]
    ) -> tuple[dict[str, Split], dict[str, int]]:
        """Write the shards of every split; returns the splits and their positive labels."""
        present = self._present()
        self._bags = self._made_bags()
        writers = {s: ShardWriter(self._folder, s, self._options.shard_rows) for s in present}
        positives = dict.fromkeys(present, 0)
        before, total = self._spool.bytes_read, self._bytes_to_write()
        try:
            for chunk, table in ahead((chunk, self._table(chunk)) for chunk in self._chunks):
                for split, rows in self._by_split(chunk, table):
                    writers[split].add(rows)
                    positives[split] += int(np.count_nonzero(rows["label"].to_numpy()))
                progress(min(self._spool.bytes_read - before, total), total)
            progress(total, total)
            return {split: writer.close() for split, writer in writers.items()}, positives
        finally:
            for writer in writers.values():
                writer.abandon()

    def _bytes_to_number(self) -> int:
        """Bytes that numbering reads back: keys, and codes where they are counted."""
        return sum(
            column.keys.num_bytes + (0 if chunk.split else column.codes.num_bytes)
            for chunk in self._chunks
            for column in chunk.sparse.values()
        )

    def _bytes_to_write(self) -> int:
        """Bytes that writing reads back."""
        return sum(
            segment.num_bytes
            for chunk in self._chunks
            for segment in (
                chunk.label, *chunk.dense.values(), *(c.codes for c in chunk.sparse.values()),
                *(c.ids for c in chunk.sparse.values() if c.ids is not None),
            )
        )  # fmt: skip

    def _present(self) -> list[str]:
        return [
            name for name, size in zip(SPLITS, self._sizes, strict=True) if size or name == "train"
        ]

    def _by_split(self, chunk: StoredChunk, table: pa.Table) -> list[tuple[str, pa.Table]]:
        if chunk.splits is None:
            assert chunk.split is not None
            return [(SPLITS[chunk.split], table)]
        codes = self._spool.read(chunk.splits)
        present = np.flatnonzero(np.bincount(codes, minlength=3))
        return [(SPLITS[code], table.filter(pa.array(codes == code))) for code in present]

    def _table(self, chunk: StoredChunk) -> pa.Table:
        read = self._spool.read
        columns: dict[str, pa.Array] = {"label": pa.array(read(chunk.label))}
        columns |= {name: pa.array(self._dense(chunk, name)) for name in chunk.dense}
        for feature in self._features:
            column = chunk.sparse[feature.name]
            assert column.ids is not None
            wide = feature.num_ids is None or feature.num_ids > _INT32_IDS
            ids = read(column.ids).astype(np.int64 if wide else np.int32)
            if feature.name in self._bags and feature.max_bag > 1:
                bags = self._bags[feature.name].of(ids)[read(column.codes)]
                offsets = np.arange(0, bags.size + 1, feature.max_bag, dtype=np.int32)
                columns[feature.name] = pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(bags.reshape(-1))
                )
                continue
            values = pa.array(ids[read(column.codes)])
            if column.lengths is not None:
                offsets = np.zeros(chunk.num_rows + 1, dtype=np.int32)
                np.cumsum(read(column.lengths), out=offsets[1:])
                values = pa.ListArray.from_arrays(pa.array(offsets), values)
            columns[feature.name] = values
        return pa.table(columns)

    def _dense(self, chunk: StoredChunk, name: str) -> np.ndarray:
        values = self._spool.read(chunk.dense[name])
        if chunk.file not in self._least or values.dtype != np.float64:
            return values
        return dense_input(values, "above_minimum", 2.0 - self._least[chunk.file])

    def _made_bags(self) -> dict[str, Bags]:
        """The made-up bags of all columns that have any."""
        specs = [spec for spec in self._schema.sparse if spec.bag is not None]
        tables = []
        for spec in specs:
            assert spec.wrap is not None
            assert spec.bag is not None
            stored = (chunk.sparse[spec.name].ids for chunk in self._chunks)
            used = max(
                (int(self._spool.read(s).max()) for s in stored if s is not None), default=-1
            )
            tables.append(BagTable(spec.wrap, spec.bag, used + 1))
        names = [spec.name for spec in specs]
        return dict(zip(names, make_bags(tables, self._folder), strict=True))


def _missing_key(spec: Sparse) -> int | None:
    """Key of the token that stands for an empty field; None where there is none."""
    if spec.type == "string":
        return int(string_keys([""])[0])
    return {"bucket": 0, "hex": (1 << 64) - 1}.get(spec.type)


def _with_bag(feature: SparseFeature, spec: Sparse, columns: list[StoredColumn]) -> SparseFeature:
    if spec.bag is not None:
        return feature.model_copy(update={"max_bag": spec.bag})
    if spec.separator is None:
        return feature
    longest = max(column.max_length for column in columns)
    return feature.model_copy(update={"max_bag": spec.max_bag or max(2, longest)})
