"""Writes the rows of one split as parquet shards of even row groups, each with its sha256."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from compactrec.data.manifest import Shard, Split
from compactrec.file_hash import file_sha256

__all__ = ["ROW_GROUP_ROWS", "SHARD_ROWS", "ShardWriter"]

ROW_GROUP_ROWS = 1 << 16
SHARD_ROWS = 1 << 20


class ShardWriter:
    """Rows of one split, in order; `close()` gives the manifest's entry."""

    def __init__(self, folder: Path, split: str, shard_rows: int = SHARD_ROWS) -> None:
        self._folder, self._split, self._shard_rows = folder, split, shard_rows
        self._group_rows = min(ROW_GROUP_ROWS, shard_rows)
        self._waiting: list[pa.Table] = []
        self._num_waiting = self._num_written = 0
        self._writer: pq.ParquetWriter | None = None
        self._shards: list[Shard] = []

    def add(self, table: pa.Table) -> None:
        """Take rows; whole row groups are written at once."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= self._group_rows:
            self._flush(self._num_waiting // self._group_rows * self._group_rows)

    def close(self) -> Split:
        """Write what is left and return the split."""
        if self._num_waiting:
            self._flush(self._num_waiting)
        self._end_shard()
        return Split(num_rows=sum(s.num_rows for s in self._shards), shards=tuple(self._shards))

    def abandon(self) -> None:
        """Close the open file without finishing it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _path(self) -> str:
        return f"{self._split}/{len(self._shards):05d}.parquet"

    def _flush(self, num_rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        self._waiting = [table.slice(num_rows)]
        self._num_waiting -= num_rows
        for start in range(0, num_rows, self._group_rows):
            group = table.slice(start, min(self._group_rows, num_rows - start)).combine_chunks()
            if self._writer is None:
                path = self._folder / self._path()
                path.parent.mkdir(exist_ok=True)
                self._writer = pq.ParquetWriter(
                    path, group.schema, write_statistics=False
                )  # snappy
            self._writer.write_table(group, row_group_size=self._group_rows)
            self._num_written += group.num_rows
            if self._num_written >= self._shard_rows:
                self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path = self._path()
        self._shards.append(
            Shard(path=path, num_rows=self._num_written, sha256=file_sha256(self._folder / path))
        )
        self._writer, self._num_written = None, 0
