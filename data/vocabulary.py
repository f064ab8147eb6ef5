"""From the tokens of all chunks to ids: count in training, number, map.

Works on one column at a time and on distinct tokens per chunk, so memory is that of the largest
single vocabulary (about 80 bytes per distinct token at the peak), whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from compactrec.data.hashing import bucket, open_id, salt_of
from compactrec.data.manifest import SparseFeature
from compactrec.data.protocol import Protocol

__all__ = ["ChunkTokens", "ColumnRules", "Numbered", "number_column"]

_PENDING = 2 << 20
_COUNTED_BUCKETS = 1 << 27
"""Hashed features with more buckets than this have no counts (they would fill memory)."""
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class ColumnRules:
    """How one column is numbered."""

    name: str
    mode: str
    min_count: int
    num_buckets: int | None
    protocol: Protocol
    text: bool
    """Whether tokens are strings."""
    missing_key: int | None
    """Key of the token that is left out of the vocabulary; None = none is."""
    max_ind_range: int | None = None


@dataclass
class ChunkTokens:
    """What numbering needs of one chunk of one column; the big arrays are read when asked for."""

    keys: Callable[[], np.ndarray]
    """uint64 keys of the distinct tokens, in order of first appearance."""
    values: Callable[[], tuple[np.ndarray, np.ndarray]]
    """(codes, split of each value): index into `keys`, and TRAIN, VALIDATION or TEST."""
    tokens: Callable[[], pa.Array] | None
    """The distinct tokens where they are strings."""
    num_values: int
    split: int | None
    """The split of all its rows; None = mixed."""


@dataclass
class Numbered:
    """Result for one column."""

    feature: SparseFeature
    unseen: np.ndarray
    """Ids of never-trained tokens per split code, shape (3,)."""
    example: str
    """One never-trained token, for the error message; empty = none."""


@dataclass
class _Counted:
    """Distinct tokens of the input, sorted by key."""

    keys: np.ndarray
    counts: np.ndarray
    """Training occurrences."""
    first: np.ndarray
    """Orders tokens by first appearance; see `_appearance`. `_NEVER` = not in training."""


def number_column(
    rules: ColumnRules, chunks: list[ChunkTokens], folder: Path, store: Callable[[np.ndarray], None]
) -> Numbered:
    """Number one column; `store` gets, chunk by chunk, the id of each of its distinct tokens."""
    if rules.mode == "hashed":
        return _number_hashed(rules, chunks, folder, store)
    counted = _count(rules, chunks)
    kept = _order(rules, counted)
    start = 1 if (rules.protocol.padding or rules.protocol.oov == "first") else 0
    oov = {"first": 0, "last": start + len(kept), None: None}[rules.protocol.oov]
    ids = np.full(len(counted.keys), -1 if oov is None else oov, dtype=np.int64)
    ids[kept] = np.arange(start, start + len(kept))
    unseen, example = _map(rules, counted, ids, chunks, store)
    path = f"vocabulary/{rules.name}.parquet"
    tokens = _tokens(rules, counted, kept, chunks)
    table = {"token": tokens, "id": pa.array(ids[kept]), "count": pa.array(counted.counts[kept])}
    _write(folder / path, table)
    feature = SparseFeature(
        name=rules.name,
        num_ids=start + len(kept) + (rules.protocol.oov == "last"),
        mode="min_count" if rules.mode == "min_count" else "full",
        min_count=rules.min_count,
        oov_id=oov,
        padding_id=0 if rules.protocol.padding else None,
        order=rules.protocol.order,
        vocabulary=path,
        oov_count=int(counted.counts.sum() - counted.counts[kept].sum()),
        num_tokens=len(counted.keys),
    )
    return Numbered(feature, unseen, example)


def _number_hashed(
    rules: ColumnRules, chunks: list[ChunkTokens], folder: Path, store: Callable[[np.ndarray], None]
) -> Numbered:
    size, path = rules.num_buckets, None
    counted = size is not None and size <= _COUNTED_BUCKETS
    counts = np.zeros(size if size and counted else 0, dtype=np.int64)
    for chunk in chunks:
        keys = _keys(rules, chunk)
        ids = open_id(keys) if size is None else bucket(keys, salt_of(rules.name), size)
        store(ids)
        if counted and chunk.split in (None, 0):
            codes, split = chunk.values()
            np.add.at(counts, ids, np.bincount(codes[split == 0], minlength=len(keys)))
    if counted:
        path = f"vocabulary/{rules.name}.parquet"
        used = np.flatnonzero(counts)
        _write(folder / path, {"id": pa.array(used), "count": pa.array(counts[used])})
    feature = SparseFeature(
        name=rules.name, num_ids=size, mode="hashed", oov_id=None, order="hash", vocabulary=path
    )
    return Numbered(feature, np.zeros(3, dtype=np.int64), "")


def _count(rules: ColumnRules, chunks: list[ChunkTokens]) -> _Counted:
    """Merge the chunks' distinct tokens, with their training counts."""
    waiting = [_Counted(*(np.zeros(0, dtype=kind) for kind in (np.uint64, np.int64, np.int64)))]
    num_merged = num_waiting = offset = 0
    for chunk in chunks:
        keys = _keys(rules, chunk)
        counts = np.zeros(len(keys), dtype=np.int64)
        if chunk.split in (None, 0):
            codes, split = chunk.values()
            codes = codes if chunk.split == 0 else codes[split == 0]
            counts = np.bincount(codes, minlength=len(keys))
        waiting.append(_Counted(keys, counts, _appearance(rules, chunk, offset, len(keys))))
        offset += chunk.num_values
        num_waiting += len(keys)
        if num_waiting > max(_PENDING, num_merged // 2):
            waiting = [_merge(waiting)]
            num_merged, num_waiting = len(waiting[0].keys), 0
    return _merge(waiting)


def _by_code(rules: ColumnRules, chunk: ChunkTokens) -> bool:
    return chunk.split == 0 or rules.protocol.order == "first_appearance"


def _appearance(rules: ColumnRules, chunk: ChunkTokens, offset: int, num_keys: int) -> np.ndarray:
    """For each distinct token of a chunk a number that orders it by first appearance.

    It is the chunk's `offset` (values before it) plus, where all rows count, the token's code, and
    in a chunk of mixed splits the position of its first training value: rows that are not trained
    on cannot change how training tokens are numbered.
    """
    if _by_code(rules, chunk):
        return np.arange(offset, offset + num_keys)
    first = np.full(num_keys, _NEVER, dtype=np.int64)
    if chunk.split is None:
        codes, split = chunk.values()
        trained = np.flatnonzero(split == 0)[::-1]
        first[codes[trained]] = offset + trained  # of equal codes the last one written stays
    return first


def _merge(parts: list[_Counted]) -> _Counted:
    """Add up equal tokens. Empties `parts`: the largest vocabularies are in memory only once."""
    keys, counts, first = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("keys", "counts", "first")
    )
    parts.clear()
    if not len(keys):
        return _Counted(keys, counts, first)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    keys = keys[starts]
    counts = np.add.reduceat(counts[order], starts)
    first = np.minimum.reduceat(first[order], starts)
    return _Counted(keys, counts, first)


def _order(rules: ColumnRules, counted: _Counted) -> np.ndarray:
    """Indices into `counted` of the tokens with an id of their own, in id order."""
    if rules.protocol.order == "first_appearance":
        return np.argsort(counted.first, kind="stable")
    keep = counted.counts >= max(rules.min_count, 1)
    if rules.missing_key is not None:
        keep &= counted.keys != np.uint64(rules.missing_key)
    kept = np.flatnonzero(keep)
    return kept[np.lexsort((counted.first[kept], -counted.counts[kept]))]


def _map(
    rules: ColumnRules, counted: _Counted, ids: np.ndarray, chunks: list[ChunkTokens],
    store: Callable[[np.ndarray], None],
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Store each chunk's ids; count the values whose token never occurs in training."""
    unseen, example = np.zeros(3, dtype=np.int64), ""
    for chunk in chunks:
        keys = _keys(rules, chunk)
        order = np.argsort(keys)
        where = np.empty(len(keys), dtype=np.int64)
        where[order] = np.searchsorted(counted.keys, keys[order])  # sorted: kind to the caches
        store(ids[where])
        new = counted.counts[where] == 0
        if chunk.split != 0 and new.any():
            codes, split = chunk.values()
            unseen += np.bincount(split[new[codes]], minlength=3)
            if not example:
                token = int(np.flatnonzero(new)[0])
                example = repr(
                    chunk.tokens()[token].as_py()
                    if chunk.tokens
                    else int(keys[token : token + 1].view(np.int64)[0])
                )
    return unseen, example


def _keys(rules: ColumnRules, chunk: ChunkTokens) -> np.ndarray:
    keys = chunk.keys()
    return keys % np.uint64(rules.max_ind_range) if rules.max_ind_range else keys


def _tokens(
    rules: ColumnRules, counted: _Counted, kept: np.ndarray, chunks: list[ChunkTokens]
) -> pa.Array:
    """The kept tokens in id order: int64 keys, or strings fetched from where they first were."""
    if not chunks or chunks[0].tokens is None:
        return pa.array(counted.keys[kept].view(np.int64))
    order = np.argsort(counted.first[kept])
    wanted = counted.first[kept][order]
    parts = list(_strings(rules, chunks, wanted))
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.arange(len(order))
    return pa.concat_arrays(parts).take(pa.array(inverse))


def _strings(
    rules: ColumnRules, chunks: list[ChunkTokens], wanted: np.ndarray
) -> Iterator[pa.Array]:
    """The strings whose order numbers are `wanted` (sorted), from the chunks they are in."""
    offset = 0
    yield pa.array([], type=pa.large_string())
    for chunk in chunks:
        assert chunk.tokens is not None
        low, high = np.searchsorted(wanted, (offset, offset + chunk.num_values))
        if low < high:
            place = wanted[low:high] - offset
            codes = place if _by_code(rules, chunk) else chunk.values()[0][place]
            yield chunk.tokens().take(pa.array(codes))
        offset += chunk.num_values


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")
