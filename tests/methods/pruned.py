"""Cases of pruned rows and columns."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.pruned import PrunedConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import pruned

__all__ = ["METHOD"]

KEPT = (0, 3, 4, 9, 10, 19)
ROWS = (-1, 4, 0, -1, 2, 5, -1, 1, 3, -1, -1)


def bitmap(kept: Sequence[int], num_ids: int) -> list[int]:
    """Bit x of byte x div 8."""
    found = [0] * -(-num_ids // 8)
    for x in kept:
        found[x // 8] |= 1 << (x % 8)
    return found


def reference(
    config: PrunedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """Columns of the block of x's row in their places; zeros elsewhere and for dropped ids."""
    first = features[0]
    assert first.num_ids is not None
    drops = sum(config.rows) < first.num_ids or config.kept or config.remap
    many = len(config.rows) > 1 or drops
    tables = [
        unpacked(weights, f"t_{first.name}__b{i}" if many else f"t_{first.name}__b", n, len(c))
        if c
        else [()] * n
        for i, (n, c) in enumerate(zip(config.rows, config.columns, strict=True))
    ]

    def row(x: int) -> int | None:
        if config.kept is not None:
            return pruned.rank(x, KEPT)
        if config.remap is not None:
            return None if ROWS[x] < 0 else ROWS[x]
        return x if x < sum(config.rows) else None

    def embed(x: int) -> Tensor:
        zeros = [torch.zeros((), dtype=torch.float64)] * first.dim
        return torch.stack(pruned.embed(row(x), tables, config.columns, zeros))

    return {f.name: embed for f in features}


METHOD = MethodCases(
    "pruned",
    reference,
    (
        case(
            "pruned_rows",
            (
                [Feature(name="pa", num_ids=20, dim=8, max_bag=4)],
                PrunedConfig(rows=(6,), columns=((0, 1, 2),), kept="pa__kept"),
            ),
            (
                [Feature(name="pb", num_ids=3_000_000_000, dim=8, max_bag=3, pooling="mean")],
                PrunedConfig(rows=(9,), columns=((0, 1, 2, 3),)),
            ),
            ([Feature(name="pc", num_ids=7, dim=4)], PrunedConfig(rows=(7,), columns=((0,),))),
            ([Feature(name="pd", num_ids=50, dim=12, max_bag=2)], PrunedConfig()),
            (
                [
                    Feature(name="pe", num_ids=20, dim=4, max_bag=2),
                    Feature(name="pf", num_ids=20, dim=4),
                ],
                PrunedConfig(rows=(6,), columns=((0, 1, 2, 3),), kept="pa__kept"),
            ),
            arrays={"pa__kept": bitmap(KEPT, 20)},
            dtypes={"pa__kept": torch.uint8},
        ),
        case(
            "pruned_blocks",
            (
                [Feature(name="pa", num_ids=len(ROWS), dim=8, max_bag=4)],
                PrunedConfig(rows=(2, 3, 1), columns=((0, 2, 3, 5, 7), (1,), (2, 6)), remap="pa_r"),
            ),
            (
                [Feature(name="pb", num_ids=60, dim=4, max_bag=3, pooling="mean")],
                PrunedConfig(rows=(5, 9, 20), columns=((0, 1, 2, 3), (), (3,))),
            ),
            (
                [Feature(name="pc", num_ids=20, dim=12)],
                PrunedConfig(rows=(2, 4), columns=((1, 4, 11), (0, 5, 6, 7)), kept="pc__kept"),
            ),
            arrays={"pa_r": list(ROWS), "pc__kept": bitmap(KEPT, 20)},
            dtypes={"pa_r": torch.int32, "pc__kept": torch.uint8},
        ),
    ),
)
