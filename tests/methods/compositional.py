"""Cases of compositional embeddings."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.compositional import CompositionalConfig as Config
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import compositional

__all__ = ["METHOD"]

YEARS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
TYPES = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def digits_of(config: Config, num_ids: int) -> compositional.Digits:
    """Buckets of an id by the family's own definition."""
    if config.family == "quotient_remainder":
        modulus = config.moduli[0]
        return lambda x: (x % modulus, x // modulus)
    if config.family == "mixed_radix":
        return compositional.mixed_radix(config.moduli, num_ids)
    if config.family == "chinese_remainder":
        return compositional.chinese_remainder(config.moduli, num_ids)
    return compositional.metadata(list(zip(YEARS, TYPES, strict=True)))


def functions(dense: Mapping[str, Tensor], step: int) -> list[tuple[Tensor, ...]]:
    """The stacked functions of one step of a path, one tuple each."""
    names = ("weight_in", "bias_in", "weight_out", "bias_out")
    stacked = [dense[f"steps.{step}.{name}"] for name in names]
    return list(zip(*stacked, strict=True))


def widths(config: Config, dim: int) -> list[int]:
    """Width of each table: D, or for concat 4 ceil(D / 4k) or so, the wider ones first."""
    k = len(config.moduli)
    if config.operation != "concat":
        return [dim] * k
    share, more = divmod(dim // 4, k)
    return [4 * (share + (j < more)) for j in range(k)]


def reference(
    config: Config,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """Join the rows W_j[p_j(x)]; the path reads the many-bucket partition as rows."""
    first = features[0]
    assert first.num_ids is not None
    digits = digits_of(config, first.num_ids)
    order = list(range(len(config.moduli)))
    if config.operation == "path":
        order.sort(key=lambda j: -config.moduli[j])
    tables = [
        weights.tables[f"t_{first.name}__p{place}"][:, :width]
        for place, width in enumerate(widths(config, first.dim))
    ]

    def ordered(x: int) -> tuple[int, ...]:
        buckets = digits(x)
        return tuple(buckets[j] for j in order)

    def one(feature: Feature) -> dict[str, Embed]:
        if config.operation == "feature":

            def factor(j: int) -> Embed:
                return lambda x: tables[j][ordered(x)[j]]

            return {f"{feature.name}__{j}": factor(j) for j in order}
        if config.operation == "path":
            dense = weights.dense[feature.name]
            layers = [functions(dense, step) for step in range(len(order) - 1)]
            return {feature.name: lambda x: compositional.path(x, tables[0], layers, ordered)}
        return {feature.name: lambda x: compositional.embed(x, tables, ordered, config.operation)}

    return {key: embed for f in features for key, embed in one(f).items()}


RADIX = (7, 5, 3)

METHOD = MethodCases(
    "compositional",
    reference,
    (
        case(
            "compositional_product",
            ([Feature(name="ca", num_ids=7, dim=4)], Config(moduli=(3, 3))),
            (
                [Feature(name="cb", num_ids=40_000_000, dim=4, max_bag=4, pooling="mean")],
                Config(moduli=(6400, 6250)),
            ),
            ([Feature(name="cc", num_ids=100, dim=12, max_bag=3)], Config(moduli=(4, 25))),
            ([Feature(name="cd", num_ids=100, dim=6, max_bag=2)], Config(moduli=(25, 4))),
        ),
        case(
            "compositional_radix",
            (
                [
                    Feature(name="ca", num_ids=105, dim=4, max_bag=3),
                    Feature(name="cb", num_ids=105, dim=4),
                ],
                Config(moduli=RADIX, family="mixed_radix"),
            ),
            (
                [Feature(name="cc", num_ids=3_000_000_000, dim=8, max_bag=3, pooling="mean")],
                Config(moduli=(40, 39, 41, 38, 37, 34), family="mixed_radix", operation="sum"),
            ),
            (
                [Feature(name="cd", num_ids=100, dim=2, max_bag=2)],
                Config(moduli=(10, 10), family="mixed_radix", operation="sum"),
            ),
        ),
        case(
            "compositional_concat",
            (
                [Feature(name="ca", num_ids=2**32, dim=20, max_bag=2)],
                Config(moduli=(256, 257, 255, 259), family="chinese_remainder", operation="concat"),
            ),
            (
                [Feature(name="cb", num_ids=10, dim=8)],
                Config(
                    moduli=(4, 3),
                    family="metadata",
                    partitions=("year", "type"),
                    operation="concat",
                ),
            ),
            (
                [Feature(name="cc", num_ids=10, dim=4, max_bag=3)],
                Config(moduli=(4, 3), family="metadata", partitions=("year", "type")),
            ),
            arrays={"year": YEARS, "type": TYPES},
        ),
        case(
            "compositional_feature",
            (
                [Feature(name="ca", num_ids=30, dim=4, max_bag=2)],
                Config(moduli=(6, 5), operation="feature"),
            ),
            (
                [Feature(name="cb", num_ids=60, dim=8, pooling="mean", max_bag=3)],
                Config(moduli=(5, 4, 3), family="mixed_radix", operation="feature"),
            ),
            ([Feature(name="cc", num_ids=7, dim=12)], Config(moduli=(3, 3), operation="sum")),
        ),
        case(
            "compositional_path",
            (
                [Feature(name="ca", num_ids=30, dim=4, max_bag=3)],
                Config(moduli=(3, 10), operation="path", hidden_dim=5),
            ),
            (
                [Feature(name="cb", num_ids=60, dim=8)],
                Config(moduli=(15, 2, 3), family="mixed_radix", operation="path", hidden_dim=3),
            ),
            (
                [Feature(name="cc", num_ids=40_000, dim=4, max_bag=2, pooling="mean")],
                Config(moduli=(8000, 5), operation="path", hidden_dim=2),
            ),
        ),
    ),
)
