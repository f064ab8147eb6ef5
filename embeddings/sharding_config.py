"""How the tables of a model are spread over processes: a frozen value, free of torchrec."""

from __future__ import annotations

import re
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compactrec.embeddings.patterns import check_pattern

__all__ = ["ShardKind", "Sharding", "TableSharding"]

ShardKind = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "data_parallel"]
"""Whole on one rank; rows or columns over all ranks; rows over the ranks of one machine; a copy on
every rank. A table with too few rows for each of those ranks is put whole on one of them."""


class TableSharding(BaseModel):
    """How one table is spread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ShardKind
    place: int | None = Field(default=None, ge=0)
    """``table_wise``: the rank; ``table_row_wise``: the machine. None takes the least loaded."""
    kernel: Literal["fused", "fused_uvm", "fused_uvm_caching"] = "fused"
    """Where the rows of a GPU run are: in its memory; in the host's; in the host's with a cache of
    ``cache_load_factor`` of them on the GPU."""
    cache_load_factor: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.place is not None and self.kind not in ("table_wise", "table_row_wise"):
            raise ValueError(
                f"place {self.place} says where a table_wise or table_row_wise table goes, but "
                f"kind is {self.kind!r}, which is on every rank; leave place out"
            )
        if self.kernel != "fused" and self.kind == "data_parallel":
            raise ValueError(
                f"a data_parallel table has dense gradients and cannot use kernel {self.kernel!r}; "
                f"shard the table, or leave kernel out"
            )
        if self.cache_load_factor is not None and self.kernel != "fused_uvm_caching":
            raise ValueError(
                f"cache_load_factor {self.cache_load_factor:g} is for kernel 'fused_uvm_caching', "
                f"got {self.kernel!r}; set the kernel, or leave cache_load_factor out"
            )
        return self


class Sharding(BaseModel):
    """Which table is spread how: the first pattern that matches its whole name, or the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: TableSharding | Literal["planner"] = "planner"
    """``planner``: torchrec's planner chooses by its estimates of time and memory."""
    tables: dict[str, TableSharding] = {}
    """Regular expression over table names -> sharding. In a file also just the kind."""
    rank_memory_bytes: int | None = Field(default=None, ge=1)
    """Most bytes of weights, gradients and optimizer state on one rank; more is refused."""
    memory_gb_per_second: float = Field(default=10.0, gt=0)
    """Rate of random reads and writes of rows, for estimates of time."""
    network_gb_per_second: float = Field(default=1.25, gt=0)
    """Rate between ranks, for estimates of time."""

    @field_validator("default", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        if not isinstance(value, str) or value == "planner":
            return value
        if value not in get_args(ShardKind):
            kinds = ", ".join(map(repr, get_args(ShardKind)))
            raise ValueError(f"must be 'planner' or one of the kinds {kinds}")
        return {"kind": value}

    @field_validator("tables", mode="before")
    @classmethod
    def _table_kinds(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for pattern in value:
            check_pattern(pattern, "table", "t_C1__.*")
        return {k: {"kind": v} if isinstance(v, str) else v for k, v in value.items()}

    def of(self, table: str) -> TableSharding | None:
        """What ``table`` gets; None where the planner chooses."""
        for pattern, chosen in self.tables.items():
            if re.fullmatch(pattern, table):
                return chosen
        return self.default if isinstance(self.default, TableSharding) else None
