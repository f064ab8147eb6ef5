r"""The table step, forward + backward + update, side by side in one run.

    python benchmarks/bench_tables.py --batch 2048 4096 16384 --dim 16 64 --rounds 15 \
        --out benchmarks/results/tables.json

26 tables of the Criteo Kaggle sizes, capped at 1M rows; one id per bag, Zipf ids; SGD. Every
contender gets the same batches, in turn (A B C A B C ...), so a drift of the machine's speed hits
all alike. Times are medians over rounds; what counts are the ratios within one run. Memory that a
step frees stays with the process, as in ``train``; with ``--fresh-memory`` the C library gives it
back at every step, which adds the system's work on large temporaries to every contender.

* ``embedding_bag``: ``nn.EmbeddingBag(sparse=True)`` per table, ``torch.optim.SGD``;
* ``torchrec_fused``: torchrec's FusedEmbeddingBagCollection;
* ``fbgemm``: the raw table-batched operator;
* each method, and ``unified`` with two chunks beside the one that it has where nothing is asked
  for: CompressedEmbeddingBagCollection, engine ``fused`` with the kernel that ``--kernel`` says, at
  a quarter of full's bytes. ``ratio_to_physical``: to the step of its physical tables
  alone, under the same kernel, on rows that were worked out before: what rewrite, combine and the
  batches cost.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.table_inputs import (
    EmbeddingBags,
    features,
    fresh,
    make_kjts,
    zipf_batches,
)
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    dense_parameters,
    full_plan,
    make_plan,
    method_names,
    size,
)
from compactrec.embeddings.fused_tables import Kernel

__all__ = [
    "PHYSICAL",
    "collection_of",
    "contenders",
    "described",
    "main",
    "measure",
    "physical",
    "whole",
]

LEARNING_RATE = 0.01
PHYSICAL = " physical tables"
FAR = 4
"""Turns from the batch of a method to that of its tables alone: the rows have left the caches."""
Collection = CompressedEmbeddingBagCollection
Step = Callable[[Tensor, KeyedJaggedTensor, Tensor], None]


def embedding_bags(bags: EmbeddingBags) -> Step:
    """torch's own tables, sparse gradients."""
    optimizer = torch.optim.SGD(bags.parameters(), lr=LEARNING_RATE)

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        optimizer.zero_grad()
        bags(ids).backward(gradient)
        optimizer.step()

    return step


def fbgemm_operator(of: Sequence[Feature]) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The raw operator."""
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(f.num_ids or 1, f.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for f in of],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=LEARNING_RATE,
        bounds_check_mode=BoundsCheckMode.NONE,
        stochastic_rounding=False,
    )


def fbgemm(operator: SplitTableBatchedEmbeddingBagsCodegen) -> Step:
    """Its step."""

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        values = ids.reshape(-1)
        operator(values, torch.arange(values.numel() + 1)).backward(gradient)

    return step


def torchrec_collection(of: Sequence[Feature]) -> FusedEmbeddingBagCollection:
    """torchrec's fused collection."""
    return FusedEmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{f.name}",
                embedding_dim=f.dim,
                num_embeddings=f.num_ids or 1,
                feature_names=[f.name],
            )
            for f in of
        ],
        optimizer_type=torch.optim.SGD,
        optimizer_kwargs={"lr": LEARNING_RATE},
        device=torch.device("cpu"),
    )


def torchrec_fused(collection: FusedEmbeddingBagCollection) -> Step:
    """Its step."""

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        collection(fresh(kjt)).values().backward(gradient)

    return step


def contenders(dim: int) -> dict[str, tuple[str, dict[str, int]]]:
    """A method and its options by the name of what is measured.

    Vectors of ``unified`` are one chunk where nothing is asked for; it is there with two as well.
    """
    methods: dict[str, tuple[str, dict[str, int]]] = {name: (name, {}) for name in method_names()}
    return {**methods, "unified_two_chunks": ("unified", {"dim": dim // 2})}


def collection_of(
    of: tuple[Feature, ...], method: str, kernel: Kernel, options: Mapping[str, int] | None = None
) -> Collection:
    """A method under the fused engine, at a quarter of the bytes."""
    counts = {f.name: np.arange(f.num_ids or 1, 0, -1) for f in of}
    plan = full_plan(of)
    if method != "full":
        plan = make_plan(method, of, size(plan).serving_bytes // 4, counts=counts, options=options)
    return CompressedEmbeddingBagCollection(
        plan,
        engine="fused",
        optimizer=FusedOptimizer(name="sgd", learning_rate=LEARNING_RATE),
        kernel=kernel,
    )


def whole(collection: Collection) -> Step:
    """Everything from ids to vectors and back."""
    dense = dense_parameters(collection)
    optimizer = torch.optim.SGD(dense, lr=LEARNING_RATE) if dense else None

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        if optimizer is not None:
            optimizer.zero_grad()
        collection(fresh(kjt)).values().backward(gradient)
        if optimizer is not None:
            optimizer.step()

    return step


def physical(collection: Collection, kjts: Sequence[KeyedJaggedTensor]) -> Step:
    """The physical tables alone, on rows that were worked out before."""
    rewritten = {id(kjt): collection.rewrite(fresh(kjt)) for kjt in kjts}
    known: dict[int, Tensor] = {}

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        rows = rewritten[id(kjt)]
        out = collection.tables(rows.values(), rows.lengths(), None, kjt.stride())
        if not known:
            known[0] = torch.randn(out.shape) * 1e-3
        out.backward(known[0])

    return step


def measure(
    of: tuple[Feature, ...], batch: int, rounds: int, kernel: Kernel
) -> dict[str, dict[str, float]]:
    """Median milliseconds and bytes of every contender."""
    full_bytes = size(full_plan(of)).serving_bytes
    steps: dict[str, tuple[Step, int]] = {
        "embedding_bag": (embedding_bags(EmbeddingBags(of)), full_bytes),
        "torchrec_fused": (torchrec_fused(torchrec_collection(of)), full_bytes),
        "fbgemm": (fbgemm(fbgemm_operator(of)), full_bytes),
    }
    batches = zipf_batches(of, batch, 8)
    kjts = make_kjts(of, batches)
    for name, (method, options) in contenders(of[0].dim).items():
        collection = collection_of(of, method, kernel, options)
        table_bytes = size(collection.plan).serving_bytes
        steps[name] = (whole(collection), table_bytes)
        steps[name + PHYSICAL] = (physical(collection, kjts), table_bytes)
    gradient = torch.randn(batch, sum(f.dim for f in of)) * 1e-3
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, (step, _) in steps.items():
            at = (turn + (FAR if name.endswith(PHYSICAL) else 0)) % len(batches)
            start = time.perf_counter()
            step(batches[at], kjts[at], gradient)
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(t) for name, t in times.items()}
    return described(medians, {name: table_bytes for name, (_, table_bytes) in steps.items()})


def described(
    medians: dict[str, float], table_bytes: dict[str, int]
) -> dict[str, dict[str, float]]:
    """Times, bytes and ratios; physical tables are in the rows of their methods."""
    rows = {}
    for name, milliseconds in medians.items():
        if name.endswith(PHYSICAL):
            continue
        row = {
            "milliseconds": round(milliseconds, 3),
            "ratio_to_fbgemm": round(milliseconds / medians["fbgemm"], 3),
            "ratio_to_full": round(milliseconds / medians["full"], 3),
            "table_bytes": table_bytes[name],
        }
        if name + PHYSICAL in medians:
            alone = medians[name + PHYSICAL]
            row["ratio_to_physical"] = round(milliseconds / alone, 3)
            row["physical_ratio_to_full"] = round(alone / medians["full" + PHYSICAL], 3)
        rows[name] = row
    return rows


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[2048])
    parser.add_argument("--dim", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernel", choices=("auto", "numba", "fbgemm"), default="auto")
    parser.add_argument("--fresh-memory", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    memory_kept = not args.fresh_memory and keep_freed_memory()
    torch.set_num_threads(args.threads)
    results = []
    for dim in args.dim:
        for batch in args.batch:
            rows = measure(features(dim), batch, args.rounds, args.kernel)
            results.append({"batch": batch, "dim": dim, "threads": args.threads, "rows": rows})
            print(f"batch {batch}, width {dim}, {args.threads} thread(s)")
            for name, row in rows.items():
                print(
                    f"  {name:16s} {row['milliseconds']:9.2f} ms"
                    f"  {row['ratio_to_fbgemm']:6.2f} x fbgemm"
                    f"  {row['ratio_to_full']:6.2f} x full  {row['table_bytes'] / 1e6:8.1f} MB"
                    + (
                        f"  {row['ratio_to_physical']:6.2f} x its tables"
                        if "ratio_to_physical" in row
                        else ""
                    )
                )
    found = {"memory_kept": memory_kept, "kernel": args.kernel, "results": results}
    write_bench(args.out, args.threads, found)


if __name__ == "__main__":
    main()
