"""Batches from a data folder: shuffled by seed, the same again after a restart.

**Shuffle.** Every epoch draws a new order of all row groups of the split and reads them in windows
of equal size, as few as ``window_rows`` allows; inside a window all rows are permuted. With W of G
row groups in a window, the places in the file of two neighbours in a batch correlate by about
``(1/W) (1 - W/G)``: for the default window and row groups of 65,536 rows W is up to 8. A window
as large as the split is a full permutation.

**Resume.** The order of an epoch depends only on seed and epoch number, so a state is a position:
loading one reads at most one window again, whatever the number of batches done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compactrec.data.batch import Batch
from compactrec.data.manifest import Manifest
from compactrec.data.window import RowGroup, ShardReader, Window, merge

if TYPE_CHECKING:
    from compactrec.embeddings import Feature

__all__ = ["DEFAULT_WINDOW_ROWS", "BatchLoader", "part_bounds"]

DEFAULT_WINDOW_ROWS = 524_288
STATE_VERSION = 1


class BatchLoader:
    """Iterates over the batches of one split of a data folder.

    Every pass over the loader is one epoch; after a complete pass the next one has the next epoch
    number. Breaking off and iterating again starts the same epoch from its beginning.

    Args:
        folder: data folder with ``manifest.json``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        batch_size: examples per batch; the last batch of an epoch may be smaller.
        shuffle: False gives the rows in file order.
        seed: of the shuffle.
        drop_last: leave out a smaller last batch.
        keys: sparse features to read; None is all. Their order is always the manifest's.
        window_rows: most rows to shuffle at once (up to a row group more). With 13 dense and 26
            single-hot columns a row takes 160 bytes, twice that while it is read, and once more
            with ``prefetch``.
        prefetch: read the next window in a thread while the present one is used.
        verify: check the sha256 of every shard of the split first (reads every byte once).
        part: ``(k, n)`` gives the ``k``-th of n parts of every batch, see :func:`part_bounds`.
            Position and state are those of whole batches, the same for every part.

    Raises:
        ValueError: the folder is no data folder of this version, a shard is missing or damaged
            (some damage shows only while iterating), or an argument is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        keys: Sequence[str] | None = None,
        window_rows: int = DEFAULT_WINDOW_ROWS,
        prefetch: bool = False,
        verify: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"loader: part must be (k, n) with 0 <= k < n, got {part}")
        for name, value in (("batch_size", batch_size), ("window_rows", window_rows)):
            if value < 1:
                raise ValueError(f"loader: {name} must be at least 1, got {value}")
        if seed < 0:
            raise ValueError(f"loader: seed must be at least 0, got {seed}")
        self.manifest = Manifest.load(folder)
        self.split, self.batch_size, self.drop_last = split, batch_size, drop_last
        self.shuffle, self.seed = shuffle, seed
        self.prefetch = prefetch
        self.part = part
        selected = _select(self.manifest, keys)
        self._reader = ShardReader(Path(folder), self.manifest, split, selected)
        if verify:
            self.manifest.verify(folder, (split,))
        self.keys = tuple(f.name for f in selected)
        self.num_rows = self.manifest.splits[split].num_rows
        self._window_rows = window_rows
        self.epoch = 0
        self._next_batch = 0
        self._start_batch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the present epoch, from its start or from a loaded state."""
        start, self._start_batch = self._start_batch, 0
        self._next_batch = start
        epoch = self.epoch
        for index, batch in enumerate(self._batches(epoch, start), start + 1):
            self._next_batch = index
            yield batch
        self.set_epoch(epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the number the loader already has changes nothing.

        So a training loop may call it at the head of every epoch, also of the one that
        :meth:`load_state_dict` has just put it into the middle of.
        """
        if epoch < 0:
            raise ValueError(f"loader: epoch must be at least 0, got {epoch}")
        if epoch != self.epoch:
            self.epoch, self._next_batch, self._start_batch = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iterator stands, as plain JSON values.

        Batches that it has handed out count as done.
        """
        return {"version": STATE_VERSION, "epoch": self.epoch, "next_batch": self._next_batch} | (
            self._identity()
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on where ``state`` was taken, with bit-identical batches.

        Raises:
            ValueError: the state is of another version, of other data, or of a loader with other
                settings.
        """
        expected = {"version": STATE_VERSION} | self._identity()
        for name, value in expected.items():
            if state.get(name) != value:
                raise ValueError(
                    f"loader state: {name} is {state.get(name)!r}, this loader has {value!r}; "
                    f"resume with the same data and the same settings"
                )
        position = state.get("next_batch")
        if not isinstance(position, int) or not 0 <= position <= len(self):
            raise ValueError(
                f"loader state: next_batch must be 0 to {len(self)}, got {position!r}; the state "
                f"is damaged"
            )
        self.set_epoch(state["epoch"])
        self._next_batch = self._start_batch = position

    def features(self, dim: int) -> list[Feature]:
        """The sparse features of the batches, in order, for a model of width ``dim``."""
        from compactrec.embeddings import Feature

        return [
            Feature(name=f.name, num_ids=f.num_ids, dim=dim, max_bag=f.max_bag, pooling="sum")
            for f in self._reader.features
        ]

    def _identity(self) -> dict[str, Any]:
        return {
            "data": self.manifest.sha256(),
            "split": self.split,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "keys": list(self.keys),
            "window_rows": self._window_rows,
        }

    def _plan(self, epoch: int) -> list[list[RowGroup]]:
        """The windows of an epoch: row groups in their order of reading."""
        groups = self._reader.row_groups
        if not self.shuffle:
            return [[group] for group in groups]
        rng = np.random.default_rng([self.seed, epoch])
        num_windows = -(-self.num_rows // self._window_rows)
        windows: list[list[RowGroup]] = [[] for _ in range(num_windows)]
        done = 0
        for i in rng.permutation(len(groups)):
            windows[done * num_windows // self.num_rows].append(groups[i])
            done += groups[i].num_rows
        return [window for window in windows if window]

    def _read(self, epoch: int, index: int, groups: list[RowGroup]) -> Window:
        if not self.shuffle:
            return self._reader.read(groups, None)
        rng = np.random.default_rng([self.seed, epoch, index + 1])
        return self._reader.read(groups, rng.permutation(sum(g.num_rows for g in groups)))

    def _windows(self, epoch: int, skip_rows: int) -> Iterator[tuple[Window, int]]:
        """The windows from row ``skip_rows`` of the epoch on, with the rows to skip in each."""
        jobs = []
        for index, groups in enumerate(self._plan(epoch)):
            num_rows = sum(group.num_rows for group in groups)
            if skip_rows < num_rows:
                jobs.append((skip_rows, index, groups))
            skip_rows = max(skip_rows - num_rows, 0)
        if not self.prefetch:
            for skip, index, groups in jobs:
                yield self._read(epoch, index, groups), skip
            return
        with ThreadPoolExecutor(1, "compactrec-loader") as pool:
            futures = [pool.submit(self._read, epoch, i, g) for _, i, g in jobs[:1]]
            for position, (skip, _, _) in enumerate(jobs):
                window = futures.pop().result()
                for _, index, groups in jobs[position + 1 : position + 2]:
                    futures.append(pool.submit(self._read, epoch, index, groups))
                yield window, skip
                del window  # its memory is free before the next one is waited for

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, ... of an epoch; one may span windows."""
        if start >= len(self):
            return
        parts: list[Batch] = []
        index, done = start, 0
        for window, row in self._windows(epoch, start * self.batch_size):
            num_rows = window.packed.shape[1]
            while row < num_rows and index < len(self):
                size = min(self.batch_size, self.num_rows - index * self.batch_size)
                low, high = part_bounds(size, self.part)
                stop = min(row + size - done, num_rows)
                begin, end = max(low - done, 0), min(high - done, stop - row)
                if begin < end or (size - done == stop - row and not parts):
                    parts.append(window.batch(row + begin, row + max(begin, end)))
                done += stop - row
                row = stop
                if done == size:
                    yield merge(parts)
                    parts, index, done = [], index + 1, 0
            del window  # two windows at once only while prefetching


def part_bounds(num_rows: int, part: tuple[int, int]) -> tuple[int, int]:
    """First row and end of part ``(k, n)`` of ``num_rows``: all rows once, sizes within one."""
    index, count = part
    return num_rows * index // count, num_rows * (index + 1) // count


def _select(manifest: Manifest, keys: Sequence[str] | None) -> list[Any]:
    if keys is None:
        return list(manifest.sparse)
    if not keys:
        raise ValueError("loader: keys must name at least one feature; None reads all")
    for key in keys:
        manifest.feature(key)
    return [feature for feature in manifest.sparse if feature.name in keys]
