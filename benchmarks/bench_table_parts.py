r"""Where the time of a table step goes, for each method.

    python benchmarks/bench_table_parts.py --out benchmarks/results/table_parts.json

Tables, ids, methods and optimizer of ``bench_tables``, engine ``fused``. Methods take turns; times
are medians over rounds. Gradients of a method's rows are worked out apart from its update, so that
each has a time of its own.

* ``rewrite``: ids checked and mapped to rows;
* ``lookup``: rows read and written out;
* ``combine``: vectors from rows, and ``combine_backward`` the gradient of it;
* ``update``: gradients of equal rows summed, and the optimizer's rule.

Beside the times are bounds: bytes that lookup, combine, its backward pass and update must move
(``table_bounds``), over the rate of a random gather (lookup, update) or of a copy (combine) that
was measured in the same rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.bench_tables import Collection, collection_of, contenders
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.table_bounds import Rates, bytes_of_parts, milliseconds
from compactrec.benchmarks.table_inputs import features, fresh, make_kjts, zipf_batches
from compactrec.embeddings import Feature

__all__ = ["main", "measure", "step"]

T = TypeVar("T")
Times = dict[str, list[float]]
WARM_UP = 3


def _timed(times: Times, part: str, run: Callable[[], T]) -> T:
    start = time.perf_counter()
    found = run()
    times.setdefault(part, []).append(1e3 * (time.perf_counter() - start))
    return found


def step(collection: Collection, kjt: KeyedJaggedTensor, gradient: Tensor, times: Times) -> None:
    """One step in its parts."""
    tables: Any = collection.tables
    rows = _timed(times, "rewrite", lambda: collection.rewrite(fresh(kjt)))
    pooled = _timed(
        times, "lookup", lambda: tables(rows.values(), rows.lengths(), None, kjt.stride())
    )
    keys, dims = tables.part_keys, tables.part_dims
    leaf = pooled.detach().requires_grad_()
    vectors = _timed(times, "combine", lambda: collection.combine(leaf, keys, dims))
    moved = vectors is not leaf  # full tables: what is looked up goes out as it is
    _timed(times, "combine_backward", lambda: vectors.backward(gradient) if moved else None)
    of_rows = gradient if leaf.grad is None else leaf.grad
    _timed(times, "update", lambda: pooled.backward(of_rows))


def measure(of: tuple[Feature, ...], batch: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of every part, by method, and bounds of those that move memory."""
    kjts = make_kjts(of, zipf_batches(of, batch, 8))
    collections = {
        name: collection_of(of, method, "auto", options)
        for name, (method, options) in contenders(of[0].dim).items()
    }
    gradient = torch.randn(batch, sum(f.dim for f in of)) * 1e-3
    found: dict[str, Times] = {name: {} for name in collections}
    rates = Rates(4 * max(f.num_ids or 1 for f in of), of[0].dim, len(of) * batch)
    for turn in range(rounds + WARM_UP):
        rates.measure()
        for name, collection in collections.items():
            step(collection, kjts[turn % len(kjts)], gradient, found[name])
    rows = {
        name: {part: round(statistics.median(t[WARM_UP:]), 3) for part, t in times.items()}
        for name, times in found.items()
    }
    measured = rates.bytes_per_second()
    bounds = {
        name: {
            part: round(bound, 3)
            for part, bound in milliseconds(bytes_of_parts(collection, kjts), measured).items()
        }
        for name, collection in collections.items()
    }
    return {
        "bytes_per_second": {k: round(r) for k, r in measured.items()},
        "rows": rows,
        "bounds": bounds,
    }


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[4096])
    parser.add_argument("--dim", type=int, nargs="+", default=[16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    memory_kept = keep_freed_memory()
    results = []
    for dim in args.dim:
        for batch in args.batch:
            for threads in args.threads:
                torch.set_num_threads(threads)
                found = measure(features(dim), batch, args.rounds)
                results.append({"batch": batch, "dim": dim, "threads": threads, **found})
                print(f"batch {batch}, width {dim}, {threads} thread(s)")
                for name, parts in found["rows"].items():
                    texts = (f"{part} {ms:.2f}" for part, ms in parts.items())
                    bound = sum(found["bounds"][name].values())
                    total = f"{sum(parts.values()):7.2f} ms, bound {bound:.2f}"
                    print(f"  {name:18s} {total}  {'  '.join(texts)}")
    write_bench(args.out, max(args.threads), {"memory_kept": memory_kept, "results": results})


if __name__ == "__main__":
    main()
