"""Cases of the full table."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.full import FullConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import full

__all__ = ["METHOD"]


def reference(
    config: FullConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = E[x], the table shared by the group."""
    first = features[0]
    assert first.num_ids is not None
    table = unpacked(weights, f"t_{first.name}__id", first.num_ids, first.dim)
    return {f.name: lambda x: full.embed(x, table) for f in features}


METHOD = MethodCases(
    "full",
    reference,
    (
        case(
            "full",
            ([Feature(name="fa", num_ids=7, dim=4)], FullConfig()),
            ([Feature(name="fb", num_ids=50, dim=8, max_bag=4, pooling="mean")], FullConfig()),
            ([Feature(name="fc", num_ids=23, dim=12, max_bag=3)], FullConfig()),
        ),
        case(
            "full_narrow",
            ([Feature(name="fa", num_ids=7, dim=1, max_bag=2)], FullConfig()),
            ([Feature(name="fb", num_ids=50, dim=2, max_bag=4)], FullConfig()),
            ([Feature(name="fc", num_ids=22, dim=3, max_bag=3, pooling="mean")], FullConfig()),
            ([Feature(name="fd", num_ids=9, dim=6)], FullConfig()),
        ),
        case(
            "full_shared",
            ([Feature(name="fa", num_ids=31, dim=4)], FullConfig()),
            (
                [
                    Feature(name="fb", num_ids=50, dim=8, max_bag=4, pooling="mean"),
                    Feature(name="fc", num_ids=50, dim=8, max_bag=2),
                ],
                FullConfig(),
            ),
        ),
    ),
)
