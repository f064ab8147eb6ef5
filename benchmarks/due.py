"""When a run makes a checkpoint, and when it ends before its time: the same in every process."""

from __future__ import annotations

import time

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.interrupt import Interrupt
from compactrec.benchmarks.processes import Processes

__all__ = ["ASK_EVERY_STEPS", "Due"]

ASK_EVERY_STEPS = 16
"""So many steps go by until several processes ask for the time, and whether one is to end."""


class Due:
    """Answers that all processes agree on, although their clocks and signals differ.

    Args:
        config: how often checkpoints are made.
        processes: this one and the others; each must ask at every step.
    """

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        self._config, self._processes = config, processes
        self._saved_at = time.monotonic()

    def saved(self) -> None:
        """A checkpoint was made now."""
        self._saved_at = time.monotonic()

    def checkpoint(self, step: int) -> bool:
        """Whether to make one after ``step``."""
        steps, seconds = self._config.checkpoint_every_steps, self._config.checkpoint_every_seconds
        if steps is not None and step % steps == 0:
            return True
        if seconds is None or not self._is_asked(step):
            return False
        late = time.monotonic() - self._saved_at >= seconds
        return self._processes.sum([late and self._processes.is_first])[0] > 0

    def end(self, step: int, interrupt: Interrupt) -> int:
        """The number of the signal that some process got; 0 if there was none."""
        return interrupt.agreed(self._processes) if self._is_asked(step) else 0

    def _is_asked(self, step: int) -> bool:
        return self._processes.size == 1 or step % ASK_EVERY_STEPS == 0
