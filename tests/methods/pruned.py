"""Cases of pruned rows and columns."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.pruned import PrunedConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import pruned
from tests.reference.bitmap import bitmap, ones

__all__ = ["METHOD"]

KEPT = {
    "pa__kept": [0, 3, 4, 7, 9, 10],
    "pd__kept": [1, 2, 63, 64, 65, 66, 130, 255, 256, 299],
    "pe__kept": [0, 1, 2, 5, 8],
}
NUM_IDS = {"pa__kept": 11, "pd__kept": 300, "pe__kept": 9}
ROW_OF = [0, -1, 4, 6, 3, -1, 1, 7, 2, 5, -1, 8]


def arrays(*names: str) -> dict[str, Tensor]:
    """Bitmaps of the lists of kept ids."""
    return {
        name: torch.tensor(
            bitmap([int(x in KEPT[name]) for x in range(NUM_IDS[name])]), dtype=torch.uint8
        )
        for name in names
    }


def reference(
    config: PrunedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = S_b E_b[row of x], zeros where x has no row."""
    first = features[0]
    assert first.num_ids is not None
    alone = len(config.rows) == 1 and sum(config.rows) == first.num_ids and not config.remap
    tables: list[object] = []
    for b, (n, columns) in enumerate(zip(config.rows, config.columns, strict=True)):
        name = f"t_{first.name}__b" if alone and not config.kept else f"t_{first.name}__b{b}"
        tables.append(unpacked(weights, name, n, len(columns)) if columns else [()] * n)

    kept = None
    if config.kept is not None:
        kept = KEPT.get(config.kept) or ones(arrays[config.kept].tolist(), first.num_ids)
    row_of = None if config.remap is None else arrays[config.remap].tolist()

    def row(x: int) -> int | None:
        if kept is not None:
            return pruned.rank(x, kept)
        if row_of is not None:
            return row_of[x] if row_of[x] >= 0 else None
        return x

    def embed(x: int) -> Tensor:
        zeros = torch.zeros(first.dim, dtype=torch.float64)
        vector: Tensor = pruned.embed(row(x), tables, config.columns, zeros)
        return vector

    return {f.name: embed for f in features}


METHOD = MethodCases(
    "pruned",
    reference,
    (
        case(
            "pruned",
            (
                [Feature(name="pa", num_ids=11, dim=8, max_bag=4)],
                PrunedConfig(rows=(6,), columns=((0, 1, 2),), kept="pa__kept"),
            ),
            (
                [Feature(name="pb", num_ids=3_000_000_000, dim=8, max_bag=3, pooling="mean")],
                PrunedConfig(rows=(9, 16), columns=(tuple(range(8)), (1, 6))),
            ),
            (
                [Feature(name="pc", num_ids=41, dim=12)],
                PrunedConfig(rows=(41,), columns=((2, 3, 7, 11),)),
            ),
            (
                [
                    Feature(name="pd", num_ids=300, dim=4, max_bag=2),
                    Feature(name="pe", num_ids=300, dim=4),
                ],
                PrunedConfig(rows=(10,), columns=((0, 1, 2, 3),), kept="pd__kept"),
            ),
            arrays=arrays("pa__kept", "pd__kept"),
        ),
        case(
            "pruned_blocks",
            (
                [Feature(name="pa", num_ids=12, dim=6, max_bag=4)],
                PrunedConfig(rows=(3, 4, 2), columns=((0, 2, 3, 4), (), (1, 5)), remap="pa__rows"),
            ),
            (
                [Feature(name="pb", num_ids=50, dim=8, max_bag=3)],
                PrunedConfig(rows=(50,), columns=(tuple(range(8)),)),
            ),
            (  # every id is dropped
                [
                    Feature(name="pc", num_ids=20, dim=12, max_bag=2, pooling="mean"),
                    Feature(name="pd", num_ids=20, dim=12),
                ],
                PrunedConfig(),
            ),
            (
                [Feature(name="pe", num_ids=9, dim=6, max_bag=2)],
                PrunedConfig(rows=(2, 3), columns=((0, 1, 5), (0, 1, 4)), kept="pe__kept"),
            ),
            (
                [Feature(name="pf", num_ids=40_000_000, dim=2, max_bag=2, pooling="mean")],
                PrunedConfig(rows=(7,), columns=((1,),)),
            ),
            arrays={"pa__rows": torch.tensor(ROW_OF, dtype=torch.int32), **arrays("pe__kept")},
        ),
    ),
)
