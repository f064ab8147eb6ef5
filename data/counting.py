"""The distinct tokens of one column, counted on disk: memory does not grow with how many there are.

Every chunk's tokens are written to a scratch file, cut into parts by a hash of their key. One part
at a time is then read from all chunks, and equal keys are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from compactrec.data.hashing import mix
from compactrec.data.protocol import Protocol
from compactrec.data.spool import Segment, Spool

__all__ = ["ChunkTokens", "ColumnRules", "Part", "Piece", "add_up", "scatter", "slices"]

PART_TOKENS = 1 << 22
"""About how many tokens of all chunks are in memory at once."""
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
    most: int | None = None
    """The most tokens with an id of their own; None = no limit."""
    wrap: int | None = None
    """Ids are taken modulo this."""

    @property
    def counts_all(self) -> bool:
        """Whether the tokens of all rows are counted and numbered."""
        return self.protocol.counted == "all"

    @property
    def counts_decide(self) -> bool:
        """Whether a token's count has any say in its id."""
        ordered = self.protocol.order == "frequency"
        return ordered or self.min_count > 1 or self.most is not None

    def keys(self, chunk: ChunkTokens) -> np.ndarray:
        """The chunk's keys as they are numbered."""
        keys = chunk.keys()
        return keys % np.uint64(self.max_ind_range) if self.max_ind_range else keys

    def by_code(self, chunk: ChunkTokens) -> bool:
        """Whether the code of a token of this chunk orders it by first appearance."""
        return chunk.split == 0 or self.counts_all


@dataclass
class ChunkTokens:
    """What numbering needs of one chunk of one column; the big arrays are read when asked for."""

    keys: Callable[[], np.ndarray]
    """uint64 keys of the distinct tokens, in order of first appearance."""
    values: Callable[[], tuple[np.ndarray, np.ndarray]]
    """(codes, split of each value): index into `keys`, and TRAIN, VALIDATION or TEST."""
    tokens: Callable[[], pa.Array] | None
    """The distinct tokens where they are strings."""
    num_keys: int
    num_values: int
    split: int | None
    """The split of all its rows; None = mixed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk's distinct tokens on disk, part after part and by key within each."""

    order: Segment
    """Index in the chunk of each of them."""
    keys: Segment
    counts: Segment
    """Training occurrences."""
    totals: Segment
    """Occurrences that decide on ids: all, or those in training where these do (or none do)."""
    first: Segment
    """Orders tokens by first appearance; see `_appearance`. `_NEVER` = not in training."""
    ids: Segment
    """Room for the id of each."""
    bounds: np.ndarray
    """Where each part begins, and the end."""


@dataclass(frozen=True, slots=True)
class Part:
    """The distinct tokens of one part on disk, sorted by key, over all chunks."""

    keys: Segment
    counts: Segment
    totals: Segment
    first: Segment


def scatter(rules: ColumnRules, chunks: Sequence[ChunkTokens], spool: Spool) -> list[Piece]:
    """Write every chunk's tokens to `spool`, cut into parts of about `PART_TOKENS` in all."""
    num_parts = max(1, -(-sum(chunk.num_keys for chunk in chunks) // PART_TOKENS))
    pieces, offset = [], 0
    for chunk in chunks:
        keys = rules.keys(chunk)
        first = _appearance(rules, chunk, offset, len(keys))
        part = (mix(keys) % np.uint64(num_parts)).astype(np.int64)
        order = np.lexsort((keys, part)) if num_parts > 1 else np.argsort(keys, kind="stable")
        sizes = np.bincount(part, minlength=num_parts)
        counts = spool.append(_training_counts(chunk, len(keys))[order])
        pieces.append(
            Piece(
                order=spool.append(order.astype(np.uint32)),
                keys=spool.append(keys[order]),
                counts=counts,
                totals=spool.append(_all_counts(chunk, len(keys))[order])
                if rules.counts_all and rules.counts_decide
                else counts,
                first=spool.append(first[order]),
                ids=spool.reserve(len(keys), np.dtype(np.int64)),
                bounds=np.concatenate(([0], np.cumsum(sizes))).astype(np.uint32),
            )
        )
        offset += chunk.num_values
    return pieces


def slices(pieces: Sequence[Piece], name: str, part: int) -> Iterator[Segment]:
    """The array `name` of one part, piece by piece."""
    for piece in pieces:
        low, high = piece.bounds[part : part + 2].tolist()
        yield getattr(piece, name).cut(low, high)


def add_up(pieces: Sequence[Piece], part: int, spool: Spool) -> Part:
    """Merge equal tokens of one part."""
    keys, counts, totals, first = (
        spool.read_all(slices(pieces, name, part), kind)
        for name, kind in (
            ("keys", np.uint64), ("counts", np.int64), ("totals", np.int64), ("first", np.int64),
        )
    )  # fmt: skip
    if len(keys):
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        keys = keys[starts]
        counts = np.add.reduceat(counts[order], starts)
        totals = np.add.reduceat(totals[order], starts)
        first = np.minimum.reduceat(first[order], starts)
    return Part(*(spool.append(array) for array in (keys, counts, totals, first)))


def _training_counts(chunk: ChunkTokens, num_keys: int) -> np.ndarray:
    if chunk.split not in (None, 0):
        return np.zeros(num_keys, dtype=np.int64)
    codes, split = chunk.values()
    codes = codes if chunk.split == 0 else codes[split == 0]
    return np.bincount(codes, minlength=num_keys)


def _all_counts(chunk: ChunkTokens, num_keys: int) -> np.ndarray:
    return np.bincount(chunk.values()[0], minlength=num_keys)


def _appearance(rules: ColumnRules, chunk: ChunkTokens, offset: int, num_keys: int) -> np.ndarray:
    """For each distinct token of a chunk a number that orders it by first appearance.

    It is the chunk's `offset` (values before it) plus, where all rows count, the token's code, and
    in a chunk of mixed splits the position of its first training value: rows that are not trained
    on cannot change how training tokens are numbered.
    """
    if rules.by_code(chunk):
        return np.arange(offset, offset + num_keys)
    first = np.full(num_keys, _NEVER, dtype=np.int64)
    if chunk.split is None:
        codes, split = chunk.values()
        trained = np.flatnonzero(split == 0)[::-1]
        first[codes[trained]] = offset + trained  # of equal codes the last one written stays
    return first
