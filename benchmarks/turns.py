"""Entrants of a benchmark that take turns, each in a process of its own.

Peak memory is then an entrant's own, and a drift of the machine's speed hits all alike.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import Connection

import torch

from compactrec.benchmarks.environment import peak_rss_bytes, reset_peak_rss
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.step_profile import operators
from compactrec.data.batch import Batch

__all__ = ["Entrant", "Measured", "Step", "take_turns"]

PROFILED = 4
"""Steps of a profile."""
Step = Callable[[Batch], float]
"""One training step; returns the loss."""


@dataclass(frozen=True)
class Entrant:
    """What a process makes for itself; both must be picklable."""

    batches: Callable[[], list[Batch]]
    build: Callable[[], tuple[Step, int]]
    """The step, and the bytes of its tables."""


@dataclass(frozen=True)
class Measured:
    """What came of an entrant."""

    seconds: float
    """Of a step: the median over rounds."""
    table_bytes: int
    peak_bytes: int
    """By how much the process grew."""
    operators: dict[str, float]
    """Milliseconds of a step by operator, of turns under a profiler that do not count."""


def take_turns(
    entrants: Mapping[str, Entrant], *, rounds: int, steps: int, threads: int
) -> dict[str, Measured]:
    """So many steps of each, then of each again; two rounds before the first do not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = {}
    for name, entrant in entrants.items():
        pipes[name], theirs = context.Pipe()
        workers[name] = context.Process(target=_work, args=(entrant, threads, theirs), daemon=True)
        workers[name].start()
        theirs.close()
    table_bytes = {name: pipe.recv() for name, pipe in pipes.items()}
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for turn in range(rounds + 2):
        for name, pipe in pipes.items():
            pipe.send(steps)
            seconds = pipe.recv()
            if turn >= 2:
                times[name].append(seconds / steps)
    found = {}
    for name, pipe in pipes.items():
        pipe.send(0)
        peak = pipe.recv()
        found[name] = Measured(statistics.median(times[name]), table_bytes[name], peak, pipe.recv())
        workers[name].join()
    return found


def _work(entrant: Entrant, threads: int, pipe: Connection) -> None:
    """A process of one entrant: takes numbers of steps, gives seconds; 0 asks for the memory, then
    for what is in a profile."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    keep_freed_memory()
    batches = entrant.batches()
    reset_peak_rss()
    before = peak_rss_bytes()
    step, table_bytes = entrant.build()
    following = cycle(batches)

    def run(num_steps: int) -> None:
        for batch in islice(following, num_steps):
            step(batch)

    pipe.send(table_bytes)
    while num_steps := pipe.recv():
        run(1)  # brings back what the others have pushed out
        start = time.perf_counter()
        run(num_steps)
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_rss_bytes() - before)
    pipe.send(operators(lambda: run(PROFILED), PROFILED))
