"""From a :class:`Sharding` to torchrec's plan of one collection's tables, and what it costs.

What torchrec 1.8 can do with pooled tables (docs/sharding.md); the column of CPUs was tried:

=================  ============================  ============================================
kind               CPU (gloo)                    GPU (nccl)
=================  ============================  ============================================
table_wise         yes                           yes
row_wise           yes, the planner offers none  yes
column_wise        yes                           yes
table_row_wise     yes, the planner offers none  yes
data_parallel      yes                           yes
UVM kernels        no                            yes, for all but data_parallel
fused Adam         no                            not offered here
=================  ============================  ============================================
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_row_wise,
    table_wise,
)
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    ParameterSharding,
)
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.embeddings.sharding_bytes import Ranks, loads_of, tables_in_words, whole_bytes
from compactrec.embeddings.sharding_config import Sharding, TableSharding

__all__ = ["check_patterns", "plan_tables", "quiet_torchrec"]

LANE = 4
"""FBGEMM's rows are multiples of this width, those of a part of a table too."""
UNLIMITED = 2**50


@contextmanager
def quiet_torchrec() -> Iterator[None]:
    """Without torchrec's remarks on what is meant: tables without a cache, a topology by hand."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def plan_tables(
    tables: EmbeddingBagCollection, sharding: Sharding, ranks: Ranks, optimizer: str
) -> EmbeddingModuleShardingPlan:
    """torchrec's plan for ``tables``; deterministic, so that every rank can make it by itself.

    Raises ``ValueError`` for what a backend or the optimizer cannot do.
    """
    configs = tables.embedding_bag_configs()
    ruled = {c.name: rule for c in configs if (rule := sharding.of(c.name)) is not None}
    free = [config for config in configs if config.name not in ruled]
    plan = EmbeddingModuleShardingPlan()
    if free:
        plan.update(_planned(free, tables.is_weighted(), sharding, ranks, optimizer))
    load = loads_of(plan, {c.name: c for c in configs}, ranks, optimizer)
    generators: dict[str, ParameterShardingGenerator] = {}
    order = sorted(
        (c for c in configs if c.name in ruled), key=lambda c: -whole_bytes(c, optimizer)
    )
    for config in order:
        rule = ruled[config.name]
        _check_rule(config, rule, ranks, optimizer)
        generators[config.name] = _generator(config, rule, ranks, optimizer, load)
    if generators:
        named = [c for c in configs if c.name in ruled]
        plan.update(_made(named, tables.is_weighted(), generators, ranks, ruled))
    return EmbeddingModuleShardingPlan({c.name: plan[c.name] for c in configs})


def check_patterns(sharding: Sharding, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a pattern that matches none of the model's tables."""
    idle = [p for p in sharding.tables if not any(re.fullmatch(p, name) for name in names)]
    if idle:
        raise ValueError(
            f"sharding: {idle} match no table; there are {', '.join(names[:8])}"
            + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        )


def _check_rule(
    config: EmbeddingBagConfig, rule: TableSharding, ranks: Ranks, optimizer: str
) -> None:
    what = f"sharding: table {config.name!r}"
    if rule.kernel != "fused" and ranks.device != "cuda":
        raise ValueError(
            f"{what}: kernel {rule.kernel!r} keeps rows in the host's memory for a GPU, but the "
            f"device is {ranks.device!r}; leave kernel out"
        )
    limit = ranks.num if rule.kind == "table_wise" else ranks.num_machines
    if rule.place is not None and rule.place >= limit:
        kind = "ranks" if rule.kind == "table_wise" else "machines"
        raise ValueError(
            f"{what}: place {rule.place} is not there, {kind} are 0 .. {limit - 1}; start more "
            f"processes, or name another place"
        )
    if (
        rule.kind == "column_wise"
        and optimizer == "rowwise_adagrad"
        and _num_column_shards(config.embedding_dim, ranks.num) > 1
    ):
        raise ValueError(
            f"{what}: column_wise gives every part of a row a row-wise Adagrad state of its own, "
            f"which is another optimizer than on one process; use row_wise or table_wise, or the "
            f"table optimizer 'adagrad' or 'sgd'"
        )


def _num_column_shards(dim: int, num_ranks: int) -> int:
    """The largest number of equal shards, at most one a rank, of a width divisible by 4."""
    blocks = dim // LANE
    return max((n for n in range(1, num_ranks + 1) if blocks % n == 0), default=1)


def _has_rows(num_rows: int, num_ranks: int) -> bool:
    """Whether every rank gets a row. Where one has none FBGEMM's CPU operator takes neighbouring
    tables for one: wrong gradients, or a crash."""
    return -(-num_rows // num_ranks) * (num_ranks - 1) < num_rows


def _generator(
    config: EmbeddingBagConfig, rule: TableSharding, ranks: Ranks, optimizer: str, load: list[int]
) -> ParameterShardingGenerator:
    """torchrec's constructor for a rule; ``load`` (bytes per rank) is brought up to date."""
    num_bytes = whole_bytes(config, optimizer)
    match rule.kind:
        case "data_parallel":
            return data_parallel()
        case "row_wise" if _has_rows(config.num_embeddings, ranks.num):
            for rank in range(ranks.num):
                load[rank] += num_bytes // ranks.num
            return row_wise()
        case "table_row_wise" if _has_rows(config.num_embeddings, ranks.per_machine):
            loads = [
                sum(load[m * ranks.per_machine : (m + 1) * ranks.per_machine])
                for m in range(ranks.num_machines)
            ]
            machine = loads.index(min(loads)) if rule.place is None else rule.place
            first = machine * ranks.per_machine
            for rank in range(first, first + ranks.per_machine):
                load[rank] += num_bytes // ranks.per_machine
            return table_row_wise(machine)
        case "column_wise":
            count = _num_column_shards(config.embedding_dim, ranks.num)
            chosen = sorted(range(ranks.num), key=lambda r: (load[r], r))[:count]
            for rank in chosen:
                load[rank] += num_bytes // count
            return column_wise(ranks=sorted(chosen))
        case _:  # table_wise, and what has too few rows for the other kinds
            first, stop = 0, ranks.num
            if rule.place is not None:
                per = ranks.per_machine if rule.kind == "table_row_wise" else 1
                first, stop = rule.place * per, (rule.place + 1) * per
            rank = min(range(first, stop), key=lambda r: (load[r], r))
            load[rank] += num_bytes
            return table_wise(rank)


def _set_kernel(chosen: ParameterSharding, rule: TableSharding) -> None:
    """Without it torchrec takes dense gradients, as the twin's weights have no optimizer."""
    if rule.kind != "data_parallel":
        chosen.compute_kernel = rule.kernel
    if rule.cache_load_factor is not None:
        chosen.cache_params = CacheParams(load_factor=rule.cache_load_factor)


def _planned(
    configs: Sequence[EmbeddingBagConfig],
    is_weighted: bool,
    sharding: Sharding,
    ranks: Ranks,
    optimizer: str,
) -> Mapping[str, ParameterSharding]:
    """What torchrec's planner chooses for some tables.

    It counts activations too, of 512 examples, and may find no place where there is one: then
    tables are placed by their bytes.
    """
    kinds = ["table_wise", "data_parallel"]
    by_rows = [*kinds, "row_wise", "table_row_wise"] if ranks.device == "cuda" else kinds
    planner = EmbeddingShardingPlanner(
        topology=_topology(sharding, ranks),
        constraints={
            config.name: ParameterConstraints(
                sharding_types=by_rows if _has_rows(config.num_embeddings, ranks.num) else kinds
            )
            for config in configs
        },
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        stats=NoopEmbeddingStats(),
    )
    sharders: list[Any] = [
        EmbeddingBagCollectionSharder(fused_params={"optimizer": _emb_optimizer(optimizer)})
    ]
    holder = torch.nn.ModuleDict({"tables": _twin(configs, is_weighted)})
    try:
        with quiet_torchrec():
            found: Mapping[str, ParameterSharding] = planner.plan(holder, sharders).plan["tables"]
    except PlannerError as error:
        return _by_bytes(configs, is_weighted, sharding, ranks, optimizer, error)
    memory = sharding.rank_memory_bytes
    if (
        memory is None
        or max(loads_of(found, {c.name: c for c in configs}, ranks, optimizer)) <= memory
    ):
        return found
    return _by_bytes(configs, is_weighted, sharding, ranks, optimizer, None)


def _by_bytes(
    configs: Sequence[EmbeddingBagConfig],
    is_weighted: bool,
    sharding: Sharding,
    ranks: Ranks,
    optimizer: str,
    error: PlannerError | None,
) -> Mapping[str, ParameterSharding]:
    """The largest table first, whole on the least loaded rank; its rows over all without room."""
    memory, load = sharding.rank_memory_bytes or UNLIMITED, [0] * ranks.num
    whole, rows = TableSharding(kind="table_wise"), TableSharding(kind="row_wise")
    generators: dict[str, ParameterShardingGenerator] = {}
    for config in sorted(configs, key=lambda c: -whole_bytes(c, optimizer)):
        rule = whole if min(load) + whole_bytes(config, optimizer) <= memory else rows
        generators[config.name] = _generator(config, rule, ranks, optimizer, load)
    if max(load) > memory:
        why = f" ({str(error).strip().splitlines()[0].strip(' .')})" if error else ""
        raise ValueError(
            f"sharding: there is no place for {tables_in_words(configs, optimizer)}, on "
            f"{ranks.num} rank(s) with rank_memory_bytes {sharding.rank_memory_bytes} "
            f"(--rank-memory): not for torchrec's planner, which counts activations too{why}, and "
            f"not for their weights and optimizer state alone; start more processes, allow more "
            f"memory, or take a smaller budget"
        ) from error
    return _made(configs, is_weighted, generators, ranks, dict.fromkeys(generators, whole))


def _made(
    configs: Sequence[EmbeddingBagConfig],
    is_weighted: bool,
    generators: dict[str, ParameterShardingGenerator],
    ranks: Ranks,
    rules: Mapping[str, TableSharding],
) -> Mapping[str, ParameterSharding]:
    """torchrec's plan of what ``generators`` say, with the kernels of ``rules``."""
    made = construct_module_sharding_plan(
        _twin(configs, is_weighted), generators, EmbeddingBagCollectionSharder(),
        ranks.per_machine, ranks.num, ranks.device,
    )  # fmt: skip
    for name, rule in rules.items():
        _set_kernel(made[name], rule)
    return made


def _topology(sharding: Sharding, ranks: Ranks) -> Topology:
    memory = sharding.rank_memory_bytes or UNLIMITED
    on_gpu = ranks.device == "cuda"
    with quiet_torchrec():
        return Topology(
            ranks.num, ranks.device, hbm_cap=memory if on_gpu else None, ddr_cap=memory,
            local_world_size=ranks.per_machine,
        )  # fmt: skip


def _emb_optimizer(optimizer: str) -> Any:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    return {
        "sgd": EmbOptimType.EXACT_SGD,
        "adagrad": EmbOptimType.EXACT_ADAGRAD,
        "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    }[optimizer]


def _twin(configs: Sequence[EmbeddingBagConfig], is_weighted: bool) -> EmbeddingBagCollection:
    """A collection of some tables that takes no memory."""
    return EmbeddingBagCollection(
        tables=list(configs), is_weighted=is_weighted, device=torch.device("meta")
    )
