r"""Training steps of a whole model, side by side in one run: samples per second and memory.

    python benchmarks/bench_training.py --out benchmarks/results/training.json

26 features of the Criteo Kaggle sizes, capped so that they have 0.9M ids in all, width 16, one id
per bag, Zipf ids, 13 dense columns, batch 4096. Every entrant is a process of its own, so that its
peak memory is its own; they take turns (A B C A B C ...), one at a time, so that a drift of the
machine's speed hits all alike. A turn begins with a step that does not count: while a process
waits, its memory leaves the caches and may be taken from it. What counts are the ratios within one
run, of medians over rounds. ``operators`` says where the time of a step goes, from steps under
torch's profiler after all that count.

* ``dense_part``: the model with a constant for the tables, the bound for what has tables;
* ``embedding_adam``, ``embedding_sparse_adam``: the model over ``nn.Embedding`` per feature;
* each method: as ``train`` does it with its defaults, at a quarter of the full tables' bytes;
* ``dense_part_bfloat16``, ``full_bfloat16``: with ``dense_dtype``, where the machine has it;
* ``deepctr_torch`` (DCN) and ``fuxictr`` (a DLRM of its layers), where they are installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.table_inputs import click_batches
from compactrec.benchmarks.training_entrants import NUM_DENSE, Setting, build, entrants
from compactrec.benchmarks.turns import Entrant, Measured, take_turns
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
    return click_batches(setting.features, setting.batch, NUM_BATCHES, NUM_DENSE)


def measure(
    names: Sequence[str], setting: Setting, *, rounds: int, steps: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Samples per second, ratios and bytes of every entrant."""
    made = {n: Entrant(partial(make_batches, setting), partial(build, n, setting)) for n in names}
    return _rows(setting.batch, take_turns(made, rounds=rounds, steps=steps, threads=threads))


def _rows(batch: int, measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    beside = ("dense_part", "full", "embedding_sparse_adam", "embedding_adam", "deepctr_torch")
    rows = {}
    for name, of in measured.items():
        row: dict[str, Any] = {
            "step_milliseconds": round(1e3 * of.seconds, 2),
            "samples_per_second": round(batch / of.seconds),
            "table_bytes": of.table_bytes,
            "peak_bytes": of.peak_bytes,
            "operators": of.operators,
        }
        for other in beside:
            if other in measured:
                row[f"speed_beside_{other}"] = round(measured[other].seconds / of.seconds, 3)
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
