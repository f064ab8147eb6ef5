"""The progress bar of a training run."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["ProgressBar"]


class ProgressBar:
    """Steps done, loss, validation AUC and samples per second; prints nothing when ``quiet``.

    Example::

        with ProgressBar("hash", num_steps=1000, quiet=False) as bar:
            bar.show(step, loss=0.46, auc=0.78, samples_per_second=31_000)
    """

    def __init__(self, title: str, num_steps: int, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=quiet,
        )
        self._task = self._progress.add_task(title, total=num_steps, numbers="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._progress.disable:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, step: int, *, loss: float, auc: float | None, samples_per_second: float) -> None:
        """Show ``step`` as done; ``auc`` is the last validation's, None before the first."""
        numbers = f"loss {loss:.4f}  AUC {'-' if auc is None else f'{auc:.4f}'}"
        numbers += f"  {samples_per_second:,.0f} samples/s"
        self._progress.update(self._task, completed=step, numbers=numbers)
