"""Rows of any width in tables whose width is a multiple of 4, and how they are read back.

FBGEMM reads only widths that are multiples of 4, yet a row of width 1 must cost one float. So a
physical row holds ``4 / gcd(width, 4)`` logical rows side by side, its *lanes*. The rewrite sends
each id to the part of its lane, and the combine takes the columns of lane ``j`` from part ``j`` and
adds them up: exact for any bag, since every id is in one part only. At most three rows of padding
are stored. Row-wise optimizers keep one state per *physical* row, so packed neighbours share it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compactrec.embeddings.combines import Combine, Project, Select
from compactrec.embeddings.contract import Lowered, Output, Slot, Table
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.init import Init
from compactrec.embeddings.rewrites import Blocks, Identity, IdMap, Positions, Stream

__all__ = ["Block", "factor_output", "factor_stream", "num_lanes", "packed", "padded"]


def num_lanes(dim: int) -> int:
    """Logical rows of width ``dim`` per physical row; none where there is no column to store."""
    return 4 // math.gcd(dim, 4) if dim else 0


def padded(dim: int) -> int:
    """The next multiple of 4: the stored width of a factor, whose first ``dim`` columns count."""
    return 4 * math.ceil(dim / 4)


@dataclass(frozen=True)
class Block:
    """A run of logical rows of one width, stored in a table of its own.

    Width 0 has no table: ids of such rows are dropped.
    """

    table: str
    num_rows: int
    dim: int
    init: Init

    @property
    def physical(self) -> Table:
        """The table as stored: ``ceil(n / lanes)`` rows of ``dim * lanes`` floats."""
        lanes = num_lanes(self.dim)
        return Table(self.table, -(-self.num_rows // lanes), self.dim * lanes, self.init)


def packed(
    features: Sequence[Feature],
    part: str,
    blocks: Sequence[Block],
    *,
    maps: Callable[[Feature], IdMap] | None = None,
    combines: Callable[[Feature], Combine] | None = None,
) -> Lowered:
    """Lower features whose rows ``0 .. n - 1`` are cut into consecutive ``blocks``.

    ``maps`` gives the map from ids to rows (the identity by default). ``combines`` makes the
    logical vector of the blocks that have columns; by default narrow ones are projected.
    """
    maps = maps or (lambda _: Identity())
    stored = [block for block in blocks if block.dim]
    streams, outputs = [], []
    for feature in features:
        slots, first = [], 0
        if stored:
            stream = _stream(feature, part, blocks, maps(feature))
            streams.append(stream)
        for block in stored:
            lanes = num_lanes(block.dim)
            slots.append(Slot(stream.parts[first : first + lanes], block.dim))
            first += lanes
        combine = combines(feature) if combines else _projection(feature, stored)
        output = Output(feature.name, feature.name, feature.dim, (tuple(slots),), combine)
        outputs.append(output)
    return Lowered(tuple(streams), tuple(b.physical for b in stored), tuple(outputs))


def _projection(feature: Feature, blocks: Sequence[Block]) -> Combine:
    dims = [block.dim for block in blocks]
    return Select() if dims == [feature.dim] else Project(dims, feature.dim)


def _stream(feature: Feature, part: str, blocks: Sequence[Block], id_map: IdMap) -> Stream:
    lanes = [num_lanes(block.dim) for block in blocks]
    if lanes == [1]:
        key = part_key(feature.name, part)
        return Stream(feature.name, (key,), (blocks[0].table,), id_map)
    keys, tables, starts, start = [], [], [], 0
    for i, (block, count) in enumerate(zip(blocks, lanes, strict=True)):
        prefix = part if len(blocks) == 1 else f"{part}{i}"
        keys += [
            part_key(feature.name, f"{prefix}_{j}" if count > 1 else prefix) for j in range(count)
        ]
        tables += [block.table] * count
        starts.append(start)
        start += block.num_rows
    split = Blocks(tuple(starts), tuple(lanes), start)
    return Stream(feature.name, tuple(keys), tuple(tables), id_map, split)


def factor_stream(
    feature: Feature,
    part: str,
    table: str,
    id_map: IdMap,
    *,
    slot: int,
    linear: bool,
    weighted: bool,
) -> Stream:
    """One factor of a feature: a single part, or one per bag position where ids stay apart.

    A non-linear combine needs single ids; where bags hold at most one, no positions are made.
    ``weighted`` says whether this factor carries the per-id weights.
    """
    key = part_key(feature.name, part)
    if linear or feature.max_bag == 1:
        return Stream(
            feature.name,
            (key,),
            (table,),
            id_map,
            slot=slot,
            single=not linear,
            weighted=weighted,
        )
    keys = tuple(f"{key}_{i}" for i in range(feature.max_bag))
    return Stream(
        feature.name,
        keys,
        (table,) * feature.max_bag,
        id_map,
        split=Positions(feature.max_bag),
        slot=slot,
        weighted=weighted,
    )


def factor_output(
    feature: Feature, streams: Sequence[Stream], dims: Sequence[int], combine: Combine
) -> Output:
    """The output that combines one slot per stream, bag position by bag position."""
    positions = zip(*(stream.parts for stream in streams), strict=True)
    inputs = tuple(
        tuple(Slot((part,), dim) for part, dim in zip(parts, dims, strict=True))
        for parts in positions
    )
    return Output(feature.name, feature.name, feature.dim, inputs, combine)
