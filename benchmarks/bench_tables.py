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
* each method: CompressedEmbeddingBagCollection, engine ``fused`` with the kernel that ``--kernel``
  says, at a quarter of full's bytes. ``ratio_to_physical``: to the step of its physical tables
  alone, under the same kernel, on rows that were worked out before: what rewrite, combine and the
  batches cost.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
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
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.environment import describe_environment
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.data.teacher import KAGGLE_SIZES
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

__all__ = ["collection_of", "features", "fresh", "main", "make_kjts", "zipf_batches"]

CAP = 1_000_000
LEARNING_RATE = 0.01
PHYSICAL = " physical tables"
FAR = 4
"""Turns from the batch of a method to that of its tables alone: the rows have left the caches."""
Collection = CompressedEmbeddingBagCollection
Step = Callable[[Tensor, KeyedJaggedTensor, Tensor], None]


def features(dim: int) -> tuple[Feature, ...]:
    """The 26 features."""
    return tuple(
        Feature(name=f"C{i + 1}", num_ids=min(n, CAP), dim=dim) for i, n in enumerate(KAGGLE_SIZES)
    )


def zipf_batches(of: tuple[Feature, ...], batch: int, count: int) -> list[Tensor]:
    """``count`` batches of ids ``(F, B)``, log-uniform ranks (Zipf with exponent 1)."""
    generator = torch.Generator().manual_seed(0)
    top = torch.tensor([float(f.num_ids or 1) for f in of])[:, None]
    out = []
    for _ in range(count):
        u = torch.rand(len(of), batch, generator=generator, dtype=torch.float64)
        out.append((torch.exp(u * torch.log(top + 1)).long() - 1).clamp_(min=0))
    return out


def embedding_bags(of: tuple[Feature, ...]) -> Step:
    """One ``nn.EmbeddingBag`` per table, sparse gradients."""
    bags = nn.ModuleList(
        nn.EmbeddingBag(f.num_ids or 1, f.dim, mode="sum", sparse=True) for f in of
    )
    optimizer = torch.optim.SGD(bags.parameters(), lr=LEARNING_RATE)

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        offsets = torch.arange(ids.shape[1])
        out = torch.cat([bag(row, offsets) for bag, row in zip(bags, ids, strict=True)], dim=1)
        optimizer.zero_grad()
        out.backward(gradient)
        optimizer.step()

    return step


def fbgemm(of: tuple[Feature, ...]) -> Step:
    """The raw operator."""
    operator = SplitTableBatchedEmbeddingBagsCodegen(
        [(f.num_ids or 1, f.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for f in of],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=LEARNING_RATE,
        bounds_check_mode=BoundsCheckMode.NONE,
        stochastic_rounding=False,
    )

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        values = ids.reshape(-1)
        operator(values, torch.arange(values.numel() + 1)).backward(gradient)

    return step


def torchrec_fused(of: tuple[Feature, ...]) -> Step:
    """torchrec's fused collection."""
    collection = FusedEmbeddingBagCollection(
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

    def step(ids: Tensor, kjt: KeyedJaggedTensor, gradient: Tensor) -> None:
        collection(fresh(kjt)).values().backward(gradient)

    return step


def collection_of(of: tuple[Feature, ...], method: str, kernel: Kernel) -> Collection:
    """A method under the fused engine, at a quarter of the bytes."""
    counts = {f.name: np.arange(f.num_ids or 1, 0, -1) for f in of}
    plan = full_plan(of)
    if method != "full":
        plan = make_plan(method, of, size(plan).serving_bytes // 4, counts=counts)
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


def make_kjts(of: tuple[Feature, ...], batches: Sequence[Tensor]) -> list[KeyedJaggedTensor]:
    """Batches ``(F, B)`` of one id per bag as torchrec takes them."""
    return [
        KeyedJaggedTensor(
            keys=[f.name for f in of],
            values=ids.reshape(-1),
            stride=ids.shape[1],
            lengths=torch.ones(ids.numel(), dtype=torch.int32),
            length_per_key=[ids.shape[1]] * len(of),
        )
        for ids in batches
    ]


def fresh(kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """A batch as a loader hands it over: nothing cached but the lengths per key."""
    return KeyedJaggedTensor(
        keys=kjt.keys(),
        values=kjt.values(),
        lengths=kjt.lengths(),
        stride=kjt.stride(),
        length_per_key=kjt.length_per_key(),
    )


def measure(batch: int, dim: int, rounds: int, kernel: Kernel) -> dict[str, dict[str, float]]:
    """Median milliseconds and bytes of every contender."""
    of = features(dim)
    full_bytes = size(full_plan(of)).serving_bytes
    steps: dict[str, tuple[Step, int]] = {
        "embedding_bag": (embedding_bags(of), full_bytes),
        "torchrec_fused": (torchrec_fused(of), full_bytes),
        "fbgemm": (fbgemm(of), full_bytes),
    }
    batches = zipf_batches(of, batch, 8)
    kjts = make_kjts(of, batches)
    for name in method_names():
        collection = collection_of(of, name, kernel)
        table_bytes = size(collection.plan).serving_bytes
        steps[name] = (whole(collection), table_bytes)
        steps[name + PHYSICAL] = (physical(collection, kjts), table_bytes)
    gradient = torch.randn(batch, dim * len(of)) * 1e-3
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, (step, _) in steps.items():
            at = (turn + (FAR if name.endswith(PHYSICAL) else 0)) % len(batches)
            start = time.perf_counter()
            step(batches[at], kjts[at], gradient)
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = {}
    for name, (_, table_bytes) in steps.items():
        if name.endswith(PHYSICAL):
            continue
        row = {
            "milliseconds": round(medians[name], 3),
            "ratio_to_fbgemm": round(medians[name] / medians["fbgemm"], 3),
            "ratio_to_full": round(medians[name] / medians["full"], 3),
            "table_bytes": table_bytes,
        }
        if name + PHYSICAL in medians:
            alone = medians[name + PHYSICAL]
            row["ratio_to_physical"] = round(medians[name] / alone, 3)
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
            rows = measure(batch, dim, args.rounds, args.kernel)
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
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "environment": describe_environment(args.threads),
                "memory_kept": memory_kept,
                "kernel": args.kernel,
                "results": results,
            },
            indent=1,
        )
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
