"""Curves of a training run for TensorBoard, where they are asked for."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.optimizers import rates_at

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["BOARD_NAME", "Board"]

BOARD_NAME = "tensorboard"
EVERY_STEPS = 20
"""A point of the training loss is the mean over so many steps."""


class Board:
    """Training loss and learning rates every 20 steps, and the metrics of each validation.

    Args:
        config: ``tensorboard`` says whether anything is written, in ``out/tensorboard``.
        history: of the run; curves of steps behind it are left out, as they are trained again.
        is_writer: False in all processes but one.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(self, config: TrainConfig, history: History, *, is_writer: bool) -> None:
        self._config, self._history = config, history
        self._losses: list[float] = []
        self._writer: SummaryWriter | None = None
        if config.tensorboard and is_writer:
            self._writer = _writer(config.out / BOARD_NAME, history.step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def stepped(self, loss: float) -> None:
        """A step was made and counted."""
        if self._writer is None:
            return
        step = self._history.step
        self._losses.append(loss)
        if step % EVERY_STEPS:
            return
        dense, tables = rates_at(self._config, step, self._history.num_reductions)
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self._add(step, {"train/loss": mean, "rate/dense": dense, "rate/tables": tables})

    def validated(self) -> None:
        """A validation was added to the history."""
        if self._writer is not None:
            last = self._history.evaluations[-1]
            metrics = last.validation.model_dump(exclude={"num_rows"})
            self._add(last.step, {f"validation/{k}": value for k, value in metrics.items()})
            self._writer.flush()

    def _add(self, step: int, figures: dict[str, float]) -> None:
        assert self._writer is not None
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)


def _writer(folder: Path, first_step: int) -> SummaryWriter:
    try:
        import tensorboard  # noqa: F401 - torch needs it and says so less clearly
    except ImportError:
        raise ValueError(
            "tensorboard (--tensorboard) is set, but TensorBoard is not installed: in the checkout "
            "\"pip install '.[tensorboard]'\", or leave tensorboard out"
        ) from None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)
