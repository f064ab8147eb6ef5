"""Reading row groups of one split into memory, checked, permuted, and cut into batches.

A window is a few row groups held at once. Its columns are permuted one after the other, so that the
random reads stay inside one column (which fits a cache) instead of jumping over the whole window.
Plain columns of 4 bytes (label, dense, ids below 2**31) share one (columns, rows) array; a batch is
then a slice of it, widened to int64 in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from compactrec.data.batch import Batch
from compactrec.data.manifest import Manifest, SparseFeature

__all__ = ["RowGroup", "ShardReader", "Window", "merge"]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where one row group lies."""

    shard: int
    index: int
    num_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Rows in memory, in the order in which batches take them."""

    keys: tuple[str, ...]
    num_dense: int
    packed: Tensor
    """(1 + N + narrow features, rows) int32: the bits of label and dense columns, then ids."""
    wide: dict[str, Tensor]
    """(rows,) int64 ids of features stored as int64."""
    bags: dict[str, tuple[Tensor, Tensor]]
    """(values int64, offsets (rows + 1,) int64) of multi-hot features."""

    def batch(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` as a batch that shares no memory with the window."""
        block, size = self.packed[:, start:stop], stop - start
        labels = block[0].clone().view(torch.float32)
        dense = block[1 : 1 + self.num_dense].view(torch.float32).t()
        dense = dense.clone(memory_format=torch.contiguous_format)
        narrow = block[1 + self.num_dense :]
        if not self.wide and not self.bags:
            values = narrow.to(torch.int64).reshape(-1)
            lengths, offsets = _single_hot(len(self.keys), size)
            per_key = (size,) * len(self.keys)
            return Batch(dense, values, lengths, labels, self.keys, None, per_key, offsets)
        ids, bag_lengths = self._mixed(narrow, start, stop)
        per_key = tuple(len(piece) for piece in ids)
        return Batch(
            dense, torch.cat(ids), torch.cat(bag_lengths), labels, self.keys, None, per_key
        )

    def _mixed(self, narrow: Tensor, start: int, stop: int) -> tuple[list[Tensor], list[Tensor]]:
        ids, lengths, row = [], [], 0
        ones = _single_hot(1, stop - start)[0]
        for key in self.keys:
            if key in self.bags:
                values, offsets = self.bags[key]
                bounds = offsets[start : stop + 1]
                ids.append(values[int(bounds[0]) : int(bounds[-1])])
                lengths.append(torch.diff(bounds).to(torch.int32))
                continue
            if key in self.wide:
                ids.append(self.wide[key][start:stop])
            else:
                ids.append(narrow[row].to(torch.int64))
                row += 1
            lengths.append(ones)
        return ids, lengths


class ShardReader:
    """Reads the row groups of one split and checks them.

    Args:
        folder: data folder.
        manifest: its manifest.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        features: the sparse features to read, in order.

    Raises:
        ValueError: a shard is missing, damaged, or does not hold what the manifest says.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        features: Sequence[SparseFeature],
    ) -> None:
        self.features = tuple(features)
        self._plain = (manifest.label, *manifest.dense)
        self._columns = [*self._plain, *(f.name for f in features)]
        self._paths = manifest.shard_paths(folder, split)
        self._metadata: list[pq.FileMetaData] = []
        self.row_groups: list[RowGroup] = []
        self._types: dict[str, pa.DataType] = {}
        for i, shard in enumerate(manifest.splits[split].shards):
            metadata = self._open(i, shard.num_rows)
            self._check_types(self._paths[i], metadata.schema.to_arrow_schema())
            self._metadata.append(metadata)
            self.row_groups += [
                RowGroup(i, g, metadata.row_group(g).num_rows)
                for g in range(metadata.num_row_groups)
            ]

    def read(self, groups: Sequence[RowGroup], order: NDArray[np.int64] | None) -> Window:
        """The rows of ``groups`` one after the other, permuted by ``order`` if it is given."""
        tables = [self._read_group(group) for group in groups]
        num_rows = sum(group.num_rows for group in groups)
        narrow = [f for f in self.features if self._types[f.name] == pa.int32()]
        names = [*self._plain, *(f.name for f in narrow)]
        packed = np.empty((len(names), num_rows), np.int32)
        for row, name in zip(packed, names, strict=True):
            _permute([t[name].to_numpy().view(np.int32) for t in tables], order, row)
        wide, bags = {}, {}
        for feature in self.features:
            kind = self._types[feature.name]
            if kind == pa.int64():
                column = np.empty(num_rows, np.int64)
                _permute([t[feature.name].to_numpy() for t in tables], order, column)
                wide[feature.name] = torch.from_numpy(column)
            elif kind != pa.int32():
                bags[feature.name] = _permute_bags([t[feature.name] for t in tables], order)
        keys = tuple(f.name for f in self.features)
        return Window(keys, len(self._plain) - 1, torch.from_numpy(packed), wide, bags)

    def _open(self, shard: int, num_rows: int) -> pq.FileMetaData:
        path = self._paths[shard]
        if not path.is_file():
            raise ValueError(f"{path} is missing; the manifest lists it, prepare the data again")
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{path} is not a whole parquet file ({_line(error)}); prepare the data again"
            ) from error
        if metadata.num_rows != num_rows:
            raise ValueError(
                f"{path} holds {metadata.num_rows} rows but the manifest says {num_rows}; "
                f"prepare the data again"
            )
        return metadata

    def _check_types(self, path: Path, schema: pa.Schema) -> None:
        allowed: dict[str, tuple[pa.DataType, ...]] = dict.fromkeys(self._plain, (pa.float32(),))
        for feature in self.features:
            ids = (pa.int32(), pa.int64())
            bags = (*(pa.list_(t) for t in ids), *(pa.large_list(t) for t in ids))
            allowed[feature.name] = ids if feature.max_bag == 1 else bags
        for name, types in allowed.items():
            found = schema.field(name).type if name in schema.names else None
            if found not in types or self._types.setdefault(name, found) != found:
                expected = self._types.get(name, " or ".join(str(t) for t in types))
                raise ValueError(
                    f"{path}: column {name!r} must be {expected}, found "
                    f"{'no such column' if found is None else found}; prepare the data again"
                )

    def _read_group(self, group: RowGroup) -> pa.Table:
        path = self._paths[group.shard]
        try:
            with pq.ParquetFile(
                path, metadata=self._metadata[group.shard], memory_map=True
            ) as file:
                table = file.read_row_group(group.index, columns=self._columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{path}: row group {group.index} cannot be read ({_line(error)}); the file is "
                f"damaged, prepare the data again"
            ) from error
        for name in self._columns:
            if table[name].null_count:
                raise ValueError(
                    f"{path}: column {name!r} has {table[name].null_count} nulls in row group "
                    f"{group.index}; prepared data has none, prepare the data again"
                )
        for feature in self.features:
            _check_ids(path, feature, table[feature.name])
        return table


def _check_ids(path: Path, feature: SparseFeature, column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        if feature.max_bag > 1:
            longest = int(np.diff(chunk.offsets.to_numpy()).max(initial=0))
            if longest > feature.max_bag:
                raise ValueError(
                    f"{path}: feature {feature.name!r} has a bag of {longest} ids, its max_bag is "
                    f"{feature.max_bag}; prepare the data again with a larger max_bag"
                )
            chunk = chunk.flatten()
        if feature.num_ids is None or not len(chunk):
            continue
        ids = chunk.to_numpy()
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= feature.num_ids:
            raise ValueError(
                f"{path}: feature {feature.name!r} has id {low if low < 0 else high}, allowed are "
                f"0 to {feature.num_ids - 1}; shards and manifest are not of one run, prepare the "
                f"data again"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _permute(
    parts: list[NDArray[np.generic]], order: NDArray[np.int64] | None, out: NDArray[np.generic]
) -> None:
    if order is None:
        np.concatenate(parts, out=out)
    else:
        # 'wrap' only chooses numpy's unbuffered loop; 'raise' would go through a second buffer.
        np.take(np.concatenate(parts), order, out=out, mode="wrap")


def _permute_bags(
    parts: list[pa.ChunkedArray], order: NDArray[np.int64] | None
) -> tuple[Tensor, Tensor]:
    chunks = [chunk for part in parts for chunk in part.chunks]
    empty = [np.zeros(0, np.int64)]
    values = np.concatenate([c.flatten().to_numpy() for c in chunks] or empty).astype(np.int64)
    lengths = np.concatenate([np.diff(c.offsets.to_numpy()) for c in chunks] or empty)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if order is None:
        return torch.from_numpy(values), torch.from_numpy(starts)
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    source = np.repeat(starts[order] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return torch.from_numpy(values[source]), torch.from_numpy(offsets)


@lru_cache(maxsize=64)
def _single_hot(num_features: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Lengths and offsets of bags of one id, shared by all batches of a size."""
    num_bags = num_features * batch_size
    lengths = torch.ones(num_bags, dtype=torch.int32)
    return lengths, torch.arange(num_bags + 1, dtype=torch.int32)


def merge(parts: Sequence[Batch]) -> Batch:
    """The examples of several batches of the same features, one after the other."""
    if len(parts) == 1:
        return parts[0]
    keys, per_key = parts[0].keys, [part.length_per_key or () for part in parts]
    pieces = [part.values.split(sizes) for part, sizes in zip(parts, per_key, strict=True)]
    bags = [part.lengths.view(len(keys), -1) for part in parts]
    return Batch(
        dense=torch.cat([part.dense for part in parts]),
        values=torch.cat([piece[f] for f in range(len(keys)) for piece in pieces]),
        lengths=torch.cat(bags, dim=1).reshape(-1),
        labels=torch.cat([part.labels for part in parts]),
        keys=keys,
        length_per_key=tuple(sum(sizes) for sizes in zip(*per_key, strict=True)),
    )
