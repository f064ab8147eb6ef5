"""Cases of the rare-id filter."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.rare import RareConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import rare

__all__ = ["METHOD"]

COUNTS = [0, 5, 1, 9, 2, 9, 0, 3, 7, 1, 1]
KEPT = rare.kept_ids(COUNTS, num_rows=5)


def reference(
    config: RareConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = E[row of x]; without a remap the kept ids are 1 .. M - 1."""
    first = features[0]
    table = unpacked(weights, f"t_{first.name}__id", config.num_rows, first.dim)
    if config.remap is None and config.shared == "last":
        last = config.num_rows - 1
        return {f.name: lambda x: table[x] if x < last else table[last] for f in features}
    kept = KEPT if config.remap is not None else list(range(1, config.num_rows))
    return {f.name: lambda x: rare.embed(x, table, kept) for f in features}


METHOD = MethodCases(
    "rare",
    reference,
    (
        case(
            "rare",
            ([Feature(name="ra", num_ids=7, dim=4)], RareConfig(num_rows=3)),
            (
                [Feature(name="rb", num_ids=3_000_000_000, dim=8, max_bag=4, pooling="mean")],
                RareConfig(num_rows=20),
            ),
            ([Feature(name="rc", num_ids=40_000_000, dim=2, max_bag=3)], RareConfig(num_rows=9)),
        ),
        case(
            "rare_from_zero",
            (
                [Feature(name="ra", num_ids=3_000_000_000, dim=8, max_bag=4, pooling="mean")],
                RareConfig(num_rows=9, shared="last"),
            ),
            ([Feature(name="rb", num_ids=6, dim=4)], RareConfig(num_rows=3, shared="last")),
            ([Feature(name="rc", num_ids=40, dim=2, max_bag=3)], RareConfig(num_rows=5)),
        ),
        case(
            "rare_remap",
            (
                [Feature(name="ra", num_ids=len(COUNTS), dim=4, max_bag=2)],
                RareConfig(num_rows=5, remap="ra__remap"),
            ),
            ([Feature(name="rb", num_ids=50, dim=12)], RareConfig(num_rows=50)),
            (
                [
                    Feature(name="rc", num_ids=len(COUNTS), dim=8),
                    Feature(name="rd", num_ids=len(COUNTS), dim=8, max_bag=3),
                ],
                RareConfig(num_rows=5, remap="ra__remap"),
            ),
            arrays={"ra__remap": [rare.row(x, KEPT) for x in range(len(COUNTS))]},
        ),
    ),
)
