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
from compactrec.data.transforms import bucketed, time_part

__all__ = ["Chunk", "SparseChunk", "convert"]

_MISSING: dict[str, float | str] = {"hex": -1, "bucket": 0, "string": ""}
_TIMES = ("hour", "weekday", "weekend")
_DTYPES = {"float": pl.Float64, "int": pl.Int64, "bucket": pl.Float64} | dict.fromkeys(
    _TIMES, pl.Int64
)
_WORTH_THREADS = 10_000
_RAW_LABEL, _LABEL, _DENSE, _SPARSE = "raw label", "label", "dense ", "sparse "
_WORDS = {
    "float": "a finite number",
    "bucket": "a finite number",
    "int": "a whole number of 64 bits",
    "hex": "hexadecimal below 2^32",
    "string": "text",
} | dict.fromkeys(_TIMES, "a time YYMMDDHH")


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
    raw_label = frame[schema.label.field] if raw_label is None else raw_label
    typed = _typed(frame, schema, raw_label)
    reasons = _Reasons(frame.height)
    if unmatched is not None and unmatched.any():
        where = np.flatnonzero(unmatched)
        reasons.add(where, ["the side table has no row with this key"] * len(where))
    label, dropped = _label(raw_label, typed[_LABEL], schema.label, reasons)
    dense = {
        spec.name: _dense(frame[_field(spec)], typed[_DENSE + spec.name], spec, reasons)
        for spec in schema.dense
    }
    columns = [
        _single(frame[_field(spec)], typed[_SPARSE + spec.name], spec, reasons)
        if spec.separator is None
        else _list(frame[_field(spec)], spec, reasons)
        for spec in schema.sparse
    ]
    dropped &= ~reasons.bad
    if reasons.bad.any() or dropped.any():
        keep = ~(reasons.bad | dropped)
        label = label[keep]
        dense = {name: values[keep] for name, values in dense.items()}
        columns = [_kept(column, keep) for column in columns]
    apply = pool.map if len(label) > _WORTH_THREADS else map
    encoded = dict(zip((c.spec.name for c in columns), apply(_encode, columns), strict=True))
    truncated = {c.spec.name: int(c.truncated.sum()) for c in columns if c.truncated is not None}
    chunk = Chunk(
        len(label), label, dense, encoded, num_dropped=int(dropped.sum()), truncated=truncated
    )
    return chunk, np.flatnonzero(reasons.bad), reasons.text


def _field(spec: Dense | Sparse) -> str:
    return spec.field or spec.name


def _typed(frame: pl.DataFrame, schema: TableSchema, raw_label: pl.Series) -> pl.DataFrame:
    """All columns but lists, cast in one go; null where the text is not what it must be."""
    expressions = [pl.col(_RAW_LABEL).cast(pl.Float64, strict=False).alias(_LABEL)]
    for dense in schema.dense:
        number = pl.col(_field(dense)).cast(_DTYPES[dense.type], strict=False).cast(pl.Float64)
        expressions.append(_filled(dense, number, dense.missing).alias(_DENSE + dense.name))
    for sparse in schema.sparse:
        if sparse.separator is None:
            tokens = _filled(sparse, _token(pl.col(_field(sparse)), sparse), _missing(sparse))
            expressions.append(tokens.alias(_SPARSE + sparse.name))
    return frame.hstack([raw_label.alias(_RAW_LABEL)]).select(expressions)


def _filled(spec: Dense | Sparse, value: pl.Expr, missing: float | str | None) -> pl.Expr:
    if missing is None:
        return value
    return pl.when(pl.col(_field(spec)).is_null()).then(pl.lit(missing)).otherwise(value)


def _token(text: pl.Expr, spec: Sparse) -> pl.Expr:
    """Tokens as Int64 (bucket: the number, as Float64) or String; null where the text is wrong."""
    if spec.type == "string":
        return text
    if spec.type == "hex":
        return text.str.to_integer(base=16, dtype=pl.UInt32, strict=False).cast(pl.Int64)
    return text.cast(_DTYPES[spec.type], strict=False)


def _missing(spec: Sparse) -> float | str | None:
    return _MISSING.get(spec.type) if spec.missing is None else spec.missing


def _label(
    raw: pl.Series, value: pl.Series, spec: Label, reasons: _Reasons
) -> tuple[np.ndarray, np.ndarray]:
    """The 0/1 label, float32, and which rows the schema drops."""
    number = value.to_numpy()
    wrong = ~np.isfinite(number)
    if spec.threshold is None:
        wrong |= (number != 0) & (number != 1)
        words = f"label field {spec.field!r} must be 0 or 1 (set label.threshold for other values)"
        _report(raw, wrong, words, reasons)
        return number.astype(np.float32), np.zeros(len(number), dtype=bool)
    _report(raw, wrong, f"label field {spec.field!r} must be a finite number", reasons)
    dropped = np.isin(number, np.asarray(spec.drop))
    return (number >= spec.threshold).astype(np.float32), dropped


def _dense(raw: pl.Series, value: pl.Series, spec: Dense, reasons: _Reasons) -> np.ndarray:
    """The values as float64."""
    number = value.to_numpy()
    wrong = ~np.isfinite(number)
    _report(raw, wrong, f"field {_field(spec)!r} must be {_WORDS[spec.type]}", reasons)
    return number


def _single(raw: pl.Series, values: pl.Series, spec: Sparse, reasons: _Reasons) -> _Column:
    """One token per row."""
    values = _derived(values, spec)
    if values.null_count():
        wrong = values.is_null().to_numpy()
        _report(raw, wrong, f"field {_field(spec)!r} must be {_WORDS[spec.type]}", reasons)
        values = values.fill_null(0)
    return _Column(spec, values, None, None)


def _list(raw: pl.Series, spec: Sparse, reasons: _Reasons) -> _Column:
    """A list of tokens per row; an empty field is an empty list."""
    assert spec.separator is not None
    lists = raw.str.split(spec.separator)
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int32)
    truncated = None
    if spec.max_bag is not None and (lengths > spec.max_bag).any():
        truncated = lengths > spec.max_bag
        if spec.too_long == "error":
            words = f"field {_field(spec)!r} must hold at most {spec.max_bag} tokens"
            _report(raw, truncated, words, reasons)
        lists = lists.list.head(spec.max_bag)
        lengths = np.minimum(lengths, spec.max_bag).astype(np.int32)
    texts = lists.filter(pl.Series(lengths > 0)).explode()
    values = pl.select(_token(pl.lit(texts), spec)).to_series()
    values = _derived(values, spec)
    if values.null_count():
        wrong = np.zeros(len(raw), dtype=bool)
        wrong[np.repeat(np.arange(len(raw)), lengths)[values.is_null().to_numpy()]] = True
        _report(raw, wrong, f"field {_field(spec)!r} must be {_WORDS[spec.type]}", reasons)
        values = values.fill_null(0)
    return _Column(spec, values, lengths, truncated)


def _derived(values: pl.Series, spec: Sparse) -> pl.Series:
    """Tokens that are made from what the field holds; null stays null, and so does what is none."""
    if spec.type == "bucket":
        number = values.to_numpy()
        wrong = ~np.isfinite(number)
        tokens = pl.Series(bucketed(np.where(wrong, 0.0, number)))
    elif spec.type in _TIMES:
        parts, wrong = time_part(values.fill_null(-1).to_numpy(), spec.type)
        tokens = pl.Series(parts)
    else:
        return values
    return tokens.set(pl.Series(wrong), None) if wrong.any() else tokens


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
