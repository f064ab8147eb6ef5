"""Which processes there are, and the bytes that each of them holds of sharded tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchrec.distributed.types import ParameterSharding, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig

__all__ = ["Ranks", "loads_of", "shards_of", "state_bytes", "tables_in_words", "whole_bytes"]


class Ranks:
    """Which processes there are.

    Args:
        num: of all machines.
        per_machine: of each; all by default.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, num: int, per_machine: int | None = None, device: str = "cpu") -> None:
        per_machine = num if per_machine is None else per_machine
        if num < 1 or per_machine < 1 or num % per_machine:
            raise ValueError(
                f"{num} ranks cannot be {per_machine} on each machine; give every machine the same "
                f"number of processes"
            )
        self.num, self.per_machine, self.device = num, per_machine, device
        self.num_machines = num // per_machine


def state_bytes(num_rows: int, dim: int, optimizer: str) -> int:
    """Bytes of the optimizer's state of a shard of ``num_rows x dim`` weights."""
    per_row = {"sgd": 0, "rowwise_adagrad": 4, "adagrad": 4 * dim}
    if optimizer not in per_row:
        raise ValueError(
            f"a sharded table has no optimizer {optimizer!r}; take one of {', '.join(per_row)}"
        )
    return num_rows * per_row[optimizer]


def whole_bytes(config: EmbeddingBagConfig, optimizer: str) -> int:
    """Bytes of a table's weights and of their optimizer's state."""
    rows, dim = config.num_embeddings, config.embedding_dim
    return 4 * rows * dim + state_bytes(rows, dim, optimizer)


def tables_in_words(configs: Sequence[EmbeddingBagConfig], optimizer: str) -> str:
    """How many they are, their bytes and the largest one, for errors."""
    num_bytes = {config.name: whole_bytes(config, optimizer) for config in configs}
    largest = max(num_bytes, key=lambda name: num_bytes[name])
    return (
        f"{len(configs)} tables of {sum(num_bytes.values()):,} bytes, the largest {largest!r} with "
        f"{num_bytes[largest]:,}"
    )


def shards_of(
    config: EmbeddingBagConfig, chosen: ParameterSharding, ranks: Ranks
) -> list[tuple[int, int, int]]:
    """``(rank, rows, columns)`` of every shard that has rows; of a copy on every rank too."""
    if chosen.sharding_type == ShardingType.DATA_PARALLEL.value:
        return [(r, config.num_embeddings, config.embedding_dim) for r in range(ranks.num)]
    assert chosen.sharding_spec is not None
    found = []
    for shard in chosen.sharding_spec.shards:
        rows, columns = shard.shard_sizes
        if rows and columns:
            found.append((shard.placement.rank(), rows, columns))
    return found


def loads_of(
    plan: Mapping[str, ParameterSharding],
    configs: Mapping[str, EmbeddingBagConfig],
    ranks: Ranks,
    optimizer: str,
) -> list[int]:
    """Bytes per rank of what is placed already; of a replicated table its gradient too."""
    load = [0] * ranks.num
    for name, chosen in plan.items():
        for rank, rows, dim in shards_of(configs[name], chosen, ranks):
            copies = 2 if chosen.sharding_type == ShardingType.DATA_PARALLEL.value else 1
            load[rank] += 4 * rows * dim * copies + state_bytes(rows, dim, optimizer)
    return load
