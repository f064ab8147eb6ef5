"""From the tokens of all chunks to ids: count in training, number, map.

Works on one column at a time, on distinct tokens per chunk, through a scratch file: memory grows
neither with the number of rows nor with the number of distinct tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from compactrec.data.counting import (
    ChunkTokens,
    ColumnRules,
    Part,
    Piece,
    add_up,
    scatter,
    slices,
)
from compactrec.data.hashing import bucket, name_seed, open_id, tokens_as_served
from compactrec.data.manifest import SparseFeature
from compactrec.data.ranking import Ranked, TableFile, rank
from compactrec.data.spool import Spool

__all__ = ["Numbered", "number_column"]

_COUNTED_BUCKETS = 1 << 26
"""Hashed features with more buckets than this have no counts (they would fill memory)."""
_PIECE = 1 << 20


@dataclass
class Numbered:
    """Result for one column."""

    feature: SparseFeature
    unseen: np.ndarray
    """Ids of never-trained tokens per split code, shape (3,)."""
    example: str
    """One never-trained token, for the error message; empty = none."""


def number_column(
    rules: ColumnRules, chunks: list[ChunkTokens], folder: Path, store: Callable[[np.ndarray], None]
) -> Numbered:
    """Number one column; `store` gets, chunk by chunk, the id of each of its distinct tokens."""
    if rules.mode == "hashed":
        return _number_hashed(rules, chunks, folder, store)
    scratch = folder / "column.bin"
    spool = Spool(scratch)
    try:
        return _number_counted(rules, chunks, folder, spool, store)
    finally:
        spool.close()
        scratch.unlink(missing_ok=True)


def _number_counted(
    rules: ColumnRules, chunks: list[ChunkTokens], folder: Path, spool: Spool,
    store: Callable[[np.ndarray], None],
) -> Numbered:  # fmt: skip
    pieces = scatter(rules, chunks, spool)
    num_parts = len(pieces[0].bounds) - 1 if pieces else 1
    parts = [add_up(pieces, part, spool) for part in range(num_parts)]
    protocol = rules.protocol
    start = int(protocol.padding) + (protocol.oov == "first")
    start = start if protocol.first_id is None else protocol.first_id
    path = f"vocabulary/{rules.name}.parquet"
    ranked = rank(rules, chunks, parts, spool, start, folder / path)
    num_kept = ranked.num_kept
    oov = {"first": int(protocol.padding), "last": start + num_kept, None: None}[protocol.oov]
    for part in range(num_parts):
        _fill(rules, pieces, part, parts[part], ranked, -1 if oov is None else oov, spool)
    unseen, example = _map(chunks, pieces, spool, store)
    trained = sum(int(spool.read(part.counts).sum()) for part in parts)
    feature = SparseFeature(
        name=rules.name,
        num_ids=rules.wrap or start + num_kept + (protocol.oov == "last"),
        mode=rules.mode,  # type: ignore[arg-type]  # 'hashed' went another way
        min_count=rules.min_count,
        oov_id=oov,
        padding_id=0 if protocol.padding else None,
        order=protocol.order,
        vocabulary=path,
        oov_count=trained - ranked.kept_count,
        num_tokens=sum(part.keys.length for part in parts),
    )
    return Numbered(feature, unseen, example)


def _number_hashed(
    rules: ColumnRules, chunks: list[ChunkTokens], folder: Path, store: Callable[[np.ndarray], None]
) -> Numbered:
    size, path = rules.num_buckets, None
    counted = size is not None and size <= _COUNTED_BUCKETS
    counts = np.zeros(size if size and counted else 0, dtype=np.int64)
    for chunk in chunks:
        keys = rules.keys(chunk)
        if size is None:
            ids = open_id(keys, text=rules.text)
        else:
            ids = bucket(tokens_as_served(keys, text=rules.text), name_seed(rules.name), size)
        store(ids)
        if counted and chunk.split in (None, 0):
            codes, split = chunk.values()
            np.add.at(counts, ids, np.bincount(codes[split == 0], minlength=len(keys)))
    if counted:
        path = f"vocabulary/{rules.name}.parquet"
        _write_counts(folder / path, counts)
    feature = SparseFeature(
        name=rules.name, num_ids=size, mode="hashed", oov_id=None, order="hash", vocabulary=path
    )
    return Numbered(feature, np.zeros(3, dtype=np.int64), "")


def _write_counts(path: Path, counts: np.ndarray) -> None:
    with closing(TableFile(path)) as file:
        for start in range(0, len(counts), _PIECE):
            used = np.flatnonzero(counts[start : start + _PIECE]) + start
            file.add({"id": pa.array(used), "count": pa.array(counts[used])})


def _fill(
    rules: ColumnRules, pieces: list[Piece], number: int, part: Part, ranked: Ranked, other: int,
    spool: Spool,
) -> None:  # fmt: skip
    """Write the ids of one part beside the tokens; `~id` where training has no such token."""
    keys = spool.read(part.keys)
    ids = ranked.ids(number, len(keys), other, spool)
    ids = ids if rules.wrap is None else ids % rules.wrap
    ids = np.where(spool.read(part.counts) == 0, ~ids, ids)
    where = zip(slices(pieces, "keys", number), slices(pieces, "ids", number), strict=True)
    for tokens, room in where:
        spool.write(room, ids[np.searchsorted(keys, spool.read(tokens))])


def _map(
    chunks: list[ChunkTokens], pieces: list[Piece], spool: Spool,
    store: Callable[[np.ndarray], None],
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Store each chunk's ids; count the values whose token never occurs in training."""
    unseen, example = np.zeros(3, dtype=np.int64), ""
    for chunk, piece in zip(chunks, pieces, strict=True):
        ids = np.empty(chunk.num_keys, dtype=np.int64)
        ids[spool.read(piece.order)] = spool.read(piece.ids)
        new = ids < 0
        store(np.where(new, ~ids, ids))
        if chunk.split != 0 and new.any():
            codes, split = chunk.values()
            unseen += np.bincount(split[new[codes]], minlength=3)
            example = example or _shown(chunk, int(np.flatnonzero(new)[0]))
    return unseen, example


def _shown(chunk: ChunkTokens, token: int) -> str:
    if chunk.tokens:
        return repr(chunk.tokens()[token].as_py())
    return repr(int(chunk.keys()[token : token + 1].view(np.int64)[0]))
