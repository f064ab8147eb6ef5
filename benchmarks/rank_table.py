"""What a plan costs each of several processes, for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from compactrec.benchmarks.budgets import format_bytes, parse_bytes
from compactrec.benchmarks.config import TrainConfig
from compactrec.embeddings import AnyPlan
from compactrec.embeddings.sharding_bytes import Ranks
from compactrec.embeddings.sharding_estimate import RankCost, check_fits, estimate

__all__ = ["rank_costs", "rank_table"]


def rank_costs(
    plan: AnyPlan, config: TrainConfig, num_ranks: int, rank_memory: str | None
) -> list[RankCost]:
    """Bytes and time of every rank under the sharding and the table optimizer of ``config``.

    Raises:
        ValueError: a rank has too little memory, or the sharding is not possible.
    """
    sharding = config.sharding
    if rank_memory is not None:
        memory = _memory_of(rank_memory)
        sharding = sharding.model_copy(update={"rank_memory_bytes": memory})
    ranks = Ranks(num_ranks, device=config.device.split(":")[0])
    costs = estimate(plan, sharding, ranks, config.table_optimizer, config.batch_size)
    check_fits(costs, sharding.rank_memory_bytes)
    return costs


def _memory_of(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"--rank-memory is what one process has: {error}") from None


def rank_table(costs: list[RankCost], batch_size: int) -> Table:
    """One row for each rank."""
    table = Table(
        title=f"{len(costs)} rank(s), batches of {batch_size:,} in all; time is an estimate",
        title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False,
        caption="Tables alone: their weights, their optimizer's state, and gradients where they "
        "are replicated. The model's dense weights, their gradients and optimizer, activations, "
        "and ids and vectors on their way come on top.",
        caption_justify="left",
    )  # fmt: skip
    names = ("Rank", "Weights", "Optimizer", "Gradients", "All", "Shards", "Tables' ms a step")
    for name in names:
        table.add_column(name, justify="right")
    for cost in costs:
        parts = (cost.weight_bytes, cost.optimizer_bytes, cost.gradient_bytes, cost.num_bytes)
        table.add_row(
            str(cost.rank), *(format_bytes(part) for part in parts), str(cost.num_shards),
            f"{1e3 * cost.seconds:.3g}",
        )  # fmt: skip
    return table
