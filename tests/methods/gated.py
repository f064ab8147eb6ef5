"""Cases of gated blocks."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.gated import GatedConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import gated

__all__ = ["METHOD"]

COUNTS = [4, 1, 30, 0, 8, 8, 2, 50, 1, 0, 3]
RANK = [gated.rank(x, COUNTS) for x in range(len(COUNTS))]


def reference(
    config: GatedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = alpha_g(x) * E[rank of x]; tables are the group's, gates the feature's own."""
    first = features[0]
    used = [b for b, n in enumerate(config.rows) if n]
    tables = [
        unpacked(weights, f"t_{first.name}__b{b}", config.rows[b], first.dim) if b in used else []
        for b in range(len(config.rows))
    ]

    def of(feature: Feature) -> Embed:
        alpha = weights.dense[feature.name]["alpha"]
        places = None if config.remap is None else RANK
        return lambda x: gated.embed(
            x if places is None else places[x], tables, alpha, config.rows, config.normalize
        )

    return {f.name: of(f) for f in features}


METHOD = MethodCases(
    "gated",
    reference,
    (
        case(
            "gated",
            ([Feature(name="ga", num_ids=7, dim=4)], GatedConfig(rows=(1, 2, 4))),
            (
                [Feature(name="gb", num_ids=len(COUNTS), dim=8, max_bag=4, pooling="mean")],
                GatedConfig(rows=(0, 3, 0, 6, 2), remap="gb__rank"),
            ),
            ([Feature(name="gc", num_ids=50, dim=6, max_bag=3)], GatedConfig(rows=(13, 0, 37))),
            ([Feature(name="gd", num_ids=9, dim=4)], GatedConfig(rows=(9,))),
            arrays={"gb__rank": RANK},
        ),
        case(
            "gated_shared",
            (
                [
                    Feature(name="gc", num_ids=len(COUNTS), dim=4, max_bag=3),
                    Feature(name="ga", num_ids=len(COUNTS), dim=4),
                ],
                GatedConfig(rows=(4, 7), remap="gc__rank", normalize=True),
            ),
            (
                [Feature(name="gb", num_ids=20, dim=3, max_bag=2)],
                GatedConfig(rows=(5, 0, 15)),
            ),
            ([Feature(name="gd", num_ids=30, dim=12)], GatedConfig(rows=(9, 21), normalize=True)),
            arrays={"gc__rank": RANK},
        ),
    ),
)
