"""Streams on a whole batch: all maps of one kind in one call, then the splits.

Legend: ``S`` streams, ``V`` ids, ``B`` bags.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from compactrec.embeddings.compiled_maps import CompiledBlocks, CompiledMaps, is_plain
from compactrec.embeddings.hashing import salted_hash
from compactrec.embeddings.rewrites import Blocks, IdMap, Signs, Stream

__all__ = ["Bags", "Flat", "MapProgram", "Source", "SplitProgram", "by_cell"]


class Bags(NamedTuple):
    """Bags of several keys, key-major."""

    values: Tensor
    """``(V,)`` int64"""
    lengths: Tensor
    """``(K * B,)`` integer"""
    weights: Tensor | None
    """``(V,)`` float, or None"""


class Flat(NamedTuple):
    """The ids of several streams, one after the other."""

    ids: Tensor
    counts: Tensor | None
    """Ids per stream; None when every stream has ``B`` (then ``ids`` is ``(S, B)``)."""

    def spread(self, per_stream: Tensor) -> Tensor:
        """Broadcast ``(S,)`` values to the ids of each stream."""
        if self.counts is None:
            return per_stream[:, None]
        return torch.repeat_interleave(per_stream, self.counts, output_size=self.ids.shape[0])


class _MapKind(nn.Module):
    """All streams of one kind of map, in one call."""

    params: Tensor
    array: Tensor | None

    def __init__(self, maps: Sequence[IdMap]) -> None:
        super().__init__()
        self._apply_map = type(maps[0]).apply
        params = [list(m.params) for m in maps]  # (S, num_params)
        arrays = [m.array for m in maps if m.array is not None]
        if arrays:
            offset = 0
            for row, array in zip(params, arrays, strict=True):
                row[-1] = offset
                offset += array.numel()
        # Always on CPU first: integer state is a constant of the plan, not something to initialise.
        self.register_buffer("params", torch.tensor(params, dtype=torch.int64, device="cpu").T)
        self.register_buffer("array", torch.cat(arrays) if arrays else None)

    def forward(self, flat: Flat) -> Tensor:
        params = tuple(flat.spread(p) for p in self.params)
        return self._apply_map(flat.ids, params, self.array)


class Source:
    """One batch, cut by feature."""

    def __init__(
        self, bags: Bags, lengths: Tensor, length_per_key: list[int], one_id: bool
    ) -> None:
        self.lengths, self.length_per_key, self.one_id = lengths, length_per_key, one_id
        self.weights = bags.weights
        self.values = bags.values
        self._grid = bags.values.view(lengths.shape) if one_id else None
        self._pieces = None if one_id else bags.values.split(length_per_key)

    def ids(self, positions: Tensor, order: Sequence[int]) -> Flat:
        if self._grid is not None:
            return Flat(self._grid[positions], None)
        assert self._pieces is not None
        counts = [self.length_per_key[p] for p in order]
        ids = torch.cat([self._pieces[p] for p in order])
        return Flat(ids, torch.tensor(counts, device=ids.device))

    def stream_weights(self, order: Sequence[int], weighted: Sequence[bool]) -> Tensor | None:
        if self.weights is None:
            return None
        pieces = self.weights.split(self.length_per_key)
        return torch.cat(
            [
                pieces[p] if keep else torch.ones_like(pieces[p])
                for p, keep in zip(order, weighted, strict=True)
            ]
        )


class MapProgram(nn.Module):
    """Streams without a split: maps only."""

    _positions: Tensor
    _positions_by_kind: Tensor
    _places: Tensor

    def __init__(self, streams: Sequence[Stream], index: dict[str, int]) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self._order = [index[s.feature] for s in streams]
        self._weighted = [s.weighted for s in streams]
        self.kinds = nn.ModuleDict()
        self._slices: dict[str, tuple[int, int]] = {}
        by_kind: list[int] = []
        for kind in dict.fromkeys(s.id_map.kind for s in streams):
            members = [i for i, s in enumerate(streams) if s.id_map.kind == kind]
            if kind != "identity":
                self.kinds[kind] = _MapKind([streams[i].id_map for i in members])
            self._slices[kind] = (len(by_kind), len(by_kind) + len(members))
            by_kind += members
        self._by_kind = [self._order[i] for i in by_kind]
        self._back = sorted(range(len(by_kind)), key=by_kind.__getitem__)
        self.compiled = CompiledMaps.covers(list(self._slices))
        """False keeps to torch's own operations."""
        self._compiled = CompiledMaps(
            [
                (s.id_map.kind, by_kind.index(i) - self._slices[s.id_map.kind][0])
                for i, s in enumerate(streams)
            ],
            self._order,
        )
        self.register("_positions", self._order)
        self.register("_positions_by_kind", self._by_kind)
        self.register("_places", self._back)

    def register(self, name: str, values: Sequence[int], *, persistent: bool = False) -> None:
        """Add an int64 buffer, on the CPU first."""
        tensor = torch.tensor(values, dtype=torch.int64, device="cpu")
        self.register_buffer(name, tensor, persistent=persistent)

    def rows(self, source: Source) -> Flat:
        """Rows of every stream: ``(S, B)`` when all bags hold one id, else flat."""
        if self.compiled and is_plain(source.values):
            return self._compiled_rows(source)
        pieces, counts = [], []
        for kind, (start, stop) in self._slices.items():
            flat = source.ids(self._positions_by_kind[start:stop], self._by_kind[start:stop])
            pieces.append(self.kinds[kind](flat) if kind in self.kinds else flat.ids)
            counts.append(flat.counts)
        ids = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if counts[0] is None:
            return Flat(ids[self._places] if len(pieces) > 1 else ids, None)
        sizes = torch.cat([c for c in counts if c is not None])
        if len(pieces) > 1:
            each = ids.split([source.length_per_key[p] for p in self._by_kind])
            ids, sizes = torch.cat([each[i] for i in self._back]), sizes[self._places]
        return Flat(ids, sizes)

    def _compiled_rows(self, source: Source) -> Flat:
        kinds = cast(dict[str, _MapKind], self.kinds)
        state = {kind: (m.params, m.array) for kind, m in kinds.items()}
        rows = self._compiled.rows(source.values, source.length_per_key, state)
        if source.one_id:
            return Flat(rows.view(len(self._order), -1), None)
        return Flat(rows, torch.tensor([source.length_per_key[p] for p in self._order]))

    def bag_of(self, source: Source, rows: Flat) -> Tensor:
        """The bag of every id; broadcasts against ``rows.ids``."""
        bags = torch.arange(source.lengths.shape[1], device=rows.ids.device)
        if rows.counts is None:
            return bags[None, :]
        lengths = source.lengths[self._positions].reshape(-1)
        return torch.repeat_interleave(
            bags.repeat(len(self._order)), lengths, output_size=rows.ids.shape[0]
        )

    def run(self, source: Source) -> Bags:
        if not self.streams:
            return Bags(source.lengths.new_empty(0), source.lengths.new_empty(0), None)
        return Bags(
            self.rows(source).ids.reshape(-1),
            source.lengths[self._positions].reshape(-1),
            source.stream_weights(self._order, self._weighted),
        )


def by_cell(cell: Tensor, num_cells: int, *, single: bool) -> tuple[Tensor, Tensor]:
    """What sorts values by their cell, stably, and how many each cell has.

    ``single``: no cell has two.
    """
    counts = torch.bincount(cell, minlength=num_cells)
    if not single:
        return torch.argsort(cell, stable=True), counts
    # The place of a value is the running count, so no sort is needed.
    place = counts.cumsum(0)[cell] - 1
    order = torch.empty_like(place)
    order[place] = torch.arange(place.numel(), device=place.device)
    return order, counts


class SplitProgram(MapProgram):
    """Streams with a split: after the maps, every id is sent to one part or dropped."""

    first_part: Tensor
    sign_salts: Tensor
    block_base: Tensor
    block_starts: Tensor
    block_parts: Tensor
    block_lanes: Tensor

    def __init__(self, streams: Sequence[Stream], index: dict[str, int]) -> None:
        super().__init__(streams, index)
        firsts, first = [], 0
        for stream in streams:
            firsts.append(first)
            first += len(stream.parts)
        self.num_parts = first
        self.register("first_part", firsts)
        self._split_kinds: dict[str, list[int]] = {}
        for i, stream in enumerate(streams):
            assert stream.split is not None
            self._split_kinds.setdefault(stream.split.kind, []).append(i)
        self._register_blocks(streams)
        blocks = [s.split for s in streams if isinstance(s.split, Blocks)]
        self._blocks = CompiledBlocks(blocks) if len(blocks) == len(self.streams) else None
        salts = [s.split.salt if isinstance(s.split, Signs) else 0 for s in streams]
        self.register("sign_salts", salts, persistent=any(salts))

    def _register_blocks(self, streams: Sequence[Stream]) -> None:
        """One list of blocks for all streams: block starts on one number line.

        A block without lanes has part -1, which stands for none.
        """
        bases: list[int] = []
        starts: list[int] = []
        origin: list[int] = []
        lanes: list[int] = []
        base, first = 0, 0
        for stream in streams:
            bases.append(base)
            split = stream.split
            if isinstance(split, Blocks):
                part = first
                for start, num_lanes in zip(split.starts, split.lanes, strict=True):
                    starts.append(base + start)
                    origin.append(part if num_lanes else -1)
                    lanes.append(max(num_lanes, 1))
                    part += num_lanes
                base += split.num_rows
            first += len(stream.parts)
        self.register("block_base", bases)
        self.register("block_starts", starts)
        self.register("block_parts", origin)
        self.register("block_lanes", lanes)
        self._drops = -1 in origin

    def run(self, source: Source) -> Bags:
        rows = self.rows(source)
        weights = source.stream_weights(self._order, self._weighted)
        if self._blocks is not None and self.compiled and is_plain(rows.ids, weights):
            return self._compiled_run(source, rows, self._blocks, weights)
        parts, rows_out = self._route(source, rows)
        batch = source.lengths.shape[1]
        cell = (parts * batch + self.bag_of(source, rows)).reshape(-1)
        values = rows_out.reshape(-1)
        if self._drops:
            kept = (parts >= 0).reshape(-1).nonzero()[:, 0]
            cell, values = cell[kept], values[kept]
            weights = None if weights is None else weights[kept]
        single = source.one_id and "positions" not in self._split_kinds
        order, counts = by_cell(cell, self.num_parts * batch, single=single)
        return Bags(
            values[order],
            counts.to(source.lengths.dtype),
            None if weights is None else weights[order],
        )

    def _compiled_run(
        self, source: Source, rows: Flat, blocks: CompiledBlocks, weights: Tensor | None
    ) -> Bags:
        values, lengths, weights = blocks.run(
            rows.ids.reshape(-1).contiguous(),
            [source.length_per_key[p] for p in self._order],
            None if source.one_id else source.lengths[self._positions],
            weights,
        )
        return Bags(values, lengths.reshape(-1).to(source.lengths.dtype), weights)

    def _route(self, source: Source, rows: Flat) -> tuple[Tensor, Tensor]:
        """The part (over all streams; -1 for none) and the row of every id."""
        part = rows.spread(self.first_part).expand(rows.ids.shape)
        out = rows.ids
        if "positions" in self._split_kinds:
            part = part + self._is("positions", rows, self._rank(source, rows))
        if "signs" in self._split_kinds:
            ids = source.ids(self._positions, self._order).ids
            part = part + self._is("signs", rows, salted_hash(ids, rows.spread(self.sign_salts), 2))
        if "blocks" in self._split_kinds:
            key = rows.ids + rows.spread(self.block_base)
            block = torch.searchsorted(self.block_starts, key, right=True) - 1
            lanes = self.block_lanes[block]
            local = key - self.block_starts[block]
            routed = self.block_parts[block] + local % lanes
            row = torch.div(local, lanes, rounding_mode="floor")
            if len(self._split_kinds) == 1:
                return routed, row
            chosen = rows.spread(self._mask("blocks", rows.ids.device))
            part, out = torch.where(chosen, routed, part), torch.where(chosen, row, out)
        return part, out

    def _mask(self, kind: str, device: torch.device) -> Tensor:
        members = set(self._split_kinds[kind])
        return torch.tensor([i in members for i in range(len(self.streams))], device=device)

    def _is(self, kind: str, rows: Flat, shift: Tensor) -> Tensor:
        if len(self._split_kinds) == 1:
            return shift
        return shift * rows.spread(self._mask(kind, rows.ids.device))

    def _rank(self, source: Source, rows: Flat) -> Tensor:
        """The position of every id in its bag."""
        if rows.counts is None:
            return torch.zeros_like(rows.ids)
        lengths = source.lengths[self._positions].reshape(-1)
        starts = lengths.cumsum(0) - lengths
        size = rows.ids.shape[0]
        start = torch.repeat_interleave(starts, lengths, output_size=size)
        return torch.arange(size, device=rows.ids.device) - start
