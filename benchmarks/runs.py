"""Runs a list of configs, of training or of searches, several at once if asked, under one bar.

A run that cannot be finished (it diverges, its data is damaged) does not stop the others: it comes
back as a `Failure` with its reason.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.interrupt import ended_by_sigterm
from compactrec.benchmarks.result import RESULT_NAME, Result
from compactrec.embeddings.shard_warnings import quiet_torch

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Failure",
    "Outcome",
    "Progress",
    "Runner",
    "RunsBroken",
    "num_cores",
    "run_all",
    "trained_already",
]

Runner = Callable[[TrainConfig], Result]
C = TypeVar("C")
R = TypeVar("R", bound="Outcome")


class Outcome(Protocol):
    """What a run gives."""

    @property
    def headline(self) -> str:
        """The outcome in a few words."""


class RunsBroken(RuntimeError):
    """A process that trains was ended from outside."""


@dataclass(frozen=True)
class Failure:
    """A run that has no result, and why."""

    reason: str


class Progress(AbstractContextManager["Progress"]):
    """One bar over all runs of a comparison, with the time left.

    The time left is the mean duration of the runs made here, times the number of those to come;
    finished runs that are only read again do not count.
    """

    def __init__(self, num_runs: int, num_jobs: int, console: Console | None = None) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("runs"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=2,
        )
        self._task = self._bar.add_task("comparing", total=num_runs, left="")
        self._num_jobs = num_jobs
        self._num_made = 0
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def running(self, names: list[str]) -> None:
        """Show what runs now."""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        self._bar.update(self._task, description=f"{names[0]}{more}" if names else "comparing")

    def finished(self, name: str, outcome: Outcome | Failure, made: bool) -> None:
        """Count one run; `made` is False when its result was there already."""
        self._num_made += made
        self._bar.advance(self._task)
        if made:
            if isinstance(outcome, Failure):
                text, style = f"{name}: failed: {outcome.reason}", "red"
            else:
                text, style = f"{name}: {outcome.headline}", ""
            self._bar.console.print(
                text, style=style, markup=False, highlight=False, soft_wrap=True
            )
            self._bar.update(self._task, left=self._left())

    def _left(self) -> str:
        task = self._bar.tasks[0]
        mean = (time.monotonic() - self._start) / self._num_made
        seconds = round(mean * ((task.total or 0) - task.completed))
        return f"about {timedelta(seconds=seconds)} left"


def trained_already(config: TrainConfig) -> Result | None:
    """The result that is in a run's folder."""
    folder: Path = config.out
    return Result.load(folder) if (folder / RESULT_NAME).is_file() else None


def run_all(
    configs: Mapping[str, C],
    runner: Callable[[C], R],
    num_jobs: int,
    progress: Progress,
    done: Callable[[C], R | None],
) -> Iterator[tuple[str, R | Failure]]:
    """Run `configs` (by a name that people can read), in order; yields outcomes as they come.

    What is `done` already is not made again: give another folder to another config. With `num_jobs`
    above 1 every run has a process of its own.
    """
    todo: dict[str, C] = {}
    for name, config in configs.items():
        if (result := done(config)) is not None:
            progress.finished(name, result, made=False)
            yield name, result
        else:
            todo[name] = config
    outcomes = _one_by_one if num_jobs == 1 else _side_by_side
    with ended_by_sigterm():
        for name, outcome in outcomes(todo, runner, num_jobs, progress):
            progress.finished(name, outcome, made=True)
            yield name, outcome


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_by_one(
    todo: Mapping[str, C], runner: Callable[[C], R], num_jobs: int, progress: Progress
) -> Iterator[tuple[str, R | Failure]]:
    for name, config in todo.items():
        progress.running([name])
        yield name, _run(runner, config)


def _side_by_side(
    todo: Mapping[str, C], runner: Callable[[C], R], num_jobs: int, progress: Progress
) -> Iterator[tuple[str, R | Failure]]:
    waiting = list(todo.items())
    running: dict[Future[R | Failure], str] = {}
    of_the_caller = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        num_jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupt
    )
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                name, config = waiting.pop(0)
                running[pool.submit(_run, runner, config)] = name
            progress.running(list(running.values()))
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunsBroken(
            f"a training process ended without a word, most likely for want of memory, while these "
            f"ran: {', '.join(running.values())}; run again with --jobs 1"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - of_the_caller:
            process.terminate()


def _ignore_interrupt() -> None:
    """Ctrl-C is for the parent, which ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(runner: Callable[[C], R], config: C) -> R | Failure:
    """One run; what can go wrong with data, numbers or files is an outcome, a bug is not."""
    quiet_torch()
    try:
        return runner(config)
    except (ValueError, ArithmeticError, OSError) as error:
        return Failure(str(error) or type(error).__name__)
    except RuntimeError as error:
        return Failure(f"{type(error).__name__}: {error}")
