"""Single values kept: every id has its own subset of the D columns, all others are exact zeros.

What searches over single values derive: magnitude pruning, PEP (Liu et al., ICLR 2021, arXiv
2101.07577), DNIS (Cheng, Shen, Huang, arXiv 2006.04466) in its unstructured form.
``e(x)_c = v[q(x, c)]`` where the mask has a value for ``(x, c)``, else 0. Linear, so bags pool
exactly; a mean divides by the number of ids. The layout is ours; the papers give none.

The ``m`` ids that keep a value are found by a bitmap over ids, and their values by a bitmap over
``m`` rows for every column that has any. Values are numbered column by column, and the quarters of
that line are the four columns of one physical table: value ``q`` is in row ``q mod R``, column ``q
div R``, ``R = ceil(values / 4)``. So all values of a logical column are in one physical column, but
for the three columns that a quarter ends in, and a feature has at most ``D + 3`` parts, each of
which knows its column: an id goes to one part per value, and the combine moves one column of every
part to its place. (Values numbered id by id would need a part for each of the ``4 D`` pairs.)

Cost: ``16 * R`` bytes of values, 1.25 bits an id, and 1.25 bits an entry of the ``m`` rows of those
columns, whether it is kept or not; small features pay for whole words. Below one value in eight or
so, 8-bit column numbers would take less and below that everything is small; above, more.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from compactrec.embeddings.bitmap import bitmap_index, index_words, pack_bits
from compactrec.embeddings.combines import Place
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import (
    Arrays,
    Lowered,
    Output,
    Slot,
    Table,
    require_bitmap,
    require_vocabulary,
    table_name,
)
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.kept import as_bools, ids_bytes, kept_map, require_num_ids
from compactrec.embeddings.registry import Method, NoOptions, register_method
from compactrec.embeddings.rewrites import Entries, Stream

__all__ = ["SparseConfig", "lower_sparse", "sparse_assignment", "sparse_bytes"]


class SparseConfig(MethodConfig):
    """How many values there are; the plan's bitmaps say where. Features of one group share them."""

    method: ClassVar[str] = "sparse"

    values: tuple[int, ...] = Field(min_length=1)
    """Kept values of each logical column."""
    rows: int = Field(ge=0)
    """Ids that keep a value."""
    kept: str | None = None
    """Name of the plan's bitmap (uint8) of those ids; None where they are the first ones."""
    mask: str | None = None
    """Name of the plan's bitmaps (uint8) over rows, one for every column with values, each from a
    byte of its own on; None where nothing is kept."""
    init: Init | None = None
    """Initial values; None is U(+-sqrt(1/n)), n the feature's vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(not 0 <= n <= self.rows for n in self.values):
            raise ValueError(f"a column keeps 0 .. rows = {self.rows} values, got {self.values}")
        if sum(self.values) < self.rows:
            raise ValueError(
                f"every one of {self.rows} rows keeps a value, but there are {sum(self.values)}"
            )
        if (self.mask is None) != (self.rows == 0):
            raise ValueError(f"mask must be given where rows are, got {self.mask!r} of {self.rows}")
        return self


def lower_sparse(config: SparseConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table of width 4 for all values, and a part per column, or two where a quarter ends."""
    num_ids = require_vocabulary(config.method, features, same=True)
    first = features[0]
    if len(config.values) != first.dim:
        raise ValueError(
            f"sparse: the config counts the values of {len(config.values)} columns, but feature "
            f"{first.name!r} has {first.dim}"
        )
    id_map, _ = kept_map(config.method, first, arrays, config.rows, kept=config.kept)
    if config.mask is None:
        nothing = [Output(f.name, f.name, f.dim, ((),), Place((), f.dim)) for f in features]
        return Lowered((), (), tuple(nothing))
    num_values, num_columns = sum(config.values), sum(n > 0 for n in config.values)
    shape = (num_columns, config.rows)
    bitmap = require_bitmap(config.method, arrays, config.mask, first, shape, num_values)
    _check_columns(config, bitmap, first)
    starts, columns, lanes = _parts(config.values)
    split = Entries(
        bitmap_index(bitmap, config.rows, num_columns),
        config.rows,
        num_columns,
        starts,
        num_values,
        -(-num_values // 4),
    )
    name = table_name(features, "values")
    take = [4 * i + lane for i, lane in enumerate(lanes)]
    streams, outputs = [], []
    for f in features:
        keys = tuple(part_key(f.name, f"v{c}_{j}") for c, j in zip(columns, lanes, strict=True))
        streams.append(Stream(f.name, keys, (name,) * len(keys), id_map, split))
        slot = Slot(keys, 4 * len(keys), whole=True)
        place = Place(columns, f.dim, take=take)
        outputs.append(Output(f.name, f.name, f.dim, ((slot,),), place))
    init = config.init or first_init(features, dlrm_init(num_ids))
    table = Table(name, split.num_entry_rows, 4, init)
    return Lowered(tuple(streams), (table,), tuple(outputs))


def _parts(values: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """First value, logical column and quarter of every part."""
    columns = [c for c, n in enumerate(values) if n]
    firsts = [0, *accumulate(values[c] for c in columns)]
    quarter, total = -(-firsts[-1] // 4), firsts[-1]
    starts = sorted({*firsts[:-1], *range(0, total, quarter)})
    of = np.searchsorted(np.array(firsts), np.array(starts), side="right") - 1
    return (
        tuple(starts),
        tuple(columns[int(i)] for i in of),
        tuple(start // quarter for start in starts),
    )


def _check_columns(config: SparseConfig, bitmap: Tensor, feature: Feature) -> None:
    """Raise unless every column's bitmap has as many values as the config says."""
    if bitmap.is_meta:
        return
    stored = [n for n in config.values if n]
    bits = np.unpackbits(bitmap.numpy().reshape(len(stored), -1), axis=1)
    found = [int(n) for n in bits.sum(axis=1)]
    if found != stored:
        raise ValueError(
            f"sparse: array {config.mask!r} of feature {feature.name!r} has {found} bits set in "
            f"its columns, but the config says {stored}"
        )


def sparse_assignment(
    feature: Feature, mask: NDArray[np.bool_] | Tensor
) -> tuple[SparseConfig, dict[str, Tensor]]:
    """A config and the plan's arrays for it.

    Args:
        mask: ``(num_ids, dim)`` bool, True where a value is kept.
    """
    num_ids = require_num_ids("sparse", feature)
    bits = as_bools("sparse", feature, mask, (num_ids, feature.dim))
    values = tuple(int(n) for n in bits.sum(axis=0))
    keep = np.logical_or.reduce(bits, axis=1)
    num_rows = int(keep.sum())
    if not num_rows:
        return SparseConfig(values=values, rows=0), {}
    stored = np.flatnonzero(np.array(values))
    name = f"{feature.name}__mask"
    arrays = {name: pack_bits(bits[np.ix_(np.flatnonzero(keep), stored)].T)}
    if keep[:num_rows].all():
        return SparseConfig(values=values, rows=num_rows, mask=name), arrays
    kept = f"{feature.name}__kept"
    arrays[kept] = pack_bits(keep)
    return SparseConfig(values=values, rows=num_rows, kept=kept, mask=name), arrays


def sparse_bytes(
    num_ids: int,
    values: Sequence[int],
    num_kept_ids: int,
    *,
    ids: Literal["order", "kept"] = "kept",
) -> int:
    """Serving bytes of one feature, exactly, without a plan.

    Args:
        values: kept values of each column.
        num_kept_ids: ids that keep a value.
        ids: ``order`` where those are the first ids, ``kept`` where they are not.
    """
    bounds, counts = 8, [int(n) for n in values]
    if not any(counts):
        return bounds
    parts = len(_parts(counts)[0])
    masks = 8 * sum(index_words(int(num_kept_ids), sum(n > 0 for n in counts)))
    stream = 8 * (3 + 7 + parts)
    return 16 * -(-sum(counts) // 4) + masks + bounds + stream + ids_bytes(ids, num_ids)


register_method(
    Method(
        config=SparseConfig,
        lower=lower_sparse,
        from_budget=None,
        options=NoOptions,
        title="Single values",
        paper="Liu et al., ICLR 2021, arXiv 2101.07577; Cheng et al., arXiv 2006.04466",
        formula="e(x)_c = v[q(x, c)] where kept, else 0",
    )
)
