"""Rows that are there only where they are large enough: the row gate of OptEmbed.

Lyu et al., CIKM 2022 (arXiv 2208.04482). ``e(x) = S(||E[x]||_p - t_f) * E[x]`` with ``E (n, D)``,
one learned threshold ``t_f`` a feature (0 at the start) and ``S(u) = 1 if u > 0 else 0``, so a row
exactly at its threshold is pruned. ``S`` has no useful derivative; the backward pass takes a
long-tailed one, with ``a = |u|``:

    S'(u) = 2 - 4 a  for a <= 0.4,   0.4  for 0.4 < a <= 1,   0  beyond

so the gradient reaches ``t_f`` (as ``-S'``) and, besides the plain path, the row through its norm.

For a search, never served: what it finds is derived to smaller tables. Not linear: ids of a bag
are gated one by one, then pooled; give ``max_bag``. The weight of an id scales the vector, not the
norm that is compared: it comes on a fixed one-hot row of its own. Stored rows are as wide as the
next multiple of 4. Cost: ``4 * n * (D rounded up) + 16`` bytes for the group and 4 a feature.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compactrec.embeddings.combines import Combine
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import (
    Arrays,
    Lowered,
    Table,
    require_vocabulary,
    table_name,
)
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init
from compactrec.embeddings.packing import factor_output, factor_stream, padded
from compactrec.embeddings.registry import Method, NoOptions, register_method
from compactrec.embeddings.rewrites import Digit, Identity

__all__ = ["Thresholded", "ThresholdedConfig", "lower_thresholded", "step"]

Norm = Literal[1, 2]


class ThresholdedConfig(MethodConfig):
    """A full table whose rows count only above a learned norm, one threshold a feature."""

    method: ClassVar[str] = "thresholded"

    norm: Norm = 1
    """p of the norm that is compared."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n))."""


def step(u: Tensor) -> Tensor:
    """``S(u)``: 1 where ``u > 0``, else 0, with the long-tailed derivative (see above)."""
    hard = (u > 0).to(u.dtype)
    if not u.requires_grad:
        return hard
    inner = u.clamp(-0.4, 0.4)
    soft = 2 * inner - 2 * inner * inner.abs() + 0.4 * (u.clamp(-1, 1) - inner)
    return hard + (soft - soft.detach())


class Thresholded(Combine):
    """``w * S(||v|| - t) * v`` for a row ``v`` and a one-hot row with the id's weight ``w``.

    Args:
        norm: p of the norm, 1 or 2.
    """

    linear = False
    surrogate = True

    def __init__(self, norm: Norm = 1) -> None:
        super().__init__()
        self.norm = norm
        self.threshold = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """A threshold starts at 0."""
        if not self.threshold.is_meta:
            nn.init.zeros_(self.threshold)

    def forward(self, slots: list[Tensor]) -> Tensor:
        return _gated(slots, self.norm, self.threshold)

    @classmethod
    def forward_many(cls, combines: Sequence[Combine], slots: list[Tensor]) -> Tensor:
        gates = [c for c in combines if isinstance(c, Thresholded)]
        norms = {gate.norm for gate in gates}
        if len(norms) == 1:
            return _gated(slots, norms.pop(), torch.stack([gate.threshold for gate in gates]))
        each = [gate([slot[:, i] for slot in slots]) for i, gate in enumerate(gates)]
        return torch.stack(each, dim=1)


def _gated(slots: list[Tensor], norm: Norm, thresholds: Tensor) -> Tensor:
    row, weight = slots
    size = torch.linalg.vector_norm(row, ord=norm, dim=-1, keepdim=True)
    return weight.detach() * step(size - thresholds) * row


def lower_thresholded(
    config: ThresholdedConfig, features: tuple[Feature, ...], arrays: Arrays
) -> Lowered:
    """A table and a one-hot row for the group, a threshold for each feature."""
    num_ids = require_vocabulary(config.method, features, same=True)
    dim = features[0].dim
    rows = Table(
        table_name(features, "id"), num_ids, padded(dim), config.init or dlrm_init(num_ids)
    )
    one = Table(table_name(features, "weight"), 1, 4, Init(kind="identity"))
    streams, outputs = [], []
    for feature in features:
        row = factor_stream(
            feature, "id", rows.name, Identity(), slot=0, linear=False, weighted=False
        )
        weight = factor_stream(
            feature, "weight", one.name, Digit(1, 1), slot=1, linear=False, weighted=True
        )
        streams += [row, weight]
        outputs.append(factor_output(feature, (row, weight), (dim, 1), Thresholded(config.norm)))
    return Lowered(tuple(streams), (rows, one), tuple(outputs))


register_method(
    Method(
        config=ThresholdedConfig,
        lower=lower_thresholded,
        from_budget=None,
        options=NoOptions,
        title="Rows above a learned norm (while OptEmbed searches)",
        paper="Lyu et al., CIKM 2022, arXiv 2208.04482",
        formula="e(x) = S(||E[x]|| - t) E[x],  S(u) = 1 if u > 0 else 0",
        supernet=True,
    )
)
