"""The settings that tuning tries; every method, the full tables included, tries the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from compactrec.benchmarks.choices import changed
from compactrec.benchmarks.config import TrainConfig

__all__ = ["TRIALS", "Setting"]


@dataclass(frozen=True)
class Setting:
    """Changes to a base config."""

    table_rate: float = 1.0
    """Factor on the tables' learning rate."""
    dense_rate: float = 1.0
    """Factor on the learning rate of everything else."""
    embedding_decay: float | None = None
    """Takes the place of the base config's; None leaves it."""

    def apply(self, base: TrainConfig) -> TrainConfig:
        """`base` with these changes."""
        decay = self.embedding_decay
        return changed(
            base,
            table_learning_rate=base.table_learning_rate * self.table_rate,
            dense_learning_rate=base.dense_learning_rate * self.dense_rate,
            embedding_decay=base.embedding_decay if decay is None else decay,
        )


TRIALS: dict[str, Setting] = {
    "default": Setting(),
    "tables x3": Setting(table_rate=3.0),
    "decay": Setting(embedding_decay=0.03),
    "tables x3, decay": Setting(table_rate=3.0, embedding_decay=0.03),
    "tables x10": Setting(table_rate=10.0),
    "tables x0.3": Setting(table_rate=0.3),
    "dense x3": Setting(dense_rate=3.0),
    "dense x0.3": Setting(dense_rate=0.3),
}
"""In this order; the first is the base config itself."""
