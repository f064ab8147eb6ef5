"""When a run gives up, and what it says."""

from __future__ import annotations

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History

__all__ = ["TrainingCollapsed", "TrainingDiverged", "check_learning", "place"]

CHANCE, MARGIN = 0.5, 0.001


class TrainingDiverged(RuntimeError):
    """The loss or a prediction is NaN or infinite."""


class TrainingCollapsed(RuntimeError):
    """The model has learned nothing: its validation AUC is that of chance."""


def check_learning(history: History, config: TrainConfig, at_end: bool = False) -> None:
    """Raise when the last ``collapse_after_evals`` AUCs (``at_end``: all) lie within 0.5 +- 0.001.

    Raises:
        TrainingCollapsed: they do.
    """
    done = history.evaluations
    last = done if at_end else done[-config.collapse_after_evals :]
    if len(last) < config.collapse_after_evals and not at_end:
        return
    if all(abs(e.validation.auc - CHANCE) <= MARGIN for e in last):
        raise TrainingCollapsed(
            f"validation AUC is {done[-1].validation.auc:.4f}, that of chance, after {len(done)} "
            f"evaluations, at {place(history, config)}; check too that labels and rows match"
        )


def place(history: History, config: TrainConfig) -> str:
    """Where a run stands and which learning rates it has, with advice."""
    return (
        f"step {history.step} with dense learning rate {config.dense_learning_rate:g} "
        f"({config.dense_optimizer}) and table learning rate {config.table_learning_rate:g} "
        f"({config.table_optimizer}): try lower rates or a warm-up"
    )
