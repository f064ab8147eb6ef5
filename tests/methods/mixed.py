"""Cases of mixed dimensions."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.mixed import MixedConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import mixed

__all__ = ["METHOD"]

FREQ = [4, 1, 30, 0, 8, 8, 2, 50, 1, 0, 3]
ENDS, REMAP = mixed.equipartition(FREQ, 3)
ROWS = tuple(b - a for a, b in zip([0, *ENDS[:-1]], ENDS, strict=True))


def reference(
    config: MixedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = E_b[x - t_b] P_b; tables are the group's, projections the feature's own."""
    first = features[0]
    assert first.num_ids is not None
    rows = config.rows or (first.num_ids,)
    names = ["id"] if len(rows) == 1 else [f"b{i}" for i in range(len(rows))]
    tables = [
        unpacked(weights, f"t_{first.name}__{part}", n, d)
        for part, n, d in zip(names, rows, config.dims, strict=True)
    ]
    remap = None if config.remap is None else REMAP

    def embed(feature: Feature) -> Embed:
        projections: list[Tensor | None] = []
        for d in config.dims:
            used = sum(p is not None for p in projections)
            narrow = d < feature.dim
            projections.append(weights.dense[feature.name][f"weights.{used}"] if narrow else None)
        return lambda x: mixed.embed(x if remap is None else remap[x], tables, projections)

    return {f.name: embed(f) for f in features}


METHOD = MethodCases(
    "mixed",
    reference,
    (
        case(
            "mixed_fields",
            ([Feature(name="ma", num_ids=7, dim=8)], MixedConfig(dims=(8,))),
            ([Feature(name="mb", num_ids=50, dim=8, max_bag=4)], MixedConfig(dims=(3,))),
            (
                [Feature(name="mc", num_ids=90, dim=8, max_bag=3, pooling="mean")],
                MixedConfig(dims=(1,)),
            ),
            ([Feature(name="md", num_ids=41, dim=12)], MixedConfig(dims=(2,))),
            ([Feature(name="me", num_ids=30, dim=12, max_bag=2)], MixedConfig(dims=(6,))),
        ),
        case(
            "mixed_blocks",
            (
                [Feature(name="ma", num_ids=len(FREQ), dim=8, max_bag=4)],
                MixedConfig(dims=(8, 3, 1)[: len(ROWS)], rows=ROWS, remap="ma__rank"),
            ),
            (
                [Feature(name="mb", num_ids=50, dim=4, max_bag=3, pooling="mean")],
                MixedConfig(dims=(4, 4, 2, 1), rows=(2, 7, 15, 26)),
            ),
            (
                [Feature(name="mc", num_ids=20, dim=12), Feature(name="md", num_ids=20, dim=12)],
                MixedConfig(dims=(4, 6), rows=(5, 15)),
            ),
            arrays={"ma__rank": REMAP},
        ),
    ),
)
