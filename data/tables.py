"""Columns from beside the main table: labels in a second file, side tables joined by key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from compactrec.data.parse import Rows, parse_block
from compactrec.data.schema import Join, Label, TableSchema
from compactrec.data.source import SourceFile

__all__ = ["LabelFile", "SideTable", "beside", "main_fields"]


class LabelFile:
    """A label column that lies in a file of its own, row by row beside the main one."""

    def __init__(self, path: Path, label: Label) -> None:
        self.source = SourceFile(path, label.layout)
        self._label = label
        self._pieces = self._read()
        self._held: pl.Series = pl.Series(label.field, [], dtype=pl.String)

    def take(self, num_lines: int) -> pl.Series:
        """The next `num_lines` labels as strings; null where the line cannot be read."""
        parts, have = [self._held], self._held.len()
        while have < num_lines:
            piece = next(self._pieces, None)
            if piece is None:
                raise ValueError(
                    f"{self.source.path} has fewer rows ({self.source.num_rows:,}) than the data "
                    f"file: every data row needs its label"
                )
            parts.append(piece)
            have += piece.len()
        joined = pl.concat(parts)
        self._held = joined.slice(num_lines)
        return joined.slice(0, num_lines)

    def finish(self) -> None:
        """ValueError when labels are left over."""
        left = self._held.len() + sum(piece.len() for piece in self._pieces)
        if left:
            raise ValueError(
                f"{self.source.path} has {left:,} more rows than the data file: every data row "
                f"needs its label and no other"
            )

    def _read(self) -> Iterator[pl.Series]:
        fields = self.source.fields()
        for block in self.source.blocks():
            rows = parse_block(block, self._label.layout, fields, [self._label.field])
            column = rows.frame[self._label.field]
            if rows.lines is not None:
                whole = np.full(block.num_lines, -1)
                whole[rows.lines] = np.arange(len(rows.lines))
                column = column.gather(pl.Series(whole).replace(-1, None).cast(pl.UInt32))
            yield column


class SideTable:
    """A small table in memory; adds those of its fields that are used to the rows with its key."""

    def __init__(self, path: Path, join: Join, used: Collection[str]) -> None:
        self.source = SourceFile(path, join.layout)
        self.join, self.unmatched = join, 0
        fields = self.source.fields()
        if join.on not in fields:
            raise ValueError(f"{path} has no column {join.on!r}; its columns are {list(fields)}")
        self.fields = [name for name in fields if name in used and name != join.on]
        wanted = [join.on, *self.fields]
        parts: list[pl.DataFrame] = []
        for block in self.source.blocks():
            rows = parse_block(block, join.layout, fields, wanted)
            if rows.bad:
                raise ValueError(str(rows.bad[0]))
            parts.append(rows.frame)
        self.table = pl.concat(parts).with_columns(pl.lit(True).alias("__matched"))
        doubled = self.table[join.on].is_duplicated()
        if doubled.any():
            keys = self.table[join.on].filter(doubled).unique(maintain_order=True).head(3).to_list()
            raise ValueError(f"{path}: key {join.on!r} must be unique, these occur twice: {keys}")

    def add(self, rows: Rows) -> np.ndarray:
        """Add the table's fields to `rows`; returns which rows are unusable, shape (rows,) bool."""
        joined = rows.frame.join(self.table, on=self.join.on, how="left", maintain_order="left")
        lost = joined["__matched"].is_null()
        rows.frame = joined.drop("__matched")
        self.unmatched += int(lost.sum())
        if self.join.unmatched == "error":
            return lost.to_numpy()
        return np.zeros(len(lost), dtype=bool)


def main_fields(schema: TableSchema, source: SourceFile, sides: Sequence[SideTable]) -> list[str]:
    """Fields to read from the main file; ValueError where two files have the same one."""
    owner = dict.fromkeys(source.fields(), source.path)
    taken = set()
    for side in sides:
        for name in side.fields:
            if name in owner:
                raise ValueError(
                    f"the schema uses field {name!r}, and both {owner[name]} and "
                    f"{side.source.path} have it: rename it in one of them"
                )
            owner[name] = side.source.path
            taken.add(name)
    return [name for name in schema.used_fields() if name not in taken]


def beside(source: Path, file: str, schema: TableSchema) -> Path:
    """The path of a second file; ValueError saying where it was looked for."""
    path = source.parent / file
    if not path.is_file():
        raise ValueError(
            f"no file {path}: schema {schema.name!r} needs {file!r} in the folder of "
            f"{source.name}; put it there, a link will do"
        )
    return path
