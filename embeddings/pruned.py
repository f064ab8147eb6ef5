"""Dense sub-tables: some rows are left out, and blocks of rows keep some columns only.

What structured searches derive: OptEmbed (Lyu et al., CIKM 2022, arXiv 2208.04482) keeps rows above
a threshold and the first ``d`` columns of a field; DNIS (Cheng, Shen, Huang, arXiv 2006.04466) in
its structured form a set of columns for every block of ids of like frequency. ``e(x) = S_b E_b[row
of x]`` for the block ``b`` of the row, with ``E_b (n_b, d_b)`` and ``S_b`` which puts the ``d_b``
stored columns into their places among the ``D`` logical ones; all others are exact zeros, and so is
the whole vector of a dropped id, which has no row. Linear, so bags pool exactly; a mean divides by
the number of ids, dropped ones included. The layout is ours: neither paper says how to store it.

Cost: ``4 * sum n_b d_b`` bytes (rows whose width is no multiple of 4 are packed), and for the map
from ids to rows nothing, 1.25 bits or 4 bytes an id, see ``kept.py``.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from compactrec.embeddings.bitmap import pack_bits
from compactrec.embeddings.combines import Combine, Place, Select
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.kept import Ids, as_bools, ids_bytes, kept_map, require_num_ids
from compactrec.embeddings.packing import Block, num_lanes, packed
from compactrec.embeddings.registry import Method, NoOptions, register_method

__all__ = ["PrunedConfig", "lower_pruned", "pruned_assignment", "pruned_bytes"]


class PrunedConfig(MethodConfig):
    """Which rows and columns of a table there are. Features of one group share the tables."""

    method: ClassVar[str] = "pruned"

    rows: tuple[int, ...] = ()
    """Rows n_b of each block, in the order of row numbers; none drops every id."""
    columns: tuple[tuple[int, ...], ...] = ()
    """Logical columns that each block stores, ascending; a block with none costs nothing."""
    kept: str | None = None
    """Name of the plan's bitmap (uint8) of ids with a row, which is the rank among them."""
    remap: str | None = None
    """Name of the plan's array (int32) id -> row, -1 for dropped. With neither, id x is row x and
    ids from the number of rows on are dropped."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n)), n the feature's vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.rows) != len(self.columns):
            raise ValueError(
                f"every block needs rows and columns, got {len(self.rows)} rows and "
                f"{len(self.columns)} lists of columns"
            )
        if any(n < 1 for n in self.rows):
            raise ValueError(f"rows must be at least 1, got {self.rows}; leave empty blocks out")
        for columns in self.columns:
            if sorted({*columns}) != [*columns] or any(c < 0 for c in columns):
                raise ValueError(f"columns must be ascending and from 0 on, got {columns}")
        if self.kept is not None and self.remap is not None:
            raise ValueError(f"give kept or remap, got both: {self.kept!r} and {self.remap!r}")
        return self


def lower_pruned(config: PrunedConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table per block that has columns, and columns put into their places."""
    num_ids = require_vocabulary(config.method, features, same=True)
    dim = features[0].dim
    wide = [columns for columns in config.columns if columns and columns[-1] >= dim]
    if wide:
        raise ValueError(
            f"pruned: columns {wide[0]} of feature {features[0].name!r}, which has columns "
            f"0 .. {dim - 1}"
        )
    id_map, num_dropped = kept_map(
        config.method,
        features[0],
        arrays,
        sum(config.rows),
        kept=config.kept,
        remap=config.remap,
    )
    init = config.init or first_init(features, dlrm_init(num_ids))
    many = len(config.rows) > 1 or num_dropped > 0
    blocks = [
        Block(table_name(features, f"b{i}" if many else "b"), n, len(columns), init)
        for i, (n, columns) in enumerate(zip(config.rows, config.columns, strict=True))
    ]
    if num_dropped:
        blocks.append(Block("", num_dropped, 0, init))
    places = [column for columns in config.columns for column in columns]

    def combine(feature: Feature) -> Combine:
        return Select() if places == [*range(dim)] else Place(places, dim)

    return packed(features, "b", blocks, maps=lambda _: id_map, combines=combine)


def pruned_assignment(
    feature: Feature,
    keep_rows: NDArray[np.bool_] | Tensor | None,
    columns: Sequence[Sequence[int]],
    *,
    block_of: NDArray[np.integer] | None = None,
) -> tuple[PrunedConfig, dict[str, Tensor]]:
    """The cheapest exact layout of some rows and columns: a config and the plan's arrays for it.

    Args:
        keep_rows: ``(num_ids,)`` bool; None keeps all. Ids of blocks without columns are dropped
            too.
        columns: the logical columns of each block.
        block_of: ``(num_ids,)`` block of each id; needed where there are several. A bitmap is
            enough while blocks do not fall as ids rise, as with ids numbered by frequency;
            otherwise a row is written down for every id.
    """
    num_ids = require_num_ids("pruned", feature)
    keep = np.ones(num_ids, dtype=np.bool_)
    if keep_rows is not None:
        keep = as_bools("pruned", feature, keep_rows, (num_ids,)).copy()
    block = _blocks(feature, num_ids, len(columns), block_of)
    keep &= np.array([len(c) > 0 for c in columns], dtype=np.bool_)[block]
    ids = np.flatnonzero(keep)
    of_ids = block[ids]
    counts = np.bincount(of_ids, minlength=len(columns))
    used = [b for b in range(len(columns)) if counts[b]]
    rows = tuple(int(counts[b]) for b in used)
    kept_columns = tuple(tuple(sorted({int(c) for c in columns[b]})) for b in used)
    if bool((of_ids[1:] < of_ids[:-1]).any()):
        remap = np.full(num_ids, -1, dtype=np.int32)
        remap[ids[np.argsort(of_ids, kind="stable")]] = np.arange(len(ids), dtype=np.int32)
        name = f"{feature.name}__rows"
        config = PrunedConfig(rows=rows, columns=kept_columns, remap=name)
        return config, {name: torch.from_numpy(remap)}
    if len(ids) == 0 or ids[-1] == len(ids) - 1:
        return PrunedConfig(rows=rows, columns=kept_columns), {}
    name = f"{feature.name}__kept"
    return PrunedConfig(rows=rows, columns=kept_columns, kept=name), {name: pack_bits(keep)}


def _blocks(
    feature: Feature, num_ids: int, num_blocks: int, block_of: NDArray[np.integer] | None
) -> NDArray[np.integer]:
    if block_of is None and num_blocks == 1:
        return np.zeros(num_ids, dtype=np.int64)
    found = None if block_of is None else np.asarray(block_of)
    if found is None or found.shape != (num_ids,) or found.min() < 0 or found.max() >= num_blocks:
        raise ValueError(
            f"pruned: block_of of feature {feature.name!r} must name one of {num_blocks} blocks "
            f"for each of {num_ids} ids; got {'none' if found is None else found.shape}"
        )
    return found


def pruned_bytes(
    num_ids: int, rows: Sequence[int], dims: Sequence[int], *, ids: Ids = "kept"
) -> int:
    """Serving bytes of one feature, exactly, without a plan.

    Args:
        rows, dims: rows and number of columns of each block; those without either are left out.
        ids: how ids become rows: ``order`` where the ids kept are the first ones, ``kept`` where
            they are not, ``remap`` where blocks do not follow ids.
    """
    blocks = [(n, d) for n, d in zip(rows, dims, strict=True) if n and d]
    lanes = [num_lanes(d) for _, d in blocks]
    tables = sum(
        4 * d * share * -(-n // share) for (n, d), share in zip(blocks, lanes, strict=True)
    )
    bounds = 8
    if not blocks:
        return bounds
    stream = 8 * 3
    has_dropped = ids != "order" or sum(n for n, _ in blocks) < num_ids
    if has_dropped or len(blocks) > 1 or lanes != [1]:
        stream += 8 * (3 + 3 * (len(blocks) + has_dropped))
    return tables + bounds + stream + ids_bytes(ids, num_ids)


register_method(
    Method(
        config=PrunedConfig,
        lower=lower_pruned,
        from_budget=None,
        options=NoOptions,
        title="Pruned rows and columns",
        paper="Lyu et al., CIKM 2022, arXiv 2208.04482; Cheng et al., arXiv 2006.04466",
        formula="e(x) = S_b E_b[row(x)], 0 where x has no row",
    )
)
