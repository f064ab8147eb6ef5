"""The ways to train a plan on several processes, and which of them a run of the tests tries.

A file of its own, so that spawned processes import no more than they need.
"""

from dataclasses import dataclass
from typing import get_args

from compactrec.embeddings import Plan
from compactrec.embeddings.sharding_config import ShardKind

__all__ = ["KINDS", "OPTIMIZERS", "PLANNER", "Setup", "kinds_of", "setups_of"]

KINDS: tuple[str, ...] = get_args(ShardKind)
PLANNER = ("planner",)
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")


@dataclass(frozen=True)
class Setup:
    """One way to train one plan; table ``i`` is sharded as ``kinds[i % len(kinds)]``."""

    name: str
    plan: Plan
    kinds: tuple[str, ...]
    optimizer: str
    weighted: bool
    pipelined: bool
    kernel: str = "fused"

    def __str__(self) -> str:
        words = [self.name, "+".join(self.kinds), self.optimizer]
        words += [w for w in ("weighted", "pipelined") if getattr(self, w)]
        return " ".join(words)


def kinds_of(optimizer: str) -> tuple[str, ...]:
    """Row-wise Adagrad has no shards of columns."""
    rowwise = optimizer == "rowwise_adagrad"
    return tuple(kind for kind in KINDS if not (rowwise and kind == "column_wise"))


def setups_of(name: str, plan: Plan, *, every: bool, turn: int) -> list[Setup]:
    """Ways to train a plan: all of them, or one that goes by turns through all there is.

    What differs in nothing but kind and pipeline comes one after the other: it has one unsharded
    model to be compared with.
    """
    if every:
        return [
            Setup(name, plan, kinds, optimizer, weighted, pipelined)
            for optimizer in OPTIMIZERS
            for weighted in (False, True)
            for kinds in (*((k,) for k in kinds_of(optimizer)), kinds_of(optimizer), PLANNER)
            for pipelined in (False, True)
        ]
    optimizer = OPTIMIZERS[turn % 3]
    kinds, by = kinds_of(optimizer), turn // 3 % len(kinds_of(optimizer))
    turned = PLANNER if turn % 7 == 0 else kinds[by:] + kinds[:by]
    return [Setup(name, plan, turned, optimizer, bool(turn % 2), bool(turn // 2 % 2))]
