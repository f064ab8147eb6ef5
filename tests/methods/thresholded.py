"""Cases of rows behind a learned threshold."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.thresholded import ThresholdedConfig
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import thresholded

__all__ = ["METHOD"]


def reference(
    config: ThresholdedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """S(||E[x]|| - t_f) E[x]: the table is the group's, the threshold the feature's."""
    table = weights.tables[f"t_{features[0].name}__id"]

    def embed(feature: Feature) -> Embed:
        threshold = weights.dense[feature.name]["threshold"]
        return lambda x: thresholded.embed(x, table, feature.dim, threshold, config.norm)

    return {f.name: embed(f) for f in features}


METHOD = MethodCases(
    "thresholded",
    reference,
    (
        case(
            "thresholded",
            ([Feature(name="ta", num_ids=40, dim=4)], ThresholdedConfig(norm=2)),
            (
                [Feature(name="tb", num_ids=50, dim=8, max_bag=4, pooling="mean")],
                ThresholdedConfig(norm=2),
            ),
            ([Feature(name="tc", num_ids=23, dim=3, max_bag=3)], ThresholdedConfig()),
            ([Feature(name="td", num_ids=90, dim=2)], ThresholdedConfig()),
        ),
        case(
            "thresholded_shared",
            (
                [
                    Feature(name="ta", num_ids=31, dim=4, max_bag=2),
                    Feature(name="tb", num_ids=31, dim=4, max_bag=5),
                ],
                ThresholdedConfig(norm=2),
            ),
            (
                [Feature(name="tc", num_ids=50, dim=2, max_bag=3, pooling="mean")],
                ThresholdedConfig(),
            ),
            ([Feature(name="td", num_ids=60, dim=3)], ThresholdedConfig(norm=1)),
        ),
    ),
)
