"""First pass: read the input once, check and type every row, put it on disk by columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from compactrec.data.background import ahead
from compactrec.data.convert import Chunk, SparseChunk, convert
from compactrec.data.manifest import Source
from compactrec.data.parse import BadRow, Rows, parse_block
from compactrec.data.protocol import Protocol
from compactrec.data.schema import Dense, TableSchema
from compactrec.data.source import Block, SourceFile
from compactrec.data.spool import Segment, Spool, narrow
from compactrec.data.tables import LabelFile, SideTable, main_fields
from compactrec.data.transforms import dense_input

__all__ = ["REJECTED", "Ingest", "StoredChunk", "StoredColumn", "read_tokens"]

REJECTED = "rejected.tsv"


@dataclass(slots=True)
class StoredColumn:
    """One categorical column of a chunk, on disk."""

    codes: Segment
    keys: Segment
    tokens: tuple[Segment, Segment] | None
    """Offsets and bytes of the distinct strings."""
    lengths: Segment | None
    max_length: int
    ids: Segment | None = None
    """Id of each distinct token; known after numbering."""


@dataclass(slots=True)
class StoredChunk:
    """The rows of one block, on disk."""

    num_rows: int
    group: int
    """Which list of files it came from (rules `files` and `last_file`)."""
    file: int
    """Which file, counted over all lists."""
    label: Segment
    dense: dict[str, Segment]
    sparse: dict[str, StoredColumn]
    split: int | None = None
    """The split of all its rows; None = mixed, then `splits` holds each row's."""
    splits: Segment | None = None


@dataclass
class Ingest:
    """Reads the sources into a spool; afterwards holds the chunks and what was counted."""

    schema: TableSchema
    protocol: Protocol
    spool: Spool
    pool: Executor
    folder: Path
    skip_bad_rows: bool
    keep_tokens: Callable[[str], bool]
    """Whether the strings of a column will be needed."""
    chunks: list[StoredChunk] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    num_bad: int = 0
    num_dropped: int = 0
    least: dict[int, float] = field(default_factory=dict)
    """file -> the least dense value, where the protocol's transform needs it."""
    truncated: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)

    def run(
        self, groups: Sequence[Sequence[SourceFile]], labels: LabelFile | None,
        sides: Sequence[SideTable], progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Read every file of every group, in order; `progress` gets bytes of the files on disk."""
        done = 0
        for group, files in enumerate(groups):
            for source in files:
                for block, rows in ahead(self._parsed(source, sides)):
                    self._block(block, rows, group, labels, sides)
                    progress(done + source.bytes_read)
                done += source.num_bytes
                progress(done)
                self.sources.append(_entry(source))
        if labels is not None:
            labels.finish()
            self.sources.append(_entry(labels.source))
        for side in sides:
            self.sources.append(_entry(side.source))
            if side.unmatched:
                self.unmatched[side.join.on] = side.unmatched

    def _parsed(
        self, source: SourceFile, sides: Sequence[SideTable]
    ) -> Iterator[tuple[Block, Rows]]:
        fields, wanted = source.fields(), main_fields(self.schema, source, sides)
        for block in source.blocks():
            yield block, parse_block(block, source.layout, fields, wanted)

    def _block(
        self, block: Block, rows: Rows, group: int, labels: LabelFile | None,
        sides: Sequence[SideTable],
    ) -> None:  # fmt: skip
        raw_label = _labels(labels, block, rows)
        unmatched = None
        for side in sides:
            lost = side.add(rows)
            unmatched = lost if unmatched is None else unmatched | lost
        chunk, bad, why = convert(rows, self.schema, raw_label, unmatched, self.pool)
        if rows.bad or len(bad):
            self._reject(block, rows, bad, why)
        self.num_dropped += chunk.num_dropped
        for name, count in chunk.truncated.items():
            self.truncated[name] = self.truncated.get(name, 0) + count
        if chunk.num_rows:
            self.chunks.append(self._store(chunk, group))

    def _reject(self, block: Block, rows: Rows, bad: np.ndarray, why: dict[int, str]) -> None:
        line_of = rows.line_index()
        texts = block.text.split(b"\n") if len(bad) else []
        found = list(rows.bad)
        for row in bad.tolist():
            line = int(line_of[row])
            text = texts[line].decode("utf-8", errors="replace")
            found.append(BadRow(block.file, block.first_line + line, why[row], text))
        found.sort(key=lambda row: row.line)
        if not self.skip_bad_rows:
            raise ValueError(
                f"{found[0]} (--on-bad-row skip, in Python on_bad_row='skip', sets such rows aside)"
            )
        path = self.folder / REJECTED
        new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            if new:
                file.write("file\tline\treason\ttext\n")
            file.writelines(f"{_cells(row)}\n" for row in found)
        self.num_bad += len(found)

    def _store(self, chunk: Chunk, group: int) -> StoredChunk:
        put, file = self.spool.append, len(self.sources)
        dense = {spec.name: put(self._dense(spec, chunk, file)) for spec in self.schema.dense}
        sparse = {name: self._store_column(name, column) for name, column in chunk.sparse.items()}
        return StoredChunk(chunk.num_rows, group, file, put(chunk.label), dense, sparse)

    def _dense(self, spec: Dense, chunk: Chunk, file: int) -> np.ndarray:
        """A dense column, transformed; raw float64 where the whole file has to be seen first."""
        values = chunk.dense[spec.name]
        if spec.transform is not None:
            shift = 1.0 if spec.shift is None else spec.shift
            return dense_input(values, spec.transform, shift)
        if self.protocol.dense != "above_minimum":
            return self.protocol.transform(values)
        self.least[file] = min(self.least.get(file, np.inf), float(values.min()))
        return values

    def _store_column(self, name: str, column: SparseChunk) -> StoredColumn:
        put, tokens = self.spool.append, None
        if column.tokens is not None and self.keep_tokens(name):
            _, offsets, data = column.tokens.buffers()
            text = np.frombuffer(data, dtype=np.uint8) if data else np.zeros(0, dtype=np.uint8)
            tokens = (
                put(np.frombuffer(offsets, dtype=np.int64)[: len(column.tokens) + 1]),
                put(text),
            )
        return StoredColumn(
            codes=put(narrow(column.codes, len(column.keys))),
            keys=put(column.keys),
            tokens=tokens,
            lengths=None if column.lengths is None else put(column.lengths),
            max_length=1 if column.lengths is None else int(column.lengths.max(initial=0)),
        )


def read_tokens(spool: Spool, where: tuple[Segment, Segment]) -> pa.Array:
    """The distinct strings of a stored column."""
    offsets, data = (spool.read(segment) for segment in where)
    return pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data)
    )


def _cells(row: BadRow) -> str:
    """One line of rejected.tsv; the raw row, and where needed the others, as JSON strings."""
    file, reason = (_escaped(text) for text in (row.file, row.reason))
    return f"{file}\t{row.line}\t{reason}\t{json.dumps(row.text, ensure_ascii=False)}"


def _escaped(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _labels(labels: LabelFile | None, block: Block, rows: Rows) -> pl.Series | None:
    if labels is None:
        return None
    column = labels.take(block.num_lines)
    return column if rows.lines is None else column.gather(rows.lines)


def _entry(source: SourceFile) -> Source:
    return Source(
        name=source.path.name,
        num_bytes=source.num_bytes,
        num_rows=source.num_rows,
        sha256=source.sha256,
    )
