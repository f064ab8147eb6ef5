"""Logical tables in and out of a collection, whatever lies between.

Both run the collection's own rewrite on every id, a bag each. To write, the rows are not read but
numbered: every float of every table has a number, and the combine, which only puts values into
places, shows where each number comes out. Bytes: a chunk of ids at a time, and to write a second
copy of the tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.contract import Output
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.logical import LogicalCombine

__all__ = ["logical_table", "place"]

_CHUNK = 8192


@torch.no_grad()
def place(collection: CompressedEmbeddingBagCollection, tables: Mapping[str, Tensor]) -> None:
    """Write logical tables ``{feature: (num_ids, D)}`` into the physical ones, in place.

    What the layout does not store is ignored. Works where outputs only place values (``full``,
    ``pruned``, ``sparse``). The tables stay as they were if this raises.

    Raises:
        ValueError: a feature that is not there; a wrong shape; an output that computes something,
            be it a product, a sum or a projection; ids that share an entry but not its value.
    """
    paths = {name: _Path(collection, name, placing=True) for name in tables}
    weights = {name: weight.detach().clone() for name, weight in _weights(collection).items()}
    for name, path in paths.items():
        _check_shape(path.feature, tables[name])
        for ids in path.chunks():
            _write(path, ids, tables[name], weights)
    for name, path in paths.items():  # what was written twice holds the last value
        for ids in path.chunks():
            _compare(path, ids, tables[name], weights)
    for name, weight in _weights(collection).items():
        weight.copy_(weights[name])


@torch.no_grad()
def logical_table(collection: CompressedEmbeddingBagCollection, feature: str) -> Tensor:
    """The table ``(num_ids, D)`` that a feature stands for, on the device of the collection.

    Raises ``ValueError`` on a feature that is not there, an open vocabulary, or a feature with
    several vectors.
    """
    path = _Path(collection, feature, placing=False)
    weights = _weights(collection)
    return torch.cat([path.rows(ids, weights) for ids in path.chunks()])


class _Path:
    """From ids of one feature to its vectors."""

    def __init__(
        self, collection: CompressedEmbeddingBagCollection, name: str, *, placing: bool
    ) -> None:
        by_name = {f.name: f for f in collection.plan.features}
        if name not in by_name:
            raise ValueError(f"there is no feature {name!r}; there are {', '.join(by_name)}")
        self.feature = by_name[name]
        if self.feature.num_ids is None:
            raise ValueError(f"feature {name!r} has an open vocabulary: it has no table")
        self._output = _only_output(collection, name)
        if placing and any(True for _ in self._output.combine.parameters()):
            raise ValueError(_refusal(name, "has parameters of its own"))
        self._rewrite = collection.rewrite
        self._keys = list(by_name)
        self._weighted = collection.is_weighted()
        self._combine = LogicalCombine([self._output])
        streams = collection.rewrite.ids.streams
        self.parts = {
            part: table
            for stream in streams
            if stream.feature == name
            for part, table in zip(stream.parts, stream.tables, strict=True)
        }
        buffer = next(collection.rewrite.buffers())
        self.device = buffer.device

    def chunks(self) -> Iterator[Tensor]:
        """All ids, a chunk at a time."""
        num_ids = self.feature.num_ids
        assert num_ids is not None
        for start in range(0, num_ids, _CHUNK):
            yield torch.arange(start, min(start + _CHUNK, num_ids), device=self.device)

    def places(self, ids: Tensor) -> "Iterator[_Places]":
        """Which rows the parts read, and for which of the ids."""
        lengths = torch.zeros(len(self._keys), ids.numel(), dtype=torch.int64, device=ids.device)
        lengths[self._keys.index(self.feature.name)] = 1
        batch = KeyedJaggedTensor(
            keys=self._keys,
            values=ids,
            lengths=lengths.reshape(-1),
            weights=torch.ones(ids.numel(), device=ids.device) if self._weighted else None,
        )
        physical = self._rewrite(batch)
        counts = physical.lengths().view(-1, ids.numel())
        rows = physical.values().split(counts.sum(1).tolist())
        for i, part in enumerate(physical.keys()):
            if part in self.parts:
                yield _Places(part, self.parts[part], rows[i], counts[i].nonzero()[:, 0])

    def combined(self, ids: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """The vectors of rows by part."""
        keys = list(rows)
        values = torch.cat([rows[key] for key in keys], 1) if keys else torch.zeros(len(ids), 0)
        vectors: Tensor = self._combine(
            values.to(self.device), keys, [rows[key].shape[1] for key in keys]
        )
        return vectors

    def rows(self, ids: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The vectors of ids."""
        found = {}
        for at in self.places(ids):
            weight = weights[at.table]
            found[at.part] = weight.new_zeros(ids.numel(), weight.shape[1])
            found[at.part][at.bags] = weight[at.rows]
        return self.combined(ids, found)

    def entries(self, ids: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """``(V, D)`` numbers of physical floats, table after table from 1 on; 0 where none is."""
        base, bases = 1, {}
        for name, weight in weights.items():
            bases[name] = base
            base += weight.numel()
        numbers = {}
        for at in self.places(ids):
            width = weights[at.table].shape[1]
            numbers[at.part] = torch.zeros(
                ids.numel(), width, dtype=torch.float64, device=ids.device
            )
            within = torch.arange(width, device=ids.device)
            numbered = at.rows[:, None] * width + within + bases[at.table]
            numbers[at.part][at.bags] = numbered.double()
        found = self.combined(ids, numbers)
        # What only places values commutes with any function that keeps zero.
        images = self.combined(ids, {part: rows.sin() for part, rows in numbers.items()})
        if not torch.allclose(images, found.sin(), rtol=0, atol=1e-9):
            raise ValueError(_refusal(self.feature.name, "adds, subtracts or multiplies"))
        return found.long()


@dataclass(frozen=True)
class _Places:
    """Of one part: the rows that it reads, and for which bags."""

    part: str
    table: str
    rows: Tensor
    bags: Tensor


def _write(path: _Path, ids: Tensor, table: Tensor, weights: Mapping[str, Tensor]) -> None:
    for weight, (entry, where) in _by_table(path, ids, weights):
        values = table.to(weight.device)[ids.to(weight.device)][where]
        weight.view(-1)[entry] = values.to(weight.dtype)


def _compare(path: _Path, ids: Tensor, table: Tensor, weights: Mapping[str, Tensor]) -> None:
    for weight, (entry, where) in _by_table(path, ids, weights):
        values = table.to(weight.device)[ids.to(weight.device)][where].to(weight.dtype)
        if not torch.equal(weight.view(-1)[entry], values):
            raise ValueError(
                f"feature {path.feature.name!r} shares entries of its tables between ids whose "
                f"values differ, so they cannot all be kept; give such ids the same values"
            )


def _by_table(
    path: _Path, ids: Tensor, weights: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """For each table: numbers of its floats, and which of the ``(V, D)`` logical ones they are."""
    entries, base = path.entries(ids, weights), 1
    for weight in weights.values():
        where = (entries >= base) & (entries < base + weight.numel())
        if bool(where.any()):
            yield weight, (entries[where] - base, where)
        base += weight.numel()


def _only_output(collection: CompressedEmbeddingBagCollection, name: str) -> Output:
    outputs = [o for o in collection.combine.outputs if o.feature == name]
    if len(outputs) != 1:
        raise ValueError(f"feature {name!r} has {len(outputs)} vectors, a table needs one")
    return outputs[0]


def _weights(collection: CompressedEmbeddingBagCollection) -> dict[str, Tensor]:
    holders = cast(nn.ModuleDict, collection.tables.embedding_bags)
    return {name: cast(Tensor, holder.weight) for name, holder in holders.items()}


def _check_shape(feature: Feature, table: Tensor) -> None:
    if tuple(table.shape) != (feature.num_ids, feature.dim):
        raise ValueError(
            f"the table of feature {feature.name!r} must have shape "
            f"{(feature.num_ids, feature.dim)}, got {tuple(table.shape)}"
        )


def _refusal(name: str, why: str) -> str:
    return (
        f"the vectors of feature {name!r} are computed, not stored: its combine {why}; values can "
        f"be placed into methods such as full, pruned and sparse"
    )
