"""Rows of strings -> typed columns: label, dense inputs, and ids local to the chunk.

Each categorical column becomes the distinct tokens of the chunk in order of first appearance and
one small code per value, so that everything later works on distinct tokens.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from compactrec.data.hashing import string_keys
from compactrec.data.parse import BadRow, Rows, shown
from compactrec.data.schema import Dense, Label, Sparse, TableSchema

__all__ = ["Chunk", "SparseChunk", "convert"]

_MISSING = {"hex": -1, "bucket": 0}
_WORDS = {
    "float": "a finite number",
    "bucket": "a finite number",
    "int": "a whole number of 64 bits",
    "hex": "hexadecimal below 2^32",
    "string": "text",
}


@dataclass
class SparseChunk:
    """One categorical column of a chunk."""

    codes: np.ndarray
    """Index into `keys` per value, all rows one after the other."""
    keys: np.ndarray
    """uint64 key of each distinct token, in order of first appearance."""
    tokens: pa.Array | None
    """The distinct tokens where they are strings; None where the key is the token."""
    lengths: np.ndarray | None
    """Values per row, int32; None = one each."""


@dataclass
class Chunk:
    """Typed rows."""

    num_rows: int
    label: np.ndarray
    dense: dict[str, np.ndarray]
    sparse: dict[str, SparseChunk]
    bad: list[BadRow] = field(default_factory=list)
    num_dropped: int = 0
    truncated: dict[str, int] = field(default_factory=dict)


@dataclass
class _Column:
    """Values of one categorical column, all rows one after the other."""

    spec: Sparse
    values: pl.Series
    lengths: np.ndarray | None
    truncated: np.ndarray | None


class _Reasons:
    """The first thing wrong with each row."""

    def __init__(self, num_rows: int) -> None:
        self.bad = np.zeros(num_rows, dtype=bool)
        self.text: dict[int, str] = {}

    def add(self, rows: np.ndarray, text: list[str]) -> None:
        for row, reason in zip(rows.tolist(), text, strict=True):
            self.text.setdefault(row, reason)
        self.bad[rows] = True


def convert(
    rows: Rows, schema: TableSchema, raw_label: pl.Series | None, unmatched: np.ndarray | None,
    pool: Executor,
) -> tuple[Chunk, np.ndarray, dict[int, str]]:  # fmt: skip
    """Type the rows. Returns the chunk, the indices of the rows that are malformed, and why."""
    frame = rows.frame
    reasons = _Reasons(frame.height)
    if unmatched is not None and unmatched.any():
        where = np.flatnonzero(unmatched)
        reasons.add(where, ["the side table has no row with this key"] * len(where))
    label, dropped = _label(
        raw_label if raw_label is not None else frame[schema.label.field], schema.label, reasons
    )
    dense = {
        spec.name: _dense(frame[spec.field or spec.name], spec, reasons) for spec in schema.dense
    }
    columns = [_sparse(frame[spec.field or spec.name], spec, reasons) for spec in schema.sparse]
    keep = None
    dropped &= ~reasons.bad
    if reasons.bad.any() or dropped.any():
        keep = ~(reasons.bad | dropped)
        label = label[keep]
        dense = {name: values[keep] for name, values in dense.items()}
        columns = [_kept(column, keep) for column in columns]
    encoded = dict(zip((c.spec.name for c in columns), pool.map(_encode, columns), strict=True))
    truncated = {
        column.spec.name: int(column.truncated.sum())
        for column in columns
        if column.truncated is not None
    }
    chunk = Chunk(
        len(label), label, dense, encoded, num_dropped=int(dropped.sum()), truncated=truncated
    )
    return chunk, np.flatnonzero(reasons.bad), reasons.text


def _label(raw: pl.Series, spec: Label, reasons: _Reasons) -> tuple[np.ndarray, np.ndarray]:
    """The 0/1 label, float32, and which rows the schema drops."""
    value = _cast(raw, pl.Float64)
    number = value.to_numpy()
    wrong = ~np.isfinite(number)
    dropped = np.zeros(len(number), dtype=bool)
    wanted = "a finite number"
    if spec.threshold is None:
        wanted = "0 or 1 (set label.threshold for other values)"
        wrong |= (number != 0) & (number != 1)
    else:
        dropped = np.isin(number, np.asarray(spec.drop))
    _report(raw, wrong, f"label field {spec.field!r} must be {wanted}", reasons)
    if spec.threshold is not None:
        return (number >= spec.threshold).astype(np.float32), dropped
    return number.astype(np.float32), dropped


def _dense(raw: pl.Series, spec: Dense, reasons: _Reasons) -> np.ndarray:
    """The values as float64, missing ones filled in."""
    value = _cast(raw, pl.Int64 if spec.type == "int" else pl.Float64)
    failed = value.null_count() > raw.null_count()
    number = value.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    missing = raw.is_null().to_numpy()
    if failed or not np.isfinite(number[~missing]).all():
        wrong = ~np.isfinite(number) & ~missing
        _report(
            raw, wrong, f"field {spec.field or spec.name!r} must be {_WORDS[spec.type]}", reasons
        )
    return np.where(missing, spec.missing, number)


def _sparse(raw: pl.Series, spec: Sparse, reasons: _Reasons) -> _Column:
    values, lengths, truncated = raw, None, None
    if spec.separator is not None:
        lists = raw.str.split(spec.separator)
        lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int32)
        if spec.max_bag is not None and (lengths > spec.max_bag).any():
            long = lengths > spec.max_bag
            if spec.too_long == "error":
                _report(
                    raw,
                    long,
                    f"field {spec.field or spec.name!r} must hold at most {spec.max_bag} tokens",
                    reasons,
                )
            lists, truncated = lists.list.head(spec.max_bag), long
            lengths = np.minimum(lengths, spec.max_bag).astype(np.int32)
        values = lists.filter(pl.Series(lengths > 0)).explode().rename(raw.name)
        values = values.replace("", None) if spec.type != "string" else values
    typed = _typed(values, spec)
    wrong = typed.is_null() if typed.null_count() else None
    if wrong is not None:
        row_of = np.arange(len(raw)) if lengths is None else np.repeat(np.arange(len(raw)), lengths)
        where = np.zeros(len(raw), dtype=bool)
        where[row_of[wrong.to_numpy()]] = True
        _report(
            raw, where, f"field {spec.field or spec.name!r} must be {_WORDS[spec.type]}", reasons
        )
        typed = typed.fill_null(0)
    return _Column(spec, typed, lengths, truncated)


def _typed(values: pl.Series, spec: Sparse) -> pl.Series:
    """Tokens as Int64 or String; null where the text is wrong or missing without a token for it."""
    if spec.type == "string":
        return values.fill_null("")
    if spec.type == "hex":
        result = values.str.to_integer(base=16, dtype=pl.UInt32, strict=False).cast(pl.Int64)
    elif spec.type == "int":
        result = _cast(values, pl.Int64)
    else:
        result = _bucket(_cast(values, pl.Float64))
    missing = _MISSING.get(spec.type) if spec.missing is None else spec.missing
    if missing is None or not values.null_count():
        return result
    if result.null_count() == values.null_count():
        return result.fill_null(missing)
    filled = np.where(values.is_null().to_numpy(), missing, result.fill_null(0).to_numpy())
    wrong = (result.is_null() & values.is_not_null()).to_numpy()
    return pl.Series(filled).set(pl.Series(wrong), None)


def _bucket(values: pl.Series) -> pl.Series:
    number = values.fill_null(float("nan")).to_numpy()
    finite = np.isfinite(number)
    safe = np.where(finite, number, 0.0)
    large = np.floor(np.log(np.maximum(safe, 1.0)) ** 2)
    result = np.where(safe > 2, large, np.trunc(safe)).astype(np.int64)
    return pl.Series(result).set(pl.Series(~finite), None)


def _cast(raw: pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    value = raw.cast(dtype, strict=False)
    if value.null_count() > raw.null_count():
        value = raw.str.strip_chars(" ").cast(dtype, strict=False)
    return value


def _report(raw: pl.Series, wrong: np.ndarray, words: str, reasons: _Reasons) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        texts = raw.gather(rows).to_list()
        reasons.add(
            rows, [f"{words}, got {shown(t) if t is not None else 'nothing'}" for t in texts]
        )


def _kept(column: _Column, keep: np.ndarray) -> _Column:
    mask = keep if column.lengths is None else np.repeat(keep, column.lengths)
    return _Column(
        column.spec,
        column.values.filter(pl.Series(mask)),
        None if column.lengths is None else column.lengths[keep],
        None if column.truncated is None else column.truncated[keep],
    )


def _encode(column: _Column) -> SparseChunk:
    text = column.spec.type == "string"
    array = column.values.to_arrow()
    if text:
        array = array.cast(pa.large_string())
    encoded = array.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    if text:
        keys = string_keys(encoded.dictionary.to_pylist())
        return SparseChunk(codes, keys, encoded.dictionary, column.lengths)
    keys = encoded.dictionary.to_numpy(zero_copy_only=False).view(np.uint64)
    return SparseChunk(codes, keys, None, column.lengths)
