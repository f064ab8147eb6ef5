"""Scratch space on disk for typed columns: one file, arrays appended and read back by position."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Segment", "Spool", "narrow"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one array lies."""

    offset: int
    length: int
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return self.length * self.dtype.itemsize

    def cut(self, low: int, high: int) -> Segment:
        """Where its elements `low` to `high` lie."""
        return Segment(self.offset + low * self.dtype.itemsize, high - low, self.dtype)


class Spool:
    """One scratch file; `bytes_read` counts what came back. Two threads may read at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._end = 0
        self.bytes_read = 0

    def append(self, array: np.ndarray) -> Segment:
        """Write a one-dimensional array."""
        segment = self.reserve(len(array), array.dtype)
        self.write(segment, array)
        return segment

    def reserve(self, length: int, dtype: np.dtype) -> Segment:
        """Room for an array that `write` brings later."""
        segment = Segment(self._end, length, dtype)
        self._end += segment.num_bytes
        return segment

    def write(self, segment: Segment, array: np.ndarray) -> None:
        """Put an array where `segment` is."""
        view = np.ascontiguousarray(array).view(np.uint8).data if len(array) else memoryview(b"")
        assert len(view) == segment.num_bytes
        written = 0
        while written < len(view):
            written += os.pwrite(self._file.fileno(), view[written:], segment.offset + written)

    def read(self, segment: Segment) -> np.ndarray:
        """The array of `segment`, a copy in memory."""
        result = np.empty(segment.length, dtype=segment.dtype)
        if segment.length:
            view, have = result.view(np.uint8).data, 0
            while have < len(view):
                count = os.preadv(self._file.fileno(), [view[have:]], segment.offset + have)
                assert count, "the scratch file ends before the segment does"
                have += count
        self.bytes_read += segment.num_bytes
        return result

    def read_all(self, segments: Iterable[Segment], dtype: npt.DTypeLike) -> np.ndarray:
        """The arrays of all `segments`, one after the other."""
        return np.concatenate([np.zeros(0, dtype=dtype), *map(self.read, segments)])

    def close(self) -> None:
        """Close the file (the caller deletes it)."""
        self._file.close()


def narrow(codes: np.ndarray, num_distinct: int) -> np.ndarray:
    """`codes` in the smallest unsigned type that holds `num_distinct` values."""
    return codes.astype(np.min_scalar_type(max(num_distinct - 1, 0)))
