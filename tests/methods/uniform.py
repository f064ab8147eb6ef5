"""Cases of the smaller uniform width."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.uniform import UniformConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import uniform

__all__ = ["METHOD"]


def reference(
    config: UniformConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = E[x] P; the table is the group's, P is the feature's own."""
    first = features[0]
    assert first.num_ids is not None
    sizes = [(f"t_{first.name}__id", first.num_ids, config.dim)]
    if config.wider_ids:
        rows = (config.wider_ids, first.num_ids - config.wider_ids)
        dims = (config.dim + 1, config.dim)
        sizes = [(f"t_{first.name}__b{i}", rows[i], dims[i]) for i in range(2)]
    tables = [unpacked(weights, *size) for size in sizes]

    def embed(feature: Feature) -> Embed:
        narrow = [dim < feature.dim for _, _, dim in sizes]
        dense = weights.dense.get(feature.name, {})
        projections = [
            dense[f"weights.{sum(narrow[:i])}"] if narrow[i] else None for i in range(len(sizes))
        ]
        if len(tables) == 1:
            return lambda x: uniform.embed(x, tables[0], projections[0])
        return lambda x: uniform.wider_first(
            x, (tables[0], tables[1]), (projections[0], projections[1])
        )

    return {f.name: embed(f) for f in features}


METHOD = MethodCases(
    "uniform",
    reference,
    (
        case(
            "uniform",
            ([Feature(name="ua", num_ids=7, dim=4)], UniformConfig(dim=2)),
            ([Feature(name="ub", num_ids=50, dim=8, max_bag=4)], UniformConfig(dim=3)),
            (
                [Feature(name="uc", num_ids=23, dim=12, max_bag=3, pooling="mean")],
                UniformConfig(dim=12),
            ),
            ([Feature(name="ud", num_ids=90, dim=8)], UniformConfig(dim=1)),
        ),
        case(
            "uniform_wider_ids",
            ([Feature(name="ua", num_ids=7, dim=4)], UniformConfig(dim=3, wider_ids=2)),
            (
                [
                    Feature(name="ub", num_ids=50, dim=8, max_bag=4, pooling="mean"),
                    Feature(name="uc", num_ids=50, dim=8, max_bag=2),
                ],
                UniformConfig(dim=1, wider_ids=17),
            ),
            (
                [Feature(name="ud", num_ids=23, dim=12, max_bag=3)],
                UniformConfig(dim=4, wider_ids=22),
            ),
        ),
        case(
            "uniform_shared",
            ([Feature(name="ua", num_ids=31, dim=4)], UniformConfig(dim=4)),
            (
                [
                    Feature(name="ub", num_ids=50, dim=8, max_bag=4, pooling="mean"),
                    Feature(name="uc", num_ids=50, dim=8, max_bag=2),
                ],
                UniformConfig(dim=4),
            ),
        ),
    ),
)
