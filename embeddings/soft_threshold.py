"""Learned soft thresholds (PEP: Liu et al., ICLR 2021, arXiv 2101.07577), while a search runs.

``e(x) = sign(E[x]) * relu(|E[x]| - sigmoid(s))`` with ``E (n, D)`` and a learned ``s``: one number
per id and column (``id_dim``), per id (``id``), per column (``dim``) or one alone (``feature``).
What ends at zero is pruned; a search reads that off and makes a plan.

``s`` is a second slot: row ``x`` of a table beside ``E``, so a step costs what its batch looks up,
``O(B * D)``, where the published code thresholds the whole table, ``O(n * D)``. A threshold does
not commute with pooling, nor with the weight of an id: ids come one by one, and a third slot, a
fixed one-hot row, carries the weight. For ``id`` that row also says which of four numbers in a
row of ``s`` is the id's, so that a number costs four bytes.

Cost: ``4 * n * D`` bytes, and for ``s`` as many again (``id_dim``), ``4 * n`` (``id``), ``4 * D``
or 16, with D as the next multiple of 4. An empty bag gives zeros.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from compactrec.embeddings.combines import Combine
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, Table, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init
from compactrec.embeddings.packing import factor_output, factor_stream, padded
from compactrec.embeddings.registry import Method, NoOptions, register_method
from compactrec.embeddings.rewrites import Digit, Identity, IdMap

__all__ = ["Granularity", "SoftThreshold", "SoftThresholdConfig", "lower_soft_threshold", "shrink"]

Granularity = Literal["id_dim", "id", "dim", "feature"]


class SoftThresholdConfig(MethodConfig):
    """A full table and its thresholds; features of one group share both."""

    method: ClassVar[str] = "soft_threshold"

    granularity: Granularity = "id_dim"
    """What has an ``s`` of its own: a value, an id, a column, or all of the table one."""
    start: float = -15.0
    """``s`` before training. At -15 the threshold is 3e-7. Below about -88 a float32 sigmoid and
    its gradient are exactly 0, and nothing but weight decay can move ``s``."""
    init: Init | None = None
    """Initial weights of E; None is U(+-sqrt(1/n))."""


def shrink(values: Tensor, s: Tensor) -> Tensor:
    """``sign(v) * relu(|v| - sigmoid(s))``; shapes broadcast."""
    return values.sign() * torch.relu(values.abs() - s.sigmoid())


class SoftThreshold(Combine):
    """Slots: values ``(N, D)``, a row of ``s`` ``(N, D)``, ``(N, 1)`` or ``(N, 4)``, a one-hot row.

    The one-hot row ``(N, 1)`` or ``(N, 4)`` is scaled by the weight of the id; with four entries it
    also picks one of the four in the row of ``s``. It is detached, so it is never trained.
    """

    linear = False

    def forward(self, slots: list[Tensor]) -> Tensor:
        values, s, lane = slots[0], slots[1], slots[2].detach()
        if lane.shape[-1] > 1:
            s = (s * (lane != 0)).sum(-1, keepdim=True)
        return shrink(values, s) * lane.sum(-1, keepdim=True)


def lower_soft_threshold(
    config: SoftThresholdConfig, features: tuple[Feature, ...], arrays: Arrays
) -> Lowered:
    """Three tables for the group: values, thresholds, and the one-hot rows that carry weights."""
    num_ids = require_vocabulary(config.method, features, same=True)
    dim = features[0].dim
    per_id = config.granularity == "id"
    rows, width = {
        "id_dim": (num_ids, dim), "id": (-(-num_ids // 4), 4), "dim": (1, dim), "feature": (1, 1),
    }[config.granularity]  # fmt: skip
    lanes = 4 if per_id else 1
    of_s: IdMap = Identity() if config.granularity == "id_dim" else Digit(lanes, rows)
    maps = {"id": Identity(), "s": of_s, "lane": Digit(1, lanes)}
    dims = {"id": dim, "s": width, "lane": lanes}
    names = {part: table_name(features, part) for part in maps}
    init = config.init or dlrm_init(num_ids)
    start = Init(kind="constant", low=config.start)
    tables = (
        Table(names["id"], num_ids, padded(dim), init),
        Table(names["s"], rows, padded(width), start),
        Table(names["lane"], lanes, padded(lanes), Init(kind="identity")),
    )
    streams, outputs = [], []
    for feature in features:
        own = [
            factor_stream(
                feature,
                part,
                names[part],
                id_map,
                slot=slot,
                linear=False,
                weighted=part == "lane",
            )
            for slot, (part, id_map) in enumerate(maps.items())
        ]
        streams += own
        outputs.append(factor_output(feature, own, list(dims.values()), SoftThreshold()))
    return Lowered(tuple(streams), tables, tuple(outputs))


register_method(
    Method(
        config=SoftThresholdConfig,
        lower=lower_soft_threshold,
        from_budget=None,
        options=NoOptions,
        title="Learned soft thresholds",
        paper="Liu et al., ICLR 2021, arXiv 2101.07577",
        formula="e(x) = sign(E[x]) relu(|E[x]| - sigmoid(s))",
        supernet=True,
    )
)
