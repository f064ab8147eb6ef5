"""What a sharding costs each rank, on paper: bytes and time of a step. Nothing is allocated.

Bytes are those of weights, of the optimizer's state and, of replicated tables, of gradients.

Time of a step of ``B`` examples on n ranks, at full bags, for a shard of ``d`` columns that holds a
share ``s`` of the rows: ``B s`` rows for each part are read, read again and written, ``12 B s d``
bytes at the rate of memory; ids (8 bytes) come from the other ranks, vectors go back and gradients
return, ``(8 s + 8 d) B (n - 1) / n`` bytes at the rate of the network. A replicated table is
written whole and its gradient summed over ranks. The dense part is not in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torchrec.distributed.types import EmbeddingModuleShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.plan import AnyPlan
from compactrec.embeddings.sharding_bytes import Ranks, shards_of, state_bytes
from compactrec.embeddings.sharding_config import Sharding
from compactrec.embeddings.sharding_plan import check_patterns, plan_tables

__all__ = ["RankCost", "add_bytes", "check_fits", "estimate"]


@dataclass
class RankCost:
    """One rank's share."""

    rank: int
    weight_bytes: int = 0
    optimizer_bytes: int = 0
    gradient_bytes: int = 0
    seconds: float = 0.0
    num_shards: int = 0
    largest: str = ""
    """The table that takes most of it."""
    largest_bytes: int = 0
    largest_kind: str = ""
    """How that table is sharded, in torchrec's words."""
    replicated_bytes: int = 0
    """Of ``num_bytes``, those of tables that every rank has a copy of."""

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.optimizer_bytes + self.gradient_bytes


def estimate(
    plan: AnyPlan,
    sharding: Sharding,
    ranks: Ranks,
    optimizer: str,
    batch_size: int,
    *,
    is_weighted: bool = False,
) -> list[RankCost]:
    """The cost of every rank, for a batch of all ranks together.

    ``is_weighted``: as the collection; torchrec's planner may place weighted bags elsewhere.
    """
    costs = [RankCost(rank) for rank in range(ranks.num)]
    collections = [
        CompressedEmbeddingBagCollection(part, is_weighted=is_weighted, device=torch.device("meta"))
        for part in plan.plans
    ]
    check_patterns(sharding, [t.name for c in collections for t in c.physical_tables])
    for collection in collections:
        if collection.physical_tables:
            _add(costs, collection, sharding, ranks, optimizer, batch_size)
    return costs


def check_fits(costs: list[RankCost], rank_memory_bytes: int | None) -> None:
    """Raise ``ValueError``, with what is too large and the way out, where a rank has too little."""
    worst = max(costs, key=lambda cost: cost.num_bytes)
    if rank_memory_bytes is None or worst.num_bytes <= rank_memory_bytes:
        return
    raise ValueError(
        f"rank {worst.rank} needs {worst.num_bytes:,} bytes and has {rank_memory_bytes:,}; its "
        f"largest part is {worst.largest_bytes:,} bytes of table {worst.largest!r}; "
        f"{_way_out(worst, costs, rank_memory_bytes)}, or take a smaller budget"
    )


def _way_out(worst: RankCost, costs: list[RankCost], rank_memory_bytes: int) -> str:
    """What makes it fit. More ranks share what is sharded; each one has all that is replicated."""
    if worst.largest_kind == "data_parallel":
        return "that table is replicated, which more ranks do not change: shard it"
    if worst.replicated_bytes >= rank_memory_bytes:
        return (
            f"replicated tables alone take {worst.replicated_bytes:,} bytes of every rank: shard "
            f"the largest of them"
        )
    sharded = sum(cost.num_bytes - cost.replicated_bytes for cost in costs)
    num = -(-sharded // (rank_memory_bytes - worst.replicated_bytes))
    by_rows = worst.largest_kind == "row_wise"
    if worst.largest_bytes > rank_memory_bytes and not by_rows:
        return f"it alone is too large: shard that table row_wise, over {max(num, 2)} ranks or more"
    if num <= len(costs):
        others = "that table is row_wise, so shard the others so too"
        return f"the ranks together have room: {others if by_rows else 'shard that table row_wise'}"
    return f"{num} ranks or more could hold all of it"


def add_bytes(
    costs: list[RankCost],
    configs: Sequence[EmbeddingBagConfig],
    plan: EmbeddingModuleShardingPlan,
    ranks: Ranks,
    optimizer: str,
    constant: Collection[str] = (),
) -> None:
    """Add the bytes and shards of one collection's tables to the costs of every rank.

    Tables of ``constant`` are one-hot: where they are replicated no optimizer holds them.
    """
    for config in configs:
        chosen = plan[config.name]
        replicated = chosen.sharding_type == "data_parallel"
        for rank, rows, dim in shards_of(config, chosen, ranks):
            cost, weights = costs[rank], 4 * rows * dim
            state = state_bytes(rows, dim, optimizer)
            state *= not (replicated and config.name in constant)
            all_of_it = weights + state + weights * replicated
            cost.weight_bytes += weights
            cost.optimizer_bytes += state
            cost.gradient_bytes += weights * replicated
            cost.replicated_bytes += all_of_it * replicated
            cost.num_shards += 1
            if all_of_it > cost.largest_bytes:
                cost.largest, cost.largest_bytes = config.name, all_of_it
                cost.largest_kind = chosen.sharding_type


def _add(
    costs: list[RankCost],
    collection: CompressedEmbeddingBagCollection,
    sharding: Sharding,
    ranks: Ranks,
    optimizer: str,
    batch_size: int,
) -> None:
    tables = collection.tables
    plan = plan_tables(tables, sharding, ranks, optimizer)
    bags = {feature.name: feature.max_bag for feature in collection.plan.features}
    ids: dict[str, int] = {}
    streams = collection.rewrite.ids.streams
    for stream in streams:
        for table in stream.tables:
            ids[table] = ids.get(table, 0) + bags[stream.feature] * batch_size
    memory, network = sharding.memory_gb_per_second * 1e9, sharding.network_gb_per_second * 1e9
    others = (ranks.num - 1) / ranks.num
    configs = cast(EmbeddingBagCollection, tables).embedding_bag_configs()
    add_bytes(costs, configs, plan, ranks, optimizer, collection.constant_tables)
    for config in configs:
        chosen = plan[config.name]
        replicated = chosen.sharding_type == "data_parallel"
        for rank, rows, dim in shards_of(config, chosen, ranks):
            cost, weights = costs[rank], 4 * rows * dim
            share = rows / config.num_embeddings
            looked_up = ids[config.name] * share / (ranks.num if replicated else 1)
            cost.seconds += 12 * looked_up * dim / memory
            if replicated:
                cost.seconds += 3 * weights / memory + 2 * weights * others / network
            else:
                bags_out = batch_size * len(config.feature_names)
                cost.seconds += (8 * looked_up + 8 * dim * bags_out) * others / network
