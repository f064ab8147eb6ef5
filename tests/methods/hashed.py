"""Cases of the hashing trick."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.hashed import HashConfig
from tests.methods.base import Embed, MethodCases, Weights, case, unpacked
from tests.reference import hashed
from tests.reference.hashing import name_seed

__all__ = ["METHOD"]


def reference(
    config: HashConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e(x) = xi(x) E[h(x)]; the seeds come from the name of the group's first feature."""
    first = features[0]
    table = unpacked(weights, f"t_{first.name}__id", config.num_rows, first.dim)
    seed = name_seed(first.name, config.seed)
    sign_seed = name_seed(f"{first.name}__sign", config.seed) if config.sign else None
    return {
        f.name: lambda x: hashed.embed(x, table, config.hash, seed, sign_seed) for f in features
    }


METHOD = MethodCases(
    "hash",
    reference,
    (
        case(
            "hash",
            ([Feature(name="ha", num_ids=7, dim=4)], HashConfig(num_rows=3)),
            (
                [Feature(name="hb", num_ids=3_000_000_000, dim=8, max_bag=4, pooling="mean")],
                HashConfig(num_rows=20, seed=5),
            ),
            ([Feature(name="hc", dim=12, max_bag=3)], HashConfig(num_rows=11)),
        ),
        case(
            "hash_mod_narrow",
            (
                [Feature(name="ha", num_ids=40_000_000, dim=2, max_bag=3)],
                HashConfig(num_rows=13, hash="mod"),
            ),
            ([Feature(name="hb", dim=6)], HashConfig(num_rows=20)),
            ([Feature(name="hc", dim=4, max_bag=2)], HashConfig(num_rows=11, hash="mod")),
        ),
        case(
            "hash_sign_shared",
            (
                [
                    Feature(name="ha", num_ids=40, dim=4, max_bag=3),
                    Feature(name="hb", dim=4, pooling="mean"),
                ],
                HashConfig(num_rows=13, sign=True),
            ),
            ([Feature(name="hc", dim=8, max_bag=2)], HashConfig(num_rows=9, sign=True, hash="mod")),
            ([Feature(name="hd", num_ids=5, dim=3)], HashConfig(num_rows=5)),
        ),
    ),
)
