r"""The kernels under the tables, per optimizer, side by side in one run, and what bounds them.

    python benchmarks/bench_kernels.py --batch 2048 4096 16384 --dim 16 64 --threads 1 2 \
        --rounds 15 --out benchmarks/results/kernels.json

26 tables of the Criteo Kaggle sizes, capped at 1M rows; one id per bag, Zipf ids. A step is lookup,
backward and update. The contenders of one optimizer get the same batches in turn (A B C A B C ...);
times are medians over rounds, and what counts are the ratios within one line of results.

* ``numba``, ``fbgemm``: the two kernels of the fused engine, called directly;
* ``sparse``: ``nn.EmbeddingBag(sparse=True)`` per table with ``torch.optim.SGD``, ``Adagrad`` or
  ``SparseAdam``; torch has no row-wise Adagrad, and FBGEMM no Adam on the CPU.

The bound: bytes that a step must move, over the rate of a random gather (``index_select`` of rows
of this width from a table of ``--cap`` rows times 4, bytes read and written) measured in the same
rounds. A step must read each distinct row once and write it once, with its state, write the output
and read its gradient. Caches may serve some of that: a ratio below 1 is possible.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.environment import peak_rss_bytes, reset_peak_rss
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.table_inputs import CAP, EmbeddingBags, features, zipf_batches
from compactrec.embeddings import Feature, FusedOptimizer
from compactrec.embeddings.contract import Table
from compactrec.embeddings.fused import FbgemmKernel
from compactrec.embeddings.fused_tables import TableKernel
from compactrec.embeddings.init import Init
from compactrec.embeddings.numba_tables import NumbaKernel

__all__ = ["main"]

Name = Literal["sgd", "rowwise_adagrad", "adagrad", "adam"]
NAMES: tuple[Name, ...] = ("sgd", "rowwise_adagrad", "adagrad", "adam")
LEARNING_RATE = 0.01
STATES = {"sgd": 0, "adagrad": 1, "adam": 2}
"""Floats per weight; row-wise Adagrad has one per row."""
Step = Callable[[Tensor, Tensor], None]
Row = dict[str, float | int | str]


def with_kernel(kernel: TableKernel) -> Step:
    """A kernel of the fused engine."""
    for weight in kernel.weights():
        weight.uniform_(-0.01, 0.01)

    def step(ids: Tensor, gradient: Tensor) -> None:
        offsets = torch.arange(ids.numel() + 1)
        kernel.look_up(ids.reshape(-1), offsets, None).backward(gradient)

    return step


def with_sparse_gradients(of: tuple[Feature, ...], name: Name) -> Step:
    """One ``nn.EmbeddingBag`` per table."""
    bags = EmbeddingBags(of)
    kinds = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.SparseAdam}
    optimizer = kinds[name](list(bags.parameters()), lr=LEARNING_RATE)

    def step(ids: Tensor, gradient: Tensor) -> None:
        optimizer.zero_grad()
        bags(ids).backward(gradient)
        optimizer.step()

    return step


def contenders(of: tuple[Feature, ...], name: Name) -> dict[str, Step]:
    """Who has this optimizer."""
    tables = [Table(f.name, f.num_ids or 1, f.dim, Init()) for f in of]
    parts = list(range(len(tables)))
    optimizer = FusedOptimizer(name=name, learning_rate=LEARNING_RATE)
    found = {"numba": with_kernel(NumbaKernel(tables, parts, optimizer))}
    if name != "adam":
        kernel = FbgemmKernel(tables, parts, optimizer, torch.device("cpu"))
        found["fbgemm"] = with_kernel(kernel)
    if name != "rowwise_adagrad":
        found["sparse"] = with_sparse_gradients(of, name)
    return found


def state_floats(name: Name, dim: int) -> int:
    """Floats of optimizer state per row."""
    return 1 if name == "rowwise_adagrad" else STATES[name] * dim


def bytes_moved(batches: list[Tensor], dim: int, name: Name) -> float:
    """Bytes that a step must move, on average."""
    distinct = sum(row.unique().numel() for ids in batches for row in ids) / len(batches)
    return 4 * (2 * distinct * (dim + state_floats(name, dim)) + 2 * batches[0].numel() * dim)


def measure(
    steps: dict[str, Step], batches: list[Tensor], dim: int, rounds: int, source: Tensor
) -> tuple[dict[str, float], float]:
    """Median seconds of every contender, and bytes per second of a random gather."""
    count, batch = batches[0].shape
    gradient = torch.randn(batch, count * dim) * 1e-3
    gathered = torch.empty(count * batch, dim)
    times: dict[str, list[float]] = {name: [] for name in (*steps, "gather")}
    for turn in range(rounds + 2):
        chosen = torch.randint(0, len(source), (len(gathered),))
        for name in times:
            ids = batches[turn % len(batches)]
            start = time.perf_counter()
            if name == "gather":
                torch.index_select(source, 0, chosen, out=gathered)
            else:
                steps[name](ids, gradient)
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return medians, 8 * gathered.numel() / medians.pop("gather")


def described(
    medians: dict[str, float], moved: float, rate: float, table_bytes: int, state_bytes: int
) -> dict[str, Row]:
    """Times and ratios of one line of results."""
    found: dict[str, Row] = {}
    for name, seconds in medians.items():
        row: Row = {
            "milliseconds": round(1e3 * seconds, 3),
            "ratio_to_bound": round(seconds * rate / moved, 3),
            "table_bytes": table_bytes,
            "state_bytes": state_bytes,
        }
        for other in ("fbgemm", "sparse"):
            if other in medians:
                row[f"times_as_fast_as_{other}"] = round(medians[other] / seconds, 3)
        found[name] = row
    return found


def run(dim: int, name: Name, args: argparse.Namespace) -> list[dict[str, object]]:
    """All batch sizes and numbers of threads of one width and optimizer."""
    of = features(dim, args.cap)
    rows = sum(f.num_ids or 1 for f in of)
    reset_peak_rss()
    steps = contenders(of, name)
    source = torch.rand(4 * args.cap, dim)
    results: list[dict[str, object]] = []
    for batch in args.batch:
        batches = zipf_batches(of, batch, 8)
        moved = bytes_moved(batches, dim, name)
        for threads in args.threads:
            torch.set_num_threads(threads)
            medians, rate = measure(steps, batches, dim, args.rounds, source)
            states = 4 * rows * state_floats(name, dim)
            found = described(medians, moved, rate, 4 * rows * dim, states)
            results.append(
                {
                    "optimizer": name, "batch": batch, "dim": dim, "threads": threads,
                    "bytes_moved": round(moved), "gather_bytes_per_second": round(rate),
                    "peak_rss_bytes": peak_rss_bytes(), "rows": found,
                }
            )  # fmt: skip
            print(f"{name}, batch {batch}, width {dim}, {threads} thread(s)")
            for key, row in found.items():
                ratios = "  ".join(
                    f"{k.removeprefix('times_as_fast_as_')} {v}x"
                    for k, v in row.items()
                    if k.startswith("times")
                )
                print(
                    f"  {key:8s} {row['milliseconds']:9.2f} ms  {row['ratio_to_bound']:6.2f} x "
                    f"bound  as fast as {ratios}"
                )
    return results


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[2048])
    parser.add_argument("--dim", type=int, nargs="+", default=[16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--optimizer", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--cap", type=int, default=CAP, help="most rows of a table")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    memory_kept = keep_freed_memory()
    results = [r for dim in args.dim for name in args.optimizer for r in run(dim, name, args)]
    write_bench(args.out, max(args.threads), {"memory_kept": memory_kept, "results": results})


if __name__ == "__main__":
    main()
