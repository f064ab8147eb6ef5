"""Rare-id filter: frequent ids keep a row of their own, all others share row 0.

``e(x) = E[x]`` where ``x < num_rows``, else ``E[0]``, for ids numbered by descending training
frequency (id 0 is the shared one); otherwise ``e(x) = E[remap[x]]`` with an integer array over the
vocabulary, whose bytes count. Bags pool exactly. Cost: ``4 * num_rows * D`` bytes, and
``8 * n`` bytes where a remap is needed.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import (
    Assignments,
    Method,
    NoOptions,
    SizingTask,
    register_method,
)
from compactrec.embeddings.rewrites import IdMap, KeepFrequent, LookUp
from compactrec.embeddings.sizing import largest

__all__ = ["RareConfig", "lower_rare"]


class RareConfig(MethodConfig):
    """A table of ``num_rows`` rows; row 0 serves every id that has none of its own."""

    method: ClassVar[str] = "rare"

    num_rows: int = Field(ge=1)
    """Rows of the table, the shared row 0 included."""
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
    id_map: IdMap = KeepFrequent(config.num_rows)
    if config.remap is not None:
        if config.remap not in arrays or arrays[config.remap].numel() != num_ids:
            raise ValueError(f"rare: the plan has no array {config.remap!r} of {num_ids} entries")
        id_map = LookUp(arrays[config.remap])
    init = config.init or dlrm_init(config.num_rows)
    block = Block(table_name(features, "id"), config.num_rows, features[0].dim, init)
    return packed(features, "id", [block], maps=lambda _: id_map)


def _from_budget(task: SizingTask) -> Assignments:
    """Keep the most frequent ids over all features; ties in the order of features and ids."""
    if task.counts is None:
        raise ValueError("rare: training frequencies (counts) are needed to know the rare ids")
    ordered = {f.name: _by_frequency(np.asarray(task.counts[f.name])) for f in task.features}
    counts = np.concatenate([ordered[f.name][1][1:] for f in task.features])
    owner = np.concatenate(
        [np.full(len(ordered[f.name][1]) - 1, i) for i, f in enumerate(task.features)]
    )
    ranked = owner[np.argsort(-counts, kind="stable")]
    remaps = {name: order for name, (order, _) in ordered.items() if order is not None}

    def assign(kept: int) -> Assignments:
        rows = 1 + np.bincount(ranked[:kept], minlength=len(task.features))
        groups, arrays = [], {}
        for feature, num_rows in zip(task.features, rows.tolist(), strict=True):
            remap = None
            if feature.name in remaps:
                remap = f"{feature.name}__remap"
                arrays[remap] = _remap(remaps[feature.name], num_rows)
            groups.append(((feature,), RareConfig(num_rows=num_rows, remap=remap)))
        return Assignments(tuple(groups), arrays)

    return largest(assign, 0, len(ranked), task.budget_bytes, "rare")


def _by_frequency(counts: Any) -> tuple[Any, Any]:
    """``(order, sorted counts)``; ``order`` is None where ids 1, 2, ... are sorted already."""
    if np.all(np.diff(counts[1:]) <= 0):
        return None, counts
    order = 1 + np.argsort(-counts[1:], kind="stable")
    order = np.concatenate([[0], order])
    return order, counts[order]


def _remap(order: Any, num_rows: int) -> torch.Tensor:
    remap = np.zeros(len(order), dtype=np.int64)
    remap[order[:num_rows]] = np.arange(num_rows)
    return torch.from_numpy(remap)


register_method(
    Method(
        config=RareConfig,
        lower=lower_rare,
        from_budget=_from_budget,
        options=NoOptions,
        title="Rare-id filter",
        paper="-",
        formula="e(x) = E[x] if x is frequent, else E[0]",
        baseline=True,
    )
)
