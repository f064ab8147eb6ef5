r"""Training steps of a whole model, side by side in one run: samples per second and memory.

    python benchmarks/bench_training.py --out benchmarks/results/training.json

26 features of the Criteo Kaggle sizes, capped so that they have 0.9M ids in all, width 16, one id
per bag, Zipf ids, 13 dense columns, batch 4096. Every entrant is a process of its own, so that its
peak memory is its own; they take turns (A B C A B C ...), one at a time, so that a drift of the
machine's speed hits all alike. A turn begins with a step that does not count: while a process
waits, its memory leaves the caches and may be taken from it. What counts are the ratios within one
run, of medians over rounds.

* ``dense_part``: the model with a constant for the tables, the bound for what has tables;
* ``embedding_adam``, ``embedding_sparse_adam``: the model over ``nn.Embedding`` per feature;
* each method: as ``train`` does it with its defaults, at a quarter of the full tables' bytes;
* ``dense_part_bfloat16``, ``full_bfloat16``: with ``dense_dtype``, where the machine has it;
* ``deepctr_torch`` (DCN) and ``fuxictr`` (a DLRM of its layers), where they are installed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.environment import peak_rss_bytes, reset_peak_rss
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.table_inputs import zipf_batches
from compactrec.benchmarks.training_entrants import NUM_DENSE, Setting, build, entrants
from compactrec.data.batch import Batch
from compactrec.data.teacher import KAGGLE_SIZES
from compactrec.embeddings import Feature

__all__ = ["capped_sizes", "main", "measure"]

NUM_IDS = 910_000
NUM_BATCHES = 8
QUICK = ("dense_part", "embedding_sparse_adam", "full", "compositional")


def capped_sizes(total: int) -> list[int]:
    """The Kaggle sizes with the cap that brings their sum nearest to ``total``, from below."""
    low, high = 1, max(KAGGLE_SIZES)
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (
            (cap, high) if sum(min(n, cap) for n in KAGGLE_SIZES) <= total else (low, cap - 1)
        )
    return [min(n, low) for n in KAGGLE_SIZES]


def make_batches(setting: Setting) -> list[Batch]:
    """The same for every entrant."""
    generator = torch.Generator().manual_seed(1)
    keys = tuple(f.name for f in setting.features)
    num_bags = len(keys) * setting.batch
    return [
        Batch(
            dense=torch.rand(setting.batch, NUM_DENSE, generator=generator),
            values=ids.reshape(-1),
            lengths=torch.ones(num_bags, dtype=torch.int32),
            labels=(torch.rand(setting.batch, generator=generator) < 0.26).float(),
            keys=keys,
            length_per_key=(setting.batch,) * len(keys),
            offsets=torch.arange(num_bags + 1, dtype=torch.int32),
        )
        for ids in zipf_batches(setting.features, setting.batch, NUM_BATCHES)
    ]


def _work(name: str, setting: Setting, threads: int, pipe: Connection) -> None:
    """A process of one entrant: takes numbers of steps, gives seconds; 0 asks for the memory."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    keep_freed_memory()
    batches = make_batches(setting)
    reset_peak_rss()
    before = peak_rss_bytes()
    step, table_bytes = build(name, setting)
    done = 0
    pipe.send(table_bytes)
    while num_steps := pipe.recv():
        step(batches[done % NUM_BATCHES])  # brings back what the others have pushed out
        start = time.perf_counter()
        for _ in range(num_steps):
            done += 1
            step(batches[done % NUM_BATCHES])
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_rss_bytes() - before)


def measure(
    names: Sequence[str], setting: Setting, *, rounds: int, steps: int, threads: int
) -> dict[str, dict[str, float]]:
    """Samples per second, ratios and bytes of every entrant; two rounds before the first count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    table_bytes: dict[str, int] = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        worker = context.Process(target=_work, args=(name, setting, threads, theirs), daemon=True)
        worker.start()
        theirs.close()
        workers.append(worker)
    for name in names:
        table_bytes[name] = pipes[name].recv()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 2):
        for name in names:
            pipes[name].send(steps)
            seconds = pipes[name].recv()
            if turn >= 2:
                times[name].append(seconds / steps)
    memory = {}
    for name, worker in zip(names, workers, strict=True):
        pipes[name].send(0)
        memory[name] = pipes[name].recv()
        worker.join()
    return _rows(names, setting.batch, times, table_bytes, memory)


def _rows(
    names: Sequence[str],
    batch: int,
    times: dict[str, list[float]],
    table_bytes: dict[str, int],
    memory: dict[str, int],
) -> dict[str, dict[str, float]]:
    seconds = {name: statistics.median(times[name]) for name in names}
    beside = ("dense_part", "full", "embedding_sparse_adam", "embedding_adam", "deepctr_torch")
    rows = {}
    for name in names:
        row: dict[str, float] = {
            "step_milliseconds": round(1e3 * seconds[name], 2),
            "samples_per_second": round(batch / seconds[name]),
            "table_bytes": table_bytes[name],
            "peak_bytes": memory[name],
        }
        for other in beside:
            if other in seconds:
                row[f"speed_beside_{other}"] = round(seconds[other] / seconds[name], 3)
        rows[name] = row
    return rows


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    can, missing = entrants()
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--entrants", nargs="+", choices=can, default=list(can))
    parser.add_argument("--quick", action="store_true", help="a few entrants at a toy size")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = capped_sizes(5_000 if args.quick else NUM_IDS)
    features = tuple(
        Feature(name=f"C{i + 1}", num_ids=n, dim=args.dim) for i, n in enumerate(sizes)
    )
    setting = Setting(features, args.batch)
    names, rounds, threads = args.entrants, args.rounds, args.threads
    if args.quick:
        setting, names, rounds = Setting(features, 256, (32,), (32, 1)), QUICK, 2
        threads = 1
    rows = measure(names, setting, rounds=rounds, steps=args.steps, threads=threads)
    for name, row in rows.items():
        print(
            f"{name:22s} {row['step_milliseconds']:9.2f} ms {row['samples_per_second']:8.0f}/s"
            f" {row['peak_bytes'] / 1e6:8.0f} MB"
            + "".join(f"  {v:6.2f} x {k[13:]}" for k, v in row.items() if k.startswith("speed"))
        )
    for name in missing:
        print(f"{name}: not installed, left out")
    write_bench(
        args.out,
        threads,
        {
            "batch": setting.batch,
            "dim": args.dim,
            "num_ids": sum(sizes),
            "rounds": rounds,
            "steps": args.steps,
            "missing": list(missing),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
