"""Cases of the unified embedding."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.unified import UnifiedConfig
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import unified
from tests.reference.hashing import mix, name_seed

__all__ = ["METHOD"]


def first_table(name: str, num_tables: int) -> int:
    """Table of a feature's chunk 0: its name's salt, as a signed integer, mod the tables."""
    salt = mix(name_seed(name))
    return (salt - 2**64 if salt >= 2**63 else salt) % num_tables


def reference(
    config: UnifiedConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """e_t(x) = concat_j E_{g(t, j)}[h(x; seed(t, j), M)]; only d columns of a table count."""
    tables = [
        weights.tables[f"t_unified__{features[0].name}_{i}"][:, : config.dim]
        for i in range(config.num_tables)
    ]

    def embed(feature: Feature) -> Embed:
        chunks = range(feature.dim // config.dim)
        seeds = [name_seed(f"{feature.name}__c{j}", config.seed) for j in chunks]
        start = first_table(feature.name, config.num_tables)
        table_of_chunk = [(start + j) % config.num_tables for j in chunks]
        return lambda x: unified.embed(x, tables, seeds, table_of_chunk)

    return {f.name: embed(f) for f in features}


METHOD = MethodCases(
    "unified",
    reference,
    (
        case(
            "unified",
            (
                [
                    Feature(name="va", num_ids=7, dim=4),
                    Feature(name="vb", dim=8, max_bag=4, pooling="mean"),
                    Feature(name="vc", num_ids=3_000_000_000, dim=12, max_bag=3),
                ],
                UnifiedConfig(num_rows=17, dim=4),
            ),
        ),
        case(
            "unified_tables",
            (
                [
                    Feature(name="va", num_ids=7, dim=6, max_bag=2),
                    Feature(name="vb", dim=9),
                    Feature(name="vc", num_ids=40_000_000, dim=36, max_bag=3),
                ],
                UnifiedConfig(num_rows=8, dim=3, num_tables=3, seed=4),
            ),
            ([Feature(name="vd", dim=8)], UnifiedConfig(num_rows=6, dim=8)),
        ),
    ),
)
