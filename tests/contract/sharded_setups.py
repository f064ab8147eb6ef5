"""The ways to train a plan on several processes, and which of them a run of the tests tries.

A file of its own, so that spawned processes import no more than they need.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from compactrec.embeddings import Plan
from compactrec.embeddings.sharding_config import ShardKind

__all__ = ["KINDS", "OPTIMIZERS", "PLANNER", "Setup", "Tried", "kinds_of", "setups_of"]

KINDS: tuple[str, ...] = get_args(ShardKind)
PLANNER = ("planner",)
Tried = Literal["turns", "kinds", "all"]
"""One way for each plan; each kind with each optimizer; everything with everything."""
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


def _of_each_kind(optimizer: str) -> tuple[tuple[str, ...], ...]:
    """One kind for all tables, all kinds by turns, and what the planner takes."""
    return (*((k,) for k in kinds_of(optimizer)), kinds_of(optimizer), PLANNER)


def setups_of(name: str, plan: Plan, *, tried: Tried, turn: int) -> list[Setup]:
    """Ways to train a plan; what they do not meet one with another, they meet by turns.

    What differs in nothing but kind and pipeline comes one after the other: it has one unsharded
    model to be compared with.
    """
    both = (False, True)
    if tried != "turns":
        return [
            Setup(name, plan, kinds, optimizer, weighted, pipelined)
            for i, optimizer in enumerate(OPTIMIZERS)
            for weighted in (both if tried == "all" else (bool((turn + i) % 2),))
            for k, kinds in enumerate(_of_each_kind(optimizer))
            for pipelined in (both if tried == "all" else (bool((turn // 2 + i + k) % 2),))
        ]
    optimizer = OPTIMIZERS[turn % 3]
    kinds, by = kinds_of(optimizer), turn // 3 % len(kinds_of(optimizer))
    turned = PLANNER if turn % 7 == 0 else kinds[by:] + kinds[:by]
    return [Setup(name, plan, turned, optimizer, bool(turn % 2), bool(turn // 2 % 2))]
