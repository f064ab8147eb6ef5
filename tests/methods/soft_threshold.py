"""Cases of learned soft thresholds."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.init import Init
from compactrec.embeddings.soft_threshold import SoftThresholdConfig as Config
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import soft_threshold

__all__ = ["METHOD"]


def reference(
    config: Config,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """Values and thresholds are the group's; the first D columns count."""
    first = features[0]
    table, thresholds = (weights.tables[f"t_{first.name}__{part}"] for part in ("id", "s"))
    grain, dim = config.granularity, first.dim
    return {
        f.name: lambda x: soft_threshold.embed(x, table, thresholds, grain, dim) for f in features
    }


METHOD = MethodCases(
    "soft_threshold",
    reference,
    (
        case(
            "soft_threshold",
            ([Feature(name="wa", num_ids=7, dim=4)], Config(init=Init(scale=2.0))),
            (
                [Feature(name="wb", num_ids=50, dim=6, max_bag=4, pooling="mean")],
                Config(start=-2.5),
            ),
            (
                [
                    Feature(name="wc", num_ids=90, dim=8, max_bag=3),
                    Feature(name="wd", num_ids=90, dim=8),
                ],
                Config(start=-150.0),
            ),
            ([Feature(name="we", num_ids=41, dim=1, max_bag=2)], Config()),
        ),
        case(
            "soft_threshold_grains",
            ([Feature(name="wa", num_ids=7, dim=4)], Config(granularity="dim")),
            ([Feature(name="wb", num_ids=50, dim=6, max_bag=4)], Config(granularity="id")),
            ([Feature(name="wc", num_ids=33, dim=8)], Config(granularity="id")),
            (
                [Feature(name="wd", num_ids=23, dim=12, max_bag=3, pooling="mean")],
                Config(granularity="feature"),
            ),
        ),
    ),
)
