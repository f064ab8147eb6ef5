"""Mixed dimension embeddings (Ginart et al., ISIT 2021, arXiv 1909.11810).

Popular rows get wide vectors, rare rows narrow ones: ``e(x) = E_b[x - t_b] @ P_b`` for the block
``b`` that holds ``x``, with ``E_b (n_b, d_b)`` and a bias-free ``P_b (d_b, D)`` only where
``d_b < D``. *Field-wise*: one block per feature. *Block-wise*: the rows of one feature, most
frequent first, cut into blocks. Linear, so each block is pooled at its own width and projected
once. Cost: ``4 * (sum n_b d_b + D * sum_{d_b < D} d_b)`` bytes, and ``8 * n`` for a remap, if the
ids are not numbered by frequency. Widths that are not multiples of 4 are packed and cost what they
say.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import (
    Arrays,
    Lowered,
    require_array,
    require_vocabulary,
    table_name,
)
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.mixed_sizing import (
    Rounding,
    equipartition,
    fill,
    next_width,
    popularity_dims,
    widenable,
)
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import Assignments, Method, SizingTask, register_method
from compactrec.embeddings.rewrites import Identity, IdMap, LookUp
from compactrec.embeddings.sizing import assignment_bytes, largest_step

__all__ = ["MixedConfig", "lower_mixed"]

_STEPS = 2**32
_STEEPEST = 8.0


class MixedConfig(MethodConfig):
    """Widths of a feature's blocks."""

    method: ClassVar[str] = "mixed"

    dims: tuple[int, ...] = Field(min_length=1)
    """Width d_b of each block, at most the feature's own."""
    rows: tuple[int, ...] = ()
    """Rows n_b of each block, summing to num_ids; empty for a single block."""
    remap: str | None = None
    """Name of the plan's array id -> rank; None where ids are numbered by frequency."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n)), n the feature's vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(d < 1 for d in self.dims) or any(n < 1 for n in self.rows):
            raise ValueError(f"widths and rows must be at least 1, got {self.dims}, {self.rows}")
        if len(self.dims) > 1 and len(self.rows) != len(self.dims):
            raise ValueError(f"{len(self.dims)} dims need as many rows, got {len(self.rows)}")
        return self


def lower_mixed(config: MixedConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table per block and, where it is narrow, a projection per feature and block."""
    num_ids = require_vocabulary(config.method, features, same=True)
    rows = config.rows or (num_ids,)
    if sum(rows) != num_ids:
        raise ValueError(
            f"mixed: the blocks of feature {features[0].name!r} hold {sum(rows)} rows but it has "
            f"{num_ids} ids"
        )
    too_wide = [d for d in config.dims if d > features[0].dim]
    if too_wide:
        raise ValueError(
            f"mixed: widths {too_wide} are larger than the width {features[0].dim} of feature "
            f"{features[0].name!r}"
        )
    id_map: IdMap = Identity()
    if config.remap is not None:
        ranks = require_array(
            config.method, arrays, config.remap, features[0], num_ids, unique=True
        )
        id_map = LookUp(ranks)
    init = config.init or first_init(features, dlrm_init(num_ids))
    part = "id" if len(rows) == 1 else "b"
    names = [part] if len(rows) == 1 else [f"b{i}" for i in range(len(rows))]
    blocks = [
        Block(table_name(features, name), n, d, init)
        for name, n, d in zip(names, rows, config.dims, strict=True)
    ]
    return packed(features, part, blocks, maps=lambda _: id_map)


class MixedOptions(BaseModel):
    """What a person may choose at a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float | None = Field(default=None, ge=0)
    """Temperature; None finds the smallest that fits, with the most popular block at width D."""
    num_blocks: int = Field(default=1, ge=1)
    """Frequency blocks per feature; 1 is field-wise. More than 1 needs counts."""
    rounding: Rounding = "packed"
    """``packed``: 1, 2 or a multiple of 4; faster than odd widths, which are packed with waste."""
    multiple: int = Field(default=4, ge=1)
    """For rounding ``multiple``."""
    min_dim: int = Field(default=1, ge=1)


def _from_budget(task: SizingTask) -> Assignments:
    """The gentlest temperature that fits, or at a given one the largest lambda; then the rest."""
    sizing = _Sizing(task)
    lowest = -_STEPS if sizing.options.alpha is None else 0
    step = largest_step(
        lambda step: sizing.assign(sizing.dims_at(step)), lowest, _STEPS, task.budget_bytes
    )
    return sizing.spend(sizing.dims_at(step))


class _Sizing:
    """Widths of every block at a step of the search, and what they make."""

    def __init__(self, task: SizingTask) -> None:
        self.task = task
        self.options: MixedOptions = task.options
        counts = task.counts or {}
        looked_up = [int(np.sum(counts[f.name])) for f in task.features if f.name in counts]
        most = max([1, *looked_up])
        self.blocks = [_blocks(feature, task, self.options, most) for feature in task.features]
        self.popularity = [p for block in self.blocks for p in block.popularity]
        self.rows = [n for block in self.blocks for n in block.rows]
        pairs = list(zip(task.features, self.blocks, strict=True))
        self.limits = [f.dim for f, block in pairs for _ in block.rows]
        self.arrays = {
            f"{f.name}__rank": torch.from_numpy(block.remap)
            for f, block in pairs
            if block.remap is not None
        }

    def dims_at(self, step: int) -> list[int]:
        """Widths that never shrink as ``step`` grows."""
        o, base_dim = self.options, max(self.limits)
        alpha, scale = _STEEPEST * (1 - max(0, step) / _STEPS), None
        if o.alpha is not None or step < 0:
            # A given temperature, or even the steepest is too large: lower lambda itself.
            alpha = _STEEPEST if o.alpha is None else o.alpha
            top = base_dim * (max if o.alpha is None else min)(self.popularity) ** -alpha
            scale = top * (step / _STEPS if o.alpha is not None else 1 + step / _STEPS)
        dims = popularity_dims(
            self.popularity,
            alpha,
            base_dim,
            scale=scale,
            rounding=o.rounding,
            multiple=o.multiple,
            min_dim=o.min_dim,
        )
        return [min(d, limit) for d, limit in zip(dims, self.limits, strict=True)]

    def assign(self, dims: list[int], cut: int = 0, rows: int = 0, wider: int = 0) -> Assignments:
        """A config per feature; the first ``rows`` rows of block ``cut`` have width ``wider``."""
        groups, i = [], 0
        for feature, block in zip(self.task.features, self.blocks, strict=True):
            sizes: list[tuple[int, int]] = []
            for n in block.rows:
                part = rows if i == cut else 0
                sizes += [(m, d) for m, d in ((part, wider), (n - part, dims[i])) if m]
                i += 1
            config = MixedConfig(
                dims=tuple(d for _, d in sizes),
                rows=() if len(sizes) == 1 else tuple(n for n, _ in sizes),
                remap=None if block.remap is None else f"{feature.name}__rank",
            )
            groups.append(((feature,), config))
        return Assignments(tuple(groups), self.arrays)

    def spend(self, dims: list[int]) -> Assignments:
        """Widen blocks with the bytes that are left, the last one in part."""
        budget, o = self.task.budget_bytes, self.options
        step = partial(next_width, rounding=o.rounding, multiple=o.multiple)
        left = budget - assignment_bytes(self.assign(dims))
        filled = fill(dims, self.limits, self.rows, self.popularity, left // 4, step)
        if assignment_bytes(self.assign(filled)) > budget:
            filled = dims
        for i, wider in widenable(filled, self.limits, self.popularity, step):
            assign = partial(self.assign, filled, i, wider=wider)
            rows = largest_step(assign, 0, self.rows[i] - 1, budget)
            if rows:
                return assign(rows)
        return self.assign(filled)


@dataclass(frozen=True)
class _Blocks:
    rows: list[int]
    remap: NDArray[np.int64] | None
    popularity: list[float]


def _blocks(feature: Feature, task: SizingTask, options: MixedOptions, most: int) -> _Blocks:
    """Rows of each block, the remap, and the average popularity of a block's rows.

    That is look-ups per row, relative to the ``most`` that any feature has.
    """
    num_ids = require_vocabulary("mixed", (feature,))
    if task.counts is None:
        if options.num_blocks > 1:
            raise ValueError("mixed: blocks need training frequencies (counts); give them or use 1")
        return _Blocks([num_ids], None, [1.0 / num_ids])
    counts = np.asarray(task.counts[feature.name], dtype=np.int64)
    rows, remap = [num_ids], None
    if options.num_blocks > 1:
        rows, remap = equipartition(counts, options.num_blocks)
    ranked = counts if remap is None else counts[np.argsort(remap)]
    mass = np.add.reduceat(ranked, np.concatenate([[0], np.cumsum(rows)[:-1]]))
    # A block that was never seen counts as half a look-up: a popularity must not be zero.
    popularity = [max(float(m), 0.5) / most / n for m, n in zip(mass, rows, strict=True)]
    return _Blocks(rows, remap, popularity)


register_method(
    Method(
        config=MixedConfig,
        lower=lower_mixed,
        from_budget=_from_budget,
        options=MixedOptions,
        title="Mixed dimensions",
        paper="Ginart et al., ISIT 2021, arXiv 1909.11810",
        formula="e(x) = E_b[x - t_b] P_b,  d_b ~ popularity^alpha",
    )
)
