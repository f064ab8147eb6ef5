"""Compositional embeddings from complementary partitions (Shi et al., KDD 2020, arXiv 1909.02107).

``e(x) = combine(W_1[p_1(x)], ..., W_k[p_k(x)])`` where the tuple ``(p_1, ..., p_k)`` is different
for every id. Families: *quotient_remainder* ``(x mod m, x div m)``; *mixed_radix* digits;
*chinese_remainder* ``x mod m_j``, pairwise coprime; *metadata*, given attributes of the ids.
Operations: *product*, *sum*, *concat*, *feature* (the k vectors go to the model as k features
``<name>__0``, ``<name>__1``, ...), *path* (the first row through functions that the other digits
choose). Products and paths do not commute with pooling: bags are combined id by id, weights enter
once. Cost: ``4 * sum_j m_j * d_j`` bytes, and the functions of *path*.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.embeddings.combines import Combine, Concat, Paths, Product, Select, Sum
from compactrec.embeddings.compositional_sizing import BigTable, Sized, least_rows, row_moduli
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import (
    Arrays,
    Lowered,
    Output,
    Slot,
    Table,
    require_array,
    require_vocabulary,
    table_name,
)
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.packing import factor_output, factor_stream, padded
from compactrec.embeddings.registry import Assignments, Method, SizingTask, register_method
from compactrec.embeddings.rewrites import Digit, IdMap, LookUp
from compactrec.embeddings.sizing import (
    assignment_bytes,
    full_bytes,
    largest,
    proportional_rows,
)

__all__ = ["CompositionalConfig", "lower_compositional"]


class CompositionalConfig(MethodConfig):
    """Complementary partitions of one vocabulary and how their rows are combined."""

    method: ClassVar[str] = "compositional"

    moduli: tuple[int, ...] = Field(min_length=1)
    """Rows of each table. quotient_remainder: ``(m, ceil(n / m))``, m the modulus."""
    family: Literal["quotient_remainder", "mixed_radix", "chinese_remainder", "metadata"] = (
        "quotient_remainder"
    )
    """How an id becomes one bucket per table."""
    operation: Literal["product", "sum", "concat", "feature", "path"] = "product"
    """How the rows become a vector."""
    partitions: tuple[str, ...] = ()
    """metadata: names of the plan's arrays id -> bucket, one per table."""
    hidden_dim: int = Field(default=64, ge=1)
    """path: hidden width h of each function."""
    init: Init | None = None
    """Initial weights; None gives the combined vector the variance 1/(3n) of DLRM's tables."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(m < 1 for m in self.moduli):
            raise ValueError(f"moduli must be at least 1, got {self.moduli}")
        if self.family == "quotient_remainder" and len(self.moduli) != 2:
            raise ValueError(f"quotient_remainder needs two moduli, got {self.moduli}")
        if self.family == "chinese_remainder" and not _coprime(self.moduli):
            raise ValueError(f"chinese_remainder needs pairwise coprime moduli, got {self.moduli}")
        if (self.family == "metadata") != bool(self.partitions):
            raise ValueError("partitions belong to the metadata family, and it needs them")
        if self.partitions and len(self.partitions) != len(self.moduli):
            raise ValueError(
                f"{len(self.partitions)} partitions and {len(self.moduli)} moduli were given; "
                f"they go in pairs"
            )
        return self


def lower_compositional(
    config: CompositionalConfig, features: tuple[Feature, ...], arrays: Arrays
) -> Lowered:
    """One table per partition, shared by the group."""
    num_ids = require_vocabulary(config.method, features, same=True)
    maps = _maps(config, num_ids, arrays, features[0])
    rows = list(config.moduli)
    if config.operation == "path":  # the many-bucket partition reads rows, the others functions
        order = sorted(range(len(rows)), key=lambda j: -rows[j])
        rows, maps = [rows[j] for j in order], [maps[j] for j in order]
    dims = _dims(config, rows, features[0])
    init = config.init or _init(config, first_init(features, dlrm_init(num_ids)))
    tables = tuple(
        Table(table_name(features, f"p{j}"), count, padded(dim), _one_hot(config, j) or init)
        for j, (count, dim) in enumerate(zip(rows, dims, strict=True))
    )
    streams, outputs = [], []
    for feature in features:
        linear = config.operation in ("sum", "concat", "feature")
        # A weight enters a non-linear combine once: with one factor, or behind the last function.
        carrier = len(maps) - 1 if config.operation == "path" else 0
        own = [
            factor_stream(
                feature,
                f"p{j}",
                tables[j].name,
                id_map,
                slot=j,
                linear=linear,
                weighted=linear or j == carrier,
            )
            for j, id_map in enumerate(maps)
        ]
        streams += own
        if config.operation == "feature":
            for j, stream in enumerate(own):
                slot = Slot(stream.parts, feature.dim)
                key = f"{feature.name}__{j}"
                outputs.append(Output(key, feature.name, feature.dim, ((slot,),), Select()))
        else:
            outputs.append(factor_output(feature, own, dims, _combine(config, rows, dims)))
    return Lowered(tuple(streams), tables, tuple(outputs))


def _combine(config: CompositionalConfig, rows: list[int], dims: list[int]) -> Combine:
    if config.operation == "product":
        return Product()
    if config.operation == "sum":
        return Sum()
    if config.operation == "concat":
        return Concat()
    return Paths(rows[1:], dims[0], config.hidden_dim)


def _dims(config: CompositionalConfig, rows: list[int], feature: Feature) -> list[int]:
    """Logical width of each table."""
    if config.operation == "path":
        return [feature.dim, *rows[1:]]
    if config.operation != "concat":
        return [feature.dim] * len(rows)
    units, over = divmod(feature.dim, 4)
    if over or units < len(rows):
        raise ValueError(
            f"compositional: concat over {len(rows)} tables needs a width that is a multiple of 4 "
            f"and at least {4 * len(rows)}, but feature {feature.name!r} has {feature.dim}"
        )
    share, more = divmod(units, len(rows))
    return [4 * (share + (j < more)) for j in range(len(rows))]


def _maps(
    config: CompositionalConfig, num_ids: int, arrays: Arrays, feature: Feature
) -> list[IdMap]:
    if config.family == "metadata":
        return _metadata_maps(config, num_ids, arrays, feature)
    if math.prod(config.moduli) < num_ids:
        raise ValueError(
            f"compositional: {config.family} with moduli {config.moduli} tells "
            f"{math.prod(config.moduli):,} ids apart, but feature {feature.name!r} has "
            f"{num_ids:,}; raise a modulus"
        )
    if config.family == "chinese_remainder":
        return [Digit(1, modulus) for modulus in config.moduli]
    divisors = [math.prod(config.moduli[:j]) for j in range(len(config.moduli))]
    return [Digit(d, m) for d, m in zip(divisors, config.moduli, strict=True)]


def _metadata_maps(
    config: CompositionalConfig, num_ids: int, arrays: Arrays, feature: Feature
) -> list[IdMap]:
    buckets = [
        require_array(config.method, arrays, partition, feature, modulus)
        for partition, modulus in zip(config.partitions, config.moduli, strict=True)
    ]
    if not buckets[0].is_meta:
        distinct = torch.stack(buckets).unique(dim=1).shape[1]
        if distinct < num_ids:
            raise ValueError(
                f"compositional: the partitions of feature {feature.name!r} are not complementary: "
                f"{num_ids} ids have only {distinct} different tuples"
            )
    return [LookUp(array) for array in buckets]


def _one_hot(config: CompositionalConfig, table: int) -> Init | None:
    """path: the tables that choose a function are fixed one-hot rows."""
    return Init(kind="identity") if config.operation == "path" and table > 0 else None


def _init(config: CompositionalConfig, whole: Init) -> Init:
    """Zero-mean factors whose combination has the variance of ``whole``."""
    k, unit = len(config.moduli), whole.scale / whole.std
    scale = whole.scale
    if config.operation == "product":
        scale = unit * whole.std ** (1.0 / k)
    elif config.operation == "sum":
        scale = whole.scale / math.sqrt(k)
    return whole.model_copy(update={"scale": scale})


def _coprime(moduli: Sequence[int]) -> bool:
    return all(math.gcd(a, b) == 1 for i, a in enumerate(moduli) for b in moduli[i + 1 :])


class CompositionalOptions(BaseModel):
    """What a person may choose at a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Sized = "quotient_remainder"
    operation: Literal["product", "sum", "concat", "feature", "path"] = "product"
    big_table: BigTable = "remainder"
    """Whether ids that share a row of the big table are far apart or neighbours."""
    num_factors: int = Field(default=2, ge=2, le=8)
    """Tables per feature (2 for quotient_remainder)."""
    hidden_dim: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.family == "quotient_remainder" and self.num_factors != 2:
            raise ValueError("quotient_remainder has two factors; use mixed_radix for more")
        if self.operation == "path" and self.num_factors != 2:
            raise ValueError("a plan at a budget sizes path for two factors only")
        return self

    def least_rows(self, num_ids: int, dim: int) -> int:
        """Rows of the big table where the bytes are smallest; they grow from there on."""
        if self.operation != "path":
            return least_rows(num_ids, self.num_factors)
        per_function = 2 * dim * self.hidden_dim + self.hidden_dim + dim
        return min(num_ids, math.ceil(math.sqrt(num_ids * per_function / dim)))


def _from_budget(task: SizingTask) -> Assignments:
    """Big tables in proportion to vocabularies; features that would not shrink stay full."""
    o: CompositionalOptions = task.options

    def config(feature: Feature, num_ids: int, big_rows: int) -> MethodConfig:
        moduli = row_moduli(num_ids, big_rows, o.num_factors, o.family, o.big_table)
        if moduli is None:
            return FullConfig()
        found = CompositionalConfig(
            moduli=moduli, family=o.family, operation=o.operation, hidden_dim=o.hidden_dim
        )
        alone = Assignments((((feature,), found),), {})
        return found if assignment_bytes(alone) < full_bytes(feature) else FullConfig()

    vocabularies = [require_vocabulary("compositional", (f,)) for f in task.features]

    def assign(total_rows: int) -> Assignments:
        rows = proportional_rows(vocabularies, total_rows)
        least = [o.least_rows(n, f.dim) for n, f in zip(vocabularies, task.features, strict=True)]
        configs = [
            config(f, n, max(m, low))
            for f, n, m, low in zip(task.features, vocabularies, rows, least, strict=True)
        ]
        pairs = zip(task.features, configs, strict=True)
        return Assignments(tuple(((f,), c) for f, c in pairs), {})

    return largest(assign, 1, sum(vocabularies), task.budget_bytes)


register_method(
    Method(
        config=CompositionalConfig,
        lower=lower_compositional,
        from_budget=_from_budget,
        options=CompositionalOptions,
        title="Compositional embeddings (quotient-remainder and friends)",
        paper="Shi et al., KDD 2020, arXiv 1909.02107",
        formula="e(x) = W_1[p_1(x)] * ... * W_k[p_k(x)],  complementary p_j",
    )
)
