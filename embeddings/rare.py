"""Rare-id filter: the most frequent ids keep a row of their own, all others share one.

``e(x) = E[x]`` where ``x`` is frequent, else ``E[s]`` with ``s`` the shared row, which every id
that shares it trains. Ids numbered by descending training frequency need no integer state: from
id 1 on, with id 0 among the rare, ``s`` is the first row; from id 0 on, it is the last. Other ids
go through ``remap``, an integer array over the vocabulary whose bytes count. Bags pool exactly.
Cost: ``4 * num_rows * D`` bytes, and ``8 * n`` bytes where a remap is needed.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

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
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import (
    Assignments,
    Method,
    NoOptions,
    SizingTask,
    register_method,
)
from compactrec.embeddings.rewrites import Clip, IdMap, Keep, LookUp
from compactrec.embeddings.sizing import largest

__all__ = ["RareConfig", "lower_rare"]


class RareConfig(MethodConfig):
    """A table of ``num_rows`` rows, one of which serves every id that has none of its own."""

    method: ClassVar[str] = "rare"

    num_rows: int = Field(ge=1)
    """Rows of the table, the shared row included."""
    shared: Literal["first", "last"] = "first"
    """The shared row without a remap: ``first`` keeps ids 1 .. num_rows - 1, ``last`` keeps ids
    0 .. num_rows - 2."""
    remap: str | None = None
    """Name of the plan's array id -> row; None where ids are numbered by frequency."""
    init: Init | None = None
    """Initial weights; None is U(+-sqrt(1/num_rows))."""


def lower_rare(config: RareConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table for the group behind a clip or a remap."""
    num_ids = require_vocabulary(config.method, features, same=True)
    if config.num_rows > num_ids:
        raise ValueError(
            f"rare: num_rows must be at most num_ids = {num_ids} for feature "
            f"{features[0].name!r}, got {config.num_rows}"
        )
    id_map: IdMap = (Keep if config.shared == "first" else Clip)(config.num_rows)
    if config.remap is not None:
        id_map = LookUp(
            require_array(config.method, arrays, config.remap, features[0], config.num_rows)
        )
    init = config.init or first_init(features, dlrm_init(config.num_rows))
    block = Block(table_name(features, "id"), config.num_rows, features[0].dim, init)
    return packed(features, "id", [block], maps=lambda _: id_map)


def _from_budget(task: SizingTask) -> Assignments:
    """Keep the most frequent ids over all features; ties in the order of features and ids."""
    if task.counts is None:
        raise ValueError(
            "rare: training frequencies are needed to know the rare ids; pass "
            "counts={feature name: int64 array of num_ids counts}"
        )
    for feature in task.features:
        require_vocabulary("rare", (feature,))
    counts = [np.asarray(task.counts[f.name], dtype=np.int64) for f in task.features]
    ranks = [_Rank.of(c) for c in counts]
    owner = np.repeat(np.arange(len(counts)), [len(c) for c in counts])
    ranked = owner[_by_frequency(np.concatenate(counts))]

    def assign(kept: int) -> Assignments:
        groups, arrays = [], {}
        own = np.bincount(ranked[:kept], minlength=len(counts)).tolist()
        for feature, rank, count in zip(task.features, ranks, own, strict=True):
            # The last id that is left has the shared row to itself.
            count = min(count, len(rank.order) - 1)
            remap = None
            if not rank.numbered:
                remap = f"{feature.name}__remap"
                arrays[remap] = _remap(rank.order, count)
            shared: Literal["first", "last"] = "first"
            if rank.numbered and rank.place_of_zero < count:
                shared = "last"
            config = RareConfig(num_rows=count + 1, shared=shared, remap=remap)
            groups.append(((feature,), config))
        return Assignments(tuple(groups), arrays)

    return largest(assign, 0, len(ranked), task.budget_bytes)


@dataclass(frozen=True)
class _Rank:
    """The ids of a feature, most frequent first."""

    order: NDArray[np.int64]
    numbered: bool
    """Ids from 1 on are in that order: the ``k`` first are 0 .. k - 1 or 1 .. k for every ``k``."""
    place_of_zero: int

    @staticmethod
    def of(counts: NDArray[np.int64]) -> "_Rank":
        numbered = bool(np.all(np.diff(counts[1:]) <= 0))
        return _Rank(_by_frequency(counts), numbered, int(np.sum(counts > counts[0])))


def _by_frequency(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argsort(-counts, kind="stable")


def _remap(order: NDArray[np.int64], num_kept: int) -> Tensor:
    """id -> row: 0 is shared, then the kept ids."""
    remap = np.zeros(len(order), dtype=np.int64)
    remap[order[:num_kept]] = np.arange(1, num_kept + 1)
    return torch.from_numpy(remap)


register_method(
    Method(
        config=RareConfig,
        lower=lower_rare,
        from_budget=_from_budget,
        options=NoOptions,
        title="Rare-id filter",
        paper="-",
        formula="e(x) = E[x] if x is frequent, else the shared row",
        baseline=True,
    )
)
