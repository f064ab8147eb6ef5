"""Gates on blocks of like frequency: what DNIS trains while it searches. Never served.

``e(x) = alpha_g(x) * E[x]``, element by element, with ``E (n, D)`` and one *soft selection* vector
per block, ``alpha (L, D)``, which starts at one. Ids in order of frequency are cut into blocks;
each block is pooled by itself and multiplied once, so bags are exact. With ``normalize`` a gate is
``D * alpha_g / sum(alpha_g)``. Cost: ``4 * (n * D + L * D)`` bytes, and ``8 * n`` for a remap.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compactrec.embeddings.combines import Combine, sum_of
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import (
    Arrays,
    Lowered,
    require_array,
    require_vocabulary,
    table_name,
)
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.init import Init, dlrm_init
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import Method, NoOptions, register_method
from compactrec.embeddings.rewrites import Identity, IdMap, LookUp

__all__ = ["Gate", "GatedConfig", "lower_gated"]


class GatedConfig(MethodConfig):
    """Blocks of a full-width table, each behind a gate."""

    method: ClassVar[str] = "gated"

    rows: tuple[int, ...] = Field(min_length=1)
    """Rows of each block, most frequent first, summing to num_ids. A block may be empty: its gate
    is there all the same, so that features whose gates are shared have gates of one shape."""
    remap: str | None = None
    """Name of the plan's array id -> rank; None where ids are numbered by frequency."""
    normalize: bool = False
    """Divide a gate by its sum and multiply it by its width."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n)), n the feature's vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(n < 0 for n in self.rows):
            raise ValueError(f"a block cannot have fewer than 0 rows, got {self.rows}")
        return self


class Gate(Combine):
    """``sum_b alpha_b * v_b`` over the blocks that have rows.

    Args:
        blocks: the block of every slot, out of ``num_blocks``.
        dim: the width D of all vectors.
        normalize: use ``D * alpha_b / sum(alpha_b)``; a gate that is all zeros stays zero.
    """

    def __init__(self, blocks: Sequence[int], num_blocks: int, dim: int, normalize: bool) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.normalize = normalize
        self.alpha = nn.Parameter(torch.ones(num_blocks, dim))

    def reset_parameters(self) -> None:
        """All ones."""
        if not self.alpha.is_meta:
            nn.init.ones_(self.alpha)

    def gates(self) -> Tensor:
        """``(L, D)``: what the vectors of each block are multiplied with."""
        if not self.normalize:
            return self.alpha
        total = self.alpha.sum(1, keepdim=True)
        return self.alpha * (self.alpha.shape[1] / torch.where(total == 0, 1.0, total))

    def forward(self, slots: list[Tensor]) -> Tensor:
        gates = self.gates()
        return sum_of(slot * gates[b] for slot, b in zip(slots, self.blocks, strict=True))

    @classmethod
    def forward_many(cls, combines: Sequence[Combine], slots: list[Tensor]) -> Tensor:
        each = [c for c in combines if isinstance(c, Gate)]
        gates = torch.stack([c.gates()[list(c.blocks)] for c in each], dim=1)  # (slots, n, D)
        return sum_of(slot * gate for slot, gate in zip(slots, gates.unbind(0), strict=True))


def lower_gated(config: GatedConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table per block that has rows, full width, and a gate per feature."""
    num_ids = require_vocabulary(config.method, features, same=True)
    if sum(config.rows) != num_ids:
        raise ValueError(
            f"gated: the blocks of feature {features[0].name!r} hold {sum(config.rows)} rows but "
            f"it has {num_ids} ids; give every id to one block"
        )
    id_map: IdMap = Identity()
    if config.remap is not None:
        ranks = require_array(
            config.method, arrays, config.remap, features[0], num_ids, unique=True
        )
        id_map = LookUp(ranks)
    init = config.init or dlrm_init(num_ids)
    used = [b for b, n in enumerate(config.rows) if n]
    blocks = [
        Block(table_name(features, f"b{b}"), config.rows[b], features[0].dim, init) for b in used
    ]
    return packed(
        features,
        "b",
        blocks,
        maps=lambda _: id_map,
        combines=lambda f: Gate(used, len(config.rows), f.dim, config.normalize),
    )


register_method(
    Method(
        config=GatedConfig,
        lower=lower_gated,
        from_budget=None,
        options=NoOptions,
        title="Gated blocks",
        paper="Cheng, Shen, Huang, 2020 (DNIS)",
        formula="e(x) = alpha_g(x) * E[x]",
        supernet=True,
    )
)
