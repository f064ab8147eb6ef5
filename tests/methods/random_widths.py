"""Cases of random widths."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.random_widths import RandomConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import random_widths

__all__ = ["METHOD"]


def reference(
    config: RandomConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """Tables are the group's, projections the feature's own."""
    first = features[0]
    assert first.num_ids is not None
    sizes = [("id", first.num_ids, config.dim)]
    if config.wider_ids:
        sizes = [
            ("b0", config.wider_ids, config.dim + 1),
            ("b1", first.num_ids - config.wider_ids, config.dim),
        ]
    tables = [unpacked(weights, f"t_{first.name}__{part}", n, d) for part, n, d in sizes]

    def embed(feature: Feature) -> Embed:
        projections: list[Tensor | None] = []
        for _, _, d in sizes:
            used = sum(p is not None for p in projections)
            narrow = d < feature.dim
            projections.append(weights.dense[feature.name][f"weights.{used}"] if narrow else None)
        return lambda x: random_widths.embed(x, tables, projections)

    return {f.name: embed(f) for f in features}


METHOD = MethodCases(
    "random",
    reference,
    (
        case(
            "random",
            ([Feature(name="na", num_ids=7, dim=4)], RandomConfig(dim=1)),
            (
                [Feature(name="nb", num_ids=50, dim=8, max_bag=4, pooling="mean")],
                RandomConfig(dim=5),
            ),
            ([Feature(name="nc", num_ids=41, dim=12, max_bag=2)], RandomConfig(dim=12)),
            ([Feature(name="nd", num_ids=90, dim=8)], RandomConfig(dim=6)),
        ),
        case(
            "random_wider_ids",
            ([Feature(name="na", num_ids=7, dim=4)], RandomConfig(dim=3, wider_ids=2)),
            (
                [
                    Feature(name="nb", num_ids=50, dim=8, max_bag=4),
                    Feature(name="nc", num_ids=50, dim=8),
                ],
                RandomConfig(dim=2, wider_ids=17),
            ),
            (
                [Feature(name="nd", num_ids=23, dim=12, max_bag=3)],
                RandomConfig(dim=7, wider_ids=22),
            ),
        ),
    ),
)
