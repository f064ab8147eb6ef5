"""Cases of single values."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.sparse import SparseConfig
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import sparse
from tests.reference.bitmap import bitmap, ones

__all__ = ["METHOD"]

Mask = list[list[int]]


def drawn(num_ids: int, dim: int, share: float, seed: int, *, columns: Sequence[int] = ()) -> Mask:
    """Random values kept; none in `columns`, and none of every fifth id but the first."""
    rng = random.Random(seed)
    return [
        [int(rng.random() < share and c not in columns and x % 5 != 3) for c in range(dim)]
        for x in range(num_ids)
    ]


MASKS = {
    "sa__mask": drawn(11, 8, 0.4, 1),
    "sb__mask": drawn(300, 8, 0.1, 2, columns=(0, 5)),
    "sc__mask": [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]],
    "sd__mask": drawn(70, 5, 0.5, 4),
}
"""Over all ids, except for sc, which is over its first ones."""


def config(name: str) -> tuple[SparseConfig, dict[str, Tensor]]:
    """The layout of a mask, bit by bit."""
    mask, feature = MASKS[name], name.split("__")[0]
    values = tuple(sum(row[c] for row in mask) for c in range(len(mask[0])))
    kept = [int(any(row)) for row in mask]
    rows = [row for row in mask if any(row)]
    bits = [bitmap([row[c] for row in rows]) for c, count in enumerate(values) if count]
    arrays = {name: torch.tensor([byte for each in bits for byte in each], dtype=torch.uint8)}
    if all(kept):
        return SparseConfig(values=values, rows=len(rows), mask=name), arrays
    arrays[f"{feature}__kept"] = torch.tensor(bitmap(kept), dtype=torch.uint8)
    return (
        SparseConfig(values=values, rows=len(rows), kept=f"{feature}__kept", mask=name),
        arrays,
    )


def decoded(config: SparseConfig, arrays: Mapping[str, Tensor], num_ids: int) -> Mask:
    """The mask over all ids that a plan's bitmaps hold."""
    assert config.mask is not None
    kept = list(range(config.rows))
    if config.kept is not None:
        kept = ones(arrays[config.kept].tolist(), num_ids)
    mask = [[0] * len(config.values) for _ in range(max(kept) + 1)]
    stored, each = arrays[config.mask].tolist(), -(-config.rows // 8)
    for i, c in enumerate(c for c, n in enumerate(config.values) if n):
        for row in ones(stored[i * each : (i + 1) * each], config.rows):
            mask[kept[row]][c] = 1
    return mask


def reference(
    config: SparseConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x)_c = v[q(x, c)] where the mask has a value."""
    first = features[0]
    mask: Mask = []
    if config.mask is not None:
        mask = MASKS.get(config.mask) or decoded(config, arrays, first.num_ids or 0)

    def embed(x: int) -> Tensor:
        zeros = torch.zeros(first.dim, dtype=torch.float64)
        if x >= len(mask):
            return zeros
        stored = weights.tables[f"t_{first.name}__values"]
        vector: Tensor = sparse.embed(mask, x, stored, zeros)
        return vector

    return {f.name: embed for f in features}


A, B, C, D = (config(name) for name in MASKS)

METHOD = MethodCases(
    "sparse",
    reference,
    (
        case(
            "sparse",
            ([Feature(name="sa", num_ids=11, dim=8, max_bag=4)], A[0]),
            (
                [
                    Feature(name="sb", num_ids=300, dim=8, max_bag=3, pooling="mean"),
                    Feature(name="se", num_ids=300, dim=8),
                ],
                B[0],
            ),
            ([Feature(name="sc", num_ids=3_000_000_000, dim=4, max_bag=3)], C[0]),
            arrays={**A[1], **B[1], **C[1]},
        ),
        case(
            "sparse_uneven",
            ([Feature(name="sd", num_ids=70, dim=5, max_bag=2, pooling="mean")], D[0]),
            ([Feature(name="sc", num_ids=40_000_000, dim=4, max_bag=3)], C[0]),
            (  # nothing is kept
                [
                    Feature(name="sf", num_ids=20, dim=12, max_bag=2),
                    Feature(name="sg", num_ids=20, dim=12),
                ],
                SparseConfig(values=(0,) * 12, rows=0),
            ),
            ([Feature(name="sa", num_ids=11, dim=8)], A[0]),
            arrays={**A[1], **C[1], **D[1]},
        ),
    ),
)
