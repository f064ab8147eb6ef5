"""Ids for counted tokens: a sort of all of them that holds a short range at a time.

Each part is sorted by itself and written; a sample of all parts cuts the whole into ranges; each
range is gathered from every part, sorted, numbered and written to the vocabulary file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from compactrec.data.counting import ChunkTokens, ColumnRules, Part
from compactrec.data.spool import Segment, Spool

__all__ = ["Ranked", "TableFile", "rank"]

RANGE_TOKENS = 1 << 19
"""About how many tokens get their ids at once."""


@dataclass(frozen=True, slots=True)
class _Run:
    """The tokens of one part with an id of their own, in id order."""

    rows: Segment
    """Index in the part."""
    places: Segment
    """Sorts the tokens of all parts by id."""
    keys: Segment
    counts: Segment
    ids: Segment


@dataclass(frozen=True)
class Ranked:
    """What came of it; `ids` are read part by part."""

    num_kept: int
    kept_count: int
    """Training occurrences of tokens with an id of their own."""
    runs: Sequence[_Run]

    def ids(self, part: int, num_tokens: int, other: int, spool: Spool) -> np.ndarray:
        """The id of each token of a part; `other` for those without one of their own."""
        run = self.runs[part]
        ids = np.full(num_tokens, -1, dtype=np.int64)
        ids[spool.read(run.rows)] = spool.read(run.ids)
        ids[ids < 0] = other
        return ids


class TableFile:
    """A parquet file written piece by piece."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def add(self, columns: dict[str, pa.Array]) -> None:
        """Append rows; the first call fixes the columns, so it must come even without rows."""
        table = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


def rank(
    rules: ColumnRules, chunks: list[ChunkTokens], parts: Sequence[Part], spool: Spool, start: int,
    path: Path,
) -> Ranked:  # fmt: skip
    """Number the tokens of all parts from `start` and write them to the vocabulary file `path`.

    Where `rules.most` leaves tokens without an id, theirs is -1.
    """
    num_values = max(1, sum(chunk.num_values for chunk in chunks))
    runs, bounds = _cut(rules, parts, num_values, spool)
    kept_count, first_id = 0, start
    end = None if rules.most is None else start + rules.most
    with closing(TableFile(path)) as file:
        for lows, highs in pairwise(bounds):
            pieces = list(zip(runs, lows.tolist(), highs.tolist(), strict=True))
            places, ids = _number(pieces, first_id, end, spool)
            order = np.argsort(places)[: int(np.count_nonzero(ids >= 0))]
            keys, counts = (
                spool.read_all((getattr(r, name).cut(a, b) for r, a, b in pieces), kind)[order]
                for name, kind in (("keys", np.uint64), ("counts", np.int64))
            )
            tokens = _tokens(rules, chunks, keys, places[order] % num_values)
            numbers = ids[order] if rules.wrap is None else ids[order] % rules.wrap
            file.add({"token": tokens, "id": pa.array(numbers), "count": pa.array(counts)})
            kept_count += int(counts.sum())
            first_id += len(order)
    return Ranked(first_id - start, kept_count, runs)


def _cut(
    rules: ColumnRules, parts: Sequence[Part], num_values: int, spool: Spool
) -> tuple[list[_Run], np.ndarray]:
    """Sort every part; returns also where each range begins in each of them, and the ends."""
    classes = _count_classes(rules, parts, spool)
    step = max(1, RANGE_TOKENS >> 10)
    runs, samples = [], []
    for part in parts:
        run, places = _run(rules, part, classes, num_values, spool)
        runs.append(run)
        samples.append(places[::step].copy())
    cuts = np.sort(np.concatenate(samples))[RANGE_TOKENS // step :: RANGE_TOKENS // step]
    bounds = np.zeros((len(cuts) + 2, len(runs)), dtype=np.int64)
    for column, run in enumerate(runs):
        bounds[1:-1, column] = np.searchsorted(spool.read(run.places), cuts)
        bounds[-1, column] = run.places.length
    return runs, bounds


def _kept(rules: ColumnRules, keys: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Which tokens of a part get an id of their own, as far as their own count decides."""
    if not rules.counts_decide:
        return np.arange(len(keys))
    keep = totals >= max(rules.min_count, 1)
    if rules.missing_key is not None:
        keep &= keys != np.uint64(rules.missing_key)
    return np.flatnonzero(keep)


def _count_classes(rules: ColumnRules, parts: Sequence[Part], spool: Spool) -> np.ndarray:
    """The counts that occur, rising. There are few: they add up to at most the number of values."""
    found = np.zeros(0, dtype=np.int64)
    if rules.protocol.order != "first_appearance":
        for part in parts:
            found = np.union1d(found, spool.read(part.totals))
    return found


def _run(
    rules: ColumnRules, part: Part, classes: np.ndarray, num_values: int, spool: Spool
) -> tuple[_Run, np.ndarray]:
    """Sort one part by falling count, then first appearance, both in one number per token."""
    keys, counts, totals, first = (
        spool.read(s) for s in (part.keys, part.counts, part.totals, part.first)
    )
    kept = _kept(rules, keys, totals)
    places = first[kept]
    if len(classes):
        places += (len(classes) - 1 - np.searchsorted(classes, totals[kept])) * num_values
    order = np.argsort(places)
    kept, places = kept[order], places[order]
    put = spool.append
    run = _Run(
        rows=put(kept.astype(np.uint32)), places=put(places), keys=put(keys[kept]),
        counts=put(counts[kept]), ids=spool.reserve(len(kept), np.dtype(np.int64)),
    )  # fmt: skip
    return run, places


def _number(
    pieces: list[tuple[_Run, int, int]], first_id: int, end: int | None, spool: Spool
) -> tuple[np.ndarray, np.ndarray]:
    """Store the ids of one range, -1 from `end` on; returns places and ids, run after run."""
    places = spool.read_all((run.places.cut(low, high) for run, low, high in pieces), np.int64)
    ids = np.empty(len(places), dtype=np.int64)
    ids[np.argsort(places)] = np.arange(first_id, first_id + len(places))
    if end is not None:
        ids[ids >= end] = -1
    done = 0
    for run, low, high in pieces:
        spool.write(run.ids.cut(low, high), ids[done : done + high - low])
        done += high - low
    return places, ids


def _tokens(
    rules: ColumnRules, chunks: list[ChunkTokens], keys: np.ndarray, first: np.ndarray
) -> pa.Array:
    """The tokens of one range: int64 keys, or strings fetched from where they first were."""
    if not chunks or chunks[0].tokens is None:
        return pa.array(keys.view(np.int64))
    order = np.argsort(first)
    parts = list(_strings(rules, chunks, first[order]))
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
            codes = place if rules.by_code(chunk) else chunk.values()[0][place]
            yield chunk.tokens().take(pa.array(codes))
        offset += chunk.num_values
