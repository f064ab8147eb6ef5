"""The loader in rows per second on one core, beside plain pyarrow -> torch and two bounds.

    python benchmarks/bench_loader.py --rows 1500000 --rounds 3 --out benchmarks/results/loader.json

Synthetic rows of Criteo's shape (13 dense, 26 single-hot), snappy parquet, files in the page cache.
The process is bound to one core, torch and pyarrow have one thread. Contenders take turns; the best
round of each counts, by processor time (a busy machine does not change it much) and by the clock.

* ``loader``: shuffled, the default window; ``loader_in_order``: not shuffled;
* ``plain_in_order``: ``ParquetFile.iter_batches``, columns stacked to tensors, no shuffle;
* ``plain_in_memory``: the split read at once, each batch picked by a random permutation;
* ``decode``: reading all row groups and nothing else, the bound for any parquet reader;
* ``memory``: copying tensors with the bytes of a batch, the bound for anything that makes one.

``batch`` holds these: the loader alone, drained. ``training`` is measured apart: an epoch of the
default DLRM with full tables on the same rows, one thread for the steps, and the shares of its
time: waiting for the next batch (with prefetching the loader may use a second core), making
torchrec's KeyedJaggedTensor of it, forward, backward with the update of the tables, and the rest of
the loop with the optimizer of the dense part.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.environment import (
    describe_environment,
    peak_rss_bytes,
    reset_peak_rss,
)
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.plans import resolve_plan
from compactrec.data.batch import Batch
from compactrec.data.loader import DEFAULT_WINDOW_ROWS, BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.data.synthetic import make_synthetic

__all__ = ["epoch", "main", "training"]

Plain = tuple[Tensor, Tensor, Tensor]


def plain_in_order(folder: Path, batch: int) -> Iterator[Plain]:
    """Dense (B, N), feature-major ids, labels; as one writes it first."""
    manifest = Manifest.load(folder)
    for path in manifest.shard_paths(folder, "train"):
        for rows in pq.ParquetFile(path).iter_batches(batch, use_threads=False):
            yield _stack(rows, manifest)


def plain_in_memory(folder: Path, batch: int) -> Iterator[Plain]:
    """The same with a full shuffle of tensors in memory."""
    manifest = Manifest.load(folder)
    paths = manifest.shard_paths(folder, "train")
    table = pa.concat_tables([pq.read_table(p, use_threads=False) for p in paths])
    dense, ids, labels = _stack(table.combine_chunks(), manifest)
    ids = ids.view(len(manifest.sparse), -1).t().contiguous()
    for rows in torch.randperm(len(labels)).split(batch):
        yield dense[rows], ids[rows].t().reshape(-1), labels[rows]


def decode(folder: Path, batch: int) -> Iterator[int]:
    """Rows of each row group; ``batch`` is not used."""
    for path in Manifest.load(folder).shard_paths(folder, "train"):
        file = pq.ParquetFile(path, memory_map=True)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False).num_rows


def memory(folder: Path, batch: int) -> Iterator[int]:
    """Copies what a batch holds, from a source too large for the caches."""
    manifest = Manifest.load(folder)
    num_rows = manifest.splits["train"].num_rows
    row_bytes = 4 * (1 + len(manifest.dense)) + 8 * len(manifest.sparse)
    source = torch.zeros(min(num_rows, 1_000_000) * row_bytes, dtype=torch.uint8)
    size = batch * row_bytes
    for start in range(0, num_rows * row_bytes, size):
        at = start % (len(source) - size)
        yield source[at : at + size].clone().numel() // row_bytes


def _stack(rows: pa.Table | pa.RecordBatch, manifest: Manifest) -> Plain:
    column = {name: torch.from_numpy(np.array(rows[name])) for name in rows.schema.names}
    dense = torch.stack([column[name] for name in manifest.dense], dim=1)
    ids = torch.cat([column[feature.name] for feature in manifest.sparse]).long()
    return dense, ids, column[manifest.label]


def contenders(folder: Path, batch: int) -> dict[str, Callable[[], int]]:
    """Name -> function that goes once through the training split and returns its rows."""

    def loader(shuffle: bool) -> int:
        batches = BatchLoader(folder, "train", batch, shuffle=shuffle)
        return sum(b.kjt().stride() for b in batches)

    def plain(make: Callable[[Path, int], Iterator[Plain]]) -> int:
        return sum(len(labels) for _, _, labels in make(folder, batch))

    return {
        "loader": lambda: loader(True),
        "loader_in_order": lambda: loader(False),
        "plain_in_order": lambda: plain(plain_in_order),
        "plain_in_memory": lambda: plain(plain_in_memory),
        "decode": lambda: sum(decode(folder, batch)),
        "memory": lambda: sum(memory(folder, batch)),
    }


def measure(folder: Path, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Rows per second of every contender at one batch size."""
    runs = contenders(folder, batch)
    best = {name: [float("inf"), float("inf")] for name in runs}
    rows: dict[str, int] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            rows[name] = run()
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            best[name] = [min(a, b) for a, b in zip(best[name], spent, strict=True)]
    return {
        name: {
            "rows_per_cpu_second": round(rows[name] / cpu),
            "rows_per_second": round(rows[name] / wall),
            "ratio_to_plain_in_order": round(
                best["plain_in_order"][0] / rows["plain_in_order"] * rows[name] / cpu, 2
            ),
        }
        for name, (cpu, wall) in best.items()
    }


def training(folder: Path, batch: int, rounds: int) -> dict[str, dict[str, object]]:
    """An epoch of DLRM, with and without prefetching: rows per second and shares of its time."""
    config = TrainConfig(data=folder, out=folder, method="full", batch_size=batch)
    manifest = Manifest.load(folder)
    model, embeddings = build_model(config, resolve_plan(config, manifest), len(manifest.dense))
    optimizers = Optimizers(model, embeddings, config)
    best: dict[bool, dict[str, float]] = {}
    epoch(islice(BatchLoader(folder, "train", batch), 3), model, optimizers)  # kernels are compiled
    for _ in range(rounds):
        for prefetch in (False, True):
            batches = iter(BatchLoader(folder, "train", batch, prefetch=prefetch))
            spent = epoch(batches, model, optimizers)
            best[prefetch] = min(best.get(prefetch, spent), spent, key=lambda of: of["all"])
    num_rows = manifest.splits["train"].num_rows
    return {
        "prefetch" if prefetch else "no_prefetch": {
            "rows_per_second": round(num_rows / spent["all"]),
            "shares_of_time": {
                part: round(seconds / spent["all"], 4)
                for part, seconds in spent.items()
                if part != "all"
            },
        }
        for prefetch, spent in best.items()
    }


def epoch(batches: Iterator[Batch], model: nn.Module, optimizers: Optimizers) -> dict[str, float]:
    """Train on ``batches``; seconds of each part of the loop, and of ``all``."""
    spent = {"loader": 0.0, "features": 0.0, "forward": 0.0, "backward": 0.0, "rest": 0.0}
    start = last = time.perf_counter()

    def timed(part: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[part] += now - last
        last = now

    while (batch := next(batches, None)) is not None:
        timed("loader")
        features = batch.kjt()
        timed("features")
        loss = binary_cross_entropy_with_logits(model(batch.dense, features), batch.labels)
        timed("forward")
        optimizers.zero_grad()
        timed("rest")
        loss.backward()
        timed("backward")
        optimizers.step()
        timed("rest")
    timed("loader")
    return {**spent, "all": last - start}


def footprint(folder: Path, batch: int) -> dict[str, int]:
    """Bytes of a state, and memory that a pass over the split adds at its peak."""
    loader = BatchLoader(folder, "train", batch)
    batches = iter(loader)
    reset_peak_rss()
    before = peak_rss_bytes()
    for _ in batches:
        pass
    loader.set_epoch(1)
    next(iter(loader))
    state = json.dumps(loader.state_dict())
    return {
        "state_bytes": len(state),
        "window_rows": DEFAULT_WINDOW_ROWS,
        "peak_bytes_added": peak_rss_bytes() - before,
    }


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[2048, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--training-rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="data folder to use instead of synthetic rows")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "data"
        if arguments.folder is None:
            make_synthetic(folder, arguments.rows)
        result: dict[str, object] = {
            "environment": describe_environment(num_threads=1),
            "data": {"rows": Manifest.load(folder).splits["train"].num_rows},
        }
        result["footprint"] = footprint(folder, arguments.batch[0])
        result["training"] = {
            str(b): training(folder, b, arguments.training_rounds) for b in arguments.batch
        }
        os.sched_setaffinity(0, {min(cores)})
        result["batch"] = {str(b): measure(folder, b, arguments.rounds) for b in arguments.batch}
    result["load_average"] = round(os.getloadavg()[0], 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


if __name__ == "__main__":
    main()
