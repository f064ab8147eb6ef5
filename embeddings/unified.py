"""Unified embedding / feature multiplexing (Coleman et al., NeurIPS 2023, arXiv 2305.12102).

One table ``E (M, d)`` serves all features of the group. Feature ``t`` makes ``c_t = D_t / d``
lookups, each with a hash of its own: ``e_t(x) = concat_j E[h(x; salt(t, j), M)]``. Salts come from
the feature's *name* and the chunk, so adding or reordering features moves no row. Ids may be any
non-negative int64 (strings through ``hash_strings``); no vocabulary is needed. Linear: chunks are
pooled and concatenated. Cost: ``4 * num_tables * M * d`` bytes, whatever the number of features.
"""

from math import gcd
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from compactrec.embeddings.combines import Concat
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, Output, Slot, Table
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.hashing import name_salt
from compactrec.embeddings.init import Init, first_init
from compactrec.embeddings.packing import padded
from compactrec.embeddings.registry import Assignments, Method, SizingTask, register_method
from compactrec.embeddings.rewrites import SaltedHash, Stream
from compactrec.embeddings.sizing import largest

__all__ = ["UnifiedConfig", "lower_unified"]


class UnifiedConfig(MethodConfig):
    """One table (or several equal ones) shared by every feature of the group."""

    method: ClassVar[str] = "unified"

    num_rows: int = Field(ge=1)
    """Rows M of each table."""
    dim: int = Field(ge=1)
    """Chunk width d; every feature's width must be a multiple of it. Stored as a multiple of 4."""
    num_tables: int = Field(default=1, ge=1)
    """Equal tables for load balance: chunk j of a feature reads table ``(first + j) mod this``."""
    seed: int = 0
    """Changes all salts."""
    init: Init | None = None
    """Initial weights; None is U(-0.05, 0.05), since M says nothing about how often a row is
    read."""


def lower_unified(config: UnifiedConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """The shared tables, a salted hash per chunk, and a concatenation per feature."""
    init = config.init or first_init(features, Init(kind="uniform", scale=0.05))
    tables = tuple(
        Table(f"t_unified__{features[0].name}_{i}", config.num_rows, padded(config.dim), init)
        for i in range(config.num_tables)
    )
    streams, outputs = [], []
    for feature in features:
        if feature.dim % config.dim:
            raise ValueError(
                f"unified: the width of feature {feature.name!r} must be a multiple of the chunk "
                f"width {config.dim}, got {feature.dim}; choose another chunk width"
            )
        slots = []
        for chunk in range(feature.dim // config.dim):
            part = part_key(feature.name, f"c{chunk}")
            salt = name_salt(part, seed=config.seed)
            table = tables[_table_of(feature.name, chunk, config.num_tables)]
            id_map = SaltedHash(salt, config.num_rows)
            streams.append(Stream(feature.name, (part,), (table.name,), id_map))
            slots.append(Slot((part,), config.dim))
        output = Output(feature.name, feature.name, feature.dim, (tuple(slots),), Concat())
        outputs.append(output)
    return Lowered(tuple(streams), _used(tables, streams), tuple(outputs))


def _table_of(name: str, chunk: int, num_tables: int) -> int:
    """From the name, not from a running counter: adding a feature moves no other feature."""
    return (name_salt(name) + chunk) % num_tables


def _used(tables: tuple[Table, ...], streams: list[Stream]) -> tuple[Table, ...]:
    read = {name for stream in streams for name in stream.tables}
    unread = [table.name for table in tables if table.name not in read]
    if unread:
        raise ValueError(
            f"unified: {len(unread)} of {len(tables)} tables would be read by no chunk; choose "
            f"a smaller num_tables"
        )
    return tables


class UnifiedOptions(BaseModel):
    """What a person may choose at a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int | None = Field(default=None, ge=1)
    """Chunk width; None is the largest that divides every feature's width."""
    num_tables: int = Field(default=1, ge=1)
    seed: int = 0


def _from_budget(task: SizingTask) -> Assignments:
    """All bytes into the shared rows; never more rows than ids times chunks, if that is known."""
    o: UnifiedOptions = task.options
    dim = o.dim or gcd(*(f.dim for f in task.features))

    def assign(num_rows: int) -> Assignments:
        config = UnifiedConfig(num_rows=num_rows, dim=dim, num_tables=o.num_tables, seed=o.seed)
        return Assignments(((task.features, config),), {})

    most = max(1, task.budget_bytes // (4 * padded(dim) * o.num_tables))
    if all(f.num_ids is not None for f in task.features):
        # One row per id and chunk would do without any sharing.
        most = min(most, sum((f.num_ids or 0) * (f.dim // dim) for f in task.features))
    return largest(assign, 1, most, task.budget_bytes)


register_method(
    Method(
        config=UnifiedConfig,
        lower=lower_unified,
        from_budget=_from_budget,
        options=UnifiedOptions,
        title="Unified embedding (feature multiplexing)",
        paper="Coleman et al., NeurIPS 2023, arXiv 2305.12102",
        formula="e_t(x) = concat_j E[h(x; salt(t, j), M)],  one E (M, d) for all features",
    )
)
