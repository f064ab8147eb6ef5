"""Scratch space on disk for typed columns: one file, arrays appended and read back by position."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Segment", "Spool", "narrow"]


@dataclass(frozen=True)
class Segment:
    """Where one array lies."""

    offset: int
    length: int
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return self.length * self.dtype.itemsize


class Spool:
    """One scratch file; `bytes_read` counts what came back. Two threads may read at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._end = 0
        self.bytes_read = 0

    def append(self, array: np.ndarray) -> Segment:
        """Write a one-dimensional array."""
        segment = Segment(self._end, len(array), array.dtype)
        view = np.ascontiguousarray(array).view(np.uint8).data if len(array) else memoryview(b"")
        written = 0
        while written < len(view):
            written += os.pwrite(self._file.fileno(), view[written:], self._end + written)
        self._end += segment.num_bytes
        return segment

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

    def close(self) -> None:
        """Close the file (the caller deletes it)."""
        self._file.close()


def narrow(codes: np.ndarray, num_distinct: int) -> np.ndarray:
    """`codes` in the smallest unsigned type that holds `num_distinct` values."""
    return codes.astype(np.min_scalar_type(max(num_distinct - 1, 0)))
