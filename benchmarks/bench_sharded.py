r"""Training steps of a sharded DLRM on one and on two processes, side by side in one run.

    python benchmarks/bench_sharded.py --out benchmarks/results/sharded.json

The model and data of ``bench_training``: 26 features of the Criteo Kaggle sizes with 0.9M ids in
all, width 16, batches of 4096 for all processes together, one thread each.

* ``fused_1``: the loop without process groups;
* ``fused_2``: two processes that exchange nothing, each with all tables and half of the batch: what
  the machine itself gives for two processes, so a bound of ``sharded_2``;
* ``sharded_1``, ``sharded_2``: the sharded loop, tables table-wise over gloo; ``pipelined``
  exchanges the ids of the next batch while this one computes.

All processes are there from the start and take turns, group by group; a turn begins with a step
that does not count, as in ``bench_training``. Of every process:

* ``planned_bytes``: weights and optimizer state, as ``plan --ranks`` says beforehand;
* ``held_bytes``: the same, summed over the tensors that it has;
* ``peak_bytes``: what the process grew by, with the dense part, gradients and buffers;
* ``parts``: milliseconds of a step of the first process, from a turn of its own under a profiler,
  ``profiled_step`` in all; it is slower than the turns that count.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.bench_training import NUM_IDS, capped_sizes, make_batches
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.endless import Endless
from compactrec.benchmarks.environment import peak_rss_bytes, reset_peak_rss
from compactrec.benchmarks.history import History
from compactrec.benchmarks.loop import make_loop
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.processes import Processes
from compactrec.benchmarks.step_profile import profiled
from compactrec.benchmarks.training_entrants import NUM_DENSE, Setting
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    Plan,
    full_plan,
    make_plan,
    method_names,
    size,
)
from compactrec.embeddings.sharding_bytes import Ranks
from compactrec.embeddings.sharding_config import Sharding, TableSharding
from compactrec.embeddings.sharding_estimate import estimate

__all__ = ["Entrant", "Told", "main", "measure"]

SHARDING = Sharding(default=TableSharding(kind="table_wise"))
METHODS = ("full", "hash", "compositional", "mixed")
LAYOUTS = (
    ("fused", 1, False), ("fused", 2, False), ("sharded", 1, False), ("sharded", 2, False),
    ("sharded", 2, True),
)  # fmt: skip
"""Engine, processes, and whether the input is pipelined."""


PROFILE, PROFILED = -1, 4
"""What asks for a profile, and its steps."""


class Told(NamedTuple):
    """What a process says at its end."""

    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Entrant:
    """One method in one layout."""

    method: str
    engine: str
    num_processes: int
    pipeline: bool = False

    @property
    def name(self) -> str:
        """As in the result file."""
        end = "_pipelined" if self.pipeline else ""
        return f"{self.method}_{self.engine}_{self.num_processes}{end}"

    def plan(self, setting: Setting) -> Plan:
        """Full tables, or a quarter of their bytes."""
        whole = full_plan(setting.features)
        if self.method == "full":
            return whole
        counts = {f.name: np.arange(f.num_ids or 1, 0, -1) for f in setting.features}
        budget = size(whole).serving_bytes // 4
        return make_plan(self.method, setting.features, budget, counts=counts)

    def config(self, setting: Setting) -> TrainConfig:
        """The default config in this layout."""
        sharded = self.engine == "sharded"
        changes = {
            "engine": self.engine, "pipeline": self.pipeline,
            "sharding": SHARDING if sharded else Sharding(),
        }  # fmt: skip
        return setting.config().model_copy(update=changes)


def _work(entrant: Entrant, setting: Setting, rank: int, meet: str, pipe: Connection) -> None:
    """One process: takes numbers of steps, gives seconds; PROFILE asks for parts, 0 for bytes."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    keep_freed_memory()
    processes = Processes()
    if entrant.engine == "sharded":
        processes = Processes(rank, entrant.num_processes)
        dist.init_process_group(
            "gloo", init_method=f"file://{meet}", rank=rank, world_size=processes.size
        )
    loader: Any = Endless(make_batches(setting), (rank, entrant.num_processes))
    reset_peak_rss()
    before = peak_rss_bytes()
    config = entrant.config(setting)
    model, collections = build_model(config, entrant.plan(setting), NUM_DENSE)
    steps = make_loop(model, collections, config, processes).steps(loader, History())
    pipe.send(None)
    while num_steps := pipe.recv():
        peak = peak_rss_bytes() - before
        next(steps)  # brings back what the others have pushed out
        found = _parts_of_step(steps) if num_steps == PROFILE else _seconds(steps, num_steps)
        pipe.send(found)
    pipe.send(Told(_held_bytes(collections[0]), peak))
    if dist.is_initialized():
        dist.destroy_process_group()


def _seconds(steps: Iterator[object], num_steps: int) -> float:
    start = time.perf_counter()
    for _ in range(num_steps):
        next(steps)
    return time.perf_counter() - start


def _parts_of_step(steps: Iterator[object]) -> dict[str, float]:
    """Milliseconds under a profiler: of all of a step, then of its parts."""
    seconds = 0.0

    def run() -> None:
        nonlocal seconds
        seconds = _seconds(steps, PROFILED)

    profiled(run, PROFILED)  # a first profile takes long to begin
    parts = profiled(run, PROFILED)
    return {"profiled_step": round(1e3 * seconds / PROFILED, 2), **parts}


def _held_bytes(collection: CompressedEmbeddingBagCollection) -> int:
    """Bytes of weights and optimizer state of tables in this process."""
    tensors: list[Tensor] = []
    tables: Any = collection.tables
    held = [*tables.state_dict().values()]
    if collection.engine == "sharded":
        states = tables.fused_optimizer.state_dict()["state"]
        held += [value for state in states.values() for value in state.values()]
    else:
        held += collection.optimizer_state_dict().values()
    for value in held:
        if isinstance(value, ShardedTensor):
            tensors += [shard.tensor for shard in value.local_shards()]
        elif isinstance(value, Tensor):
            tensors.append(value)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _planned_bytes(entrant: Entrant, setting: Setting) -> list[int]:
    together = entrant.num_processes if entrant.engine == "sharded" else 1
    optimizer = entrant.config(setting).table_optimizer
    costs = estimate(entrant.plan(setting), SHARDING, Ranks(together), optimizer, setting.batch)
    return [cost.num_bytes for cost in costs] * (entrant.num_processes // together)


def measure(
    entrants: Sequence[Entrant], setting: Setting, *, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Speed, ratios and bytes of every entrant; two rounds before the first count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[Entrant, list[Connection]] = {}
    workers = []
    with tempfile.TemporaryDirectory() as folder:
        for entrant in entrants:
            pipes[entrant] = []
            for rank in range(entrant.num_processes):
                ours, theirs = context.Pipe()
                meet = str(Path(folder) / entrant.name)
                worker = context.Process(
                    target=_work, args=(entrant, setting, rank, meet, theirs), daemon=True
                )
                worker.start()
                theirs.close()
                pipes[entrant].append(ours)
                workers.append(worker)
            for pipe in pipes[entrant]:
                pipe.recv()
        times: dict[Entrant, list[float]] = {entrant: [] for entrant in entrants}
        for turn in range(rounds + 2):
            for entrant in entrants:
                seconds = max(_ask(pipes[entrant], steps))
                if turn >= 2:
                    times[entrant].append(seconds / steps)
        parts = {entrant: _ask(pipes[entrant], PROFILE)[0] for entrant in entrants}
        told = {entrant: _ask(pipes[entrant], 0) for entrant in entrants}
        for worker in workers:
            worker.join()
    return {e.name: _row(e, setting, times, told[e], parts[e]) for e in entrants}


def _ask(pipes: Sequence[Connection], num_steps: int) -> list[Any]:
    for pipe in pipes:
        pipe.send(num_steps)
    return [pipe.recv() for pipe in pipes]


def _row(
    entrant: Entrant,
    setting: Setting,
    times: dict[Entrant, list[float]],
    told: Sequence[Told],
    parts: dict[str, float],
) -> dict[str, Any]:
    seconds = {e: statistics.median(found) for e, found in times.items()}
    row: dict[str, Any] = {
        "step_milliseconds": round(1e3 * seconds[entrant], 2),
        "samples_per_second": round(setting.batch / seconds[entrant]),
        "planned_bytes": _planned_bytes(entrant, setting),
        "held_bytes": [of_process.held_bytes for of_process in told],
        "peak_bytes": [of_process.peak_bytes for of_process in told],
        "parts": parts,
    }
    for other, of_other in seconds.items():
        if other.method == entrant.method and other.num_processes == 1 and other != entrant:
            row[f"speed_beside_{other.engine}_1"] = round(of_other / seconds[entrant], 3)
    return row


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--methods", nargs="+", choices=method_names(), default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="full tables at a toy size")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = capped_sizes(5_000 if args.quick else NUM_IDS)
    features = tuple(
        Feature(name=f"C{i + 1}", num_ids=n, dim=args.dim) for i, n in enumerate(sizes)
    )
    setting, methods, rounds = Setting(features, args.batch), args.methods, args.rounds
    if args.quick:
        setting, methods, rounds = Setting(features, 256, (32,), (32, 1)), ["full"], 2
    entrants = [Entrant(method, *layout) for method in methods for layout in LAYOUTS]
    rows = measure(entrants, setting, rounds=rounds, steps=args.steps)
    for name, row in rows.items():
        ratios = [f"{v:5.2f} x {k[13:]}" for k, v in row.items() if k.startswith("speed")]
        held = [round(n / 1e6, 1) for n in row["held_bytes"]]
        print(f"{name:24s} {row['step_milliseconds']:8.2f} ms  {held} MB  {'  '.join(ratios)}")
    write_bench(
        args.out,
        1,
        {
            "batch": setting.batch,
            "dim": args.dim,
            "num_ids": sum(sizes),
            "rounds": rounds,
            "steps": args.steps,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
