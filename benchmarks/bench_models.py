r"""Training steps of every model beside FuxiCTR's and DeepCTR-Torch's same model, in one run.

    python benchmarks/bench_models.py --out benchmarks/results/models.json

26 features of the Criteo Kaggle sizes, capped so that they have 0.9M ids in all, width 16, one id
per bag, Zipf ids, no numbers, batch 4096, towers of three layers of 400. All have Adam for
everything; ours moves the table rows of a batch, theirs move all rows in every step, as their
``fit`` does. ``dense_part`` is our model over vectors that are in memory already, without tables:
what no table can be faster than. The entrants of a model are processes of their own that take
turns; what counts are the ratios within a model, of medians over rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compactrec.benchmarks.bench_file import write_bench
from compactrec.benchmarks.bench_training import NUM_IDS, capped_sizes
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.model_peers import (
    CIN,
    DEEPCTR,
    FUXICTR,
    HIDDEN,
    deepctr_model,
    deepctr_step,
    fuxictr_model,
    fuxictr_step,
)
from compactrec.benchmarks.table_inputs import click_batches
from compactrec.benchmarks.training_entrants import Constant, our_step
from compactrec.benchmarks.turns import Entrant, Step, take_turns
from compactrec.embeddings import (
    Feature,
    Plan,
    full_plan,
    size,
)
from compactrec.models.registry import get_model

__all__ = ["MODELS", "build", "main", "names_of"]

NUM_BATCHES = 8
_CROSSES = {"hidden": HIDDEN, "cross_layers": 3}
MODELS: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {},
    "fnn": {"hidden": HIDDEN},
    "ipnn": {"hidden": HIDDEN},
    "wide_deep": {"hidden": HIDDEN},
    "deepfm": {"hidden": HIDDEN},
    "dcn": _CROSSES,
    "dcnv2": _CROSSES,
    "xdeepfm": {"hidden": HIDDEN, "cin": CIN},
    "autoint_plus": {"hidden": HIDDEN, "layers": 3, "heads": 2, "head_dim": 8, "wide": True},
    "fibinet": {"hidden": HIDDEN, "share_bilinear": True, "reduction": 3},
}
"""Those that a peer has too, with the options that make it the same model."""


BATCHES = {"fibinet": 1024}
"""Of models whose entrants together would take more than 24 GB otherwise."""


def names_of(model: str) -> list[str]:
    """The entrants of a model that can be built here."""
    peers = [("fuxictr", FUXICTR), ("deepctr_torch", DEEPCTR)]
    has = [n for n, models in peers if model in models and importlib.util.find_spec(n)]
    return ["dense_part", "compactrec", *has]


def build(name: str, model: str, features: tuple[Feature, ...]) -> tuple[Step, int]:
    """The step of an entrant and the bytes of its tables."""
    torch.manual_seed(0)
    read = _read(model, features)
    table_bytes = size(full_plan(read)).table_bytes
    if name == "fuxictr":
        return fuxictr_step(fuxictr_model(model, features)), table_bytes
    if name == "deepctr_torch":
        return deepctr_step(deepctr_model(model, features)), table_bytes
    if name == "dense_part":
        return _our_step(model, Constant(read)), 0
    return _our_step(model, full_plan(read)), table_bytes


def _our_step(model: str, embeddings: Plan | Constant) -> Step:
    """As ``train`` does it, with Adam for tables too."""
    config = TrainConfig(
        data=Path("-"), out=Path("-"), method="full", model=model,
        model_options=MODELS[model], table_optimizer="adam", table_learning_rate=0.001,
    )  # fmt: skip
    return our_step(config, embeddings, 0)


def _read(model: str, features: Sequence[Feature]) -> tuple[Feature, ...]:
    """What the model looks up: first-order weights too."""
    return get_model(model).parse(MODELS[model]).features(tuple(features))


def measure(
    model: str, features: tuple[Feature, ...], batch: int, *, rounds: int, steps: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Samples per second of a model's entrants, how many times as fast ours is, and profiles."""
    batch = min(batch, BATCHES.get(model, batch))
    batches = partial(click_batches, features, batch, NUM_BATCHES, 0)
    made = {n: Entrant(batches, partial(build, n, model, features)) for n in names_of(model)}
    measured = take_turns(made, rounds=rounds, steps=steps, threads=threads)
    ours = measured["compactrec"].seconds
    return {
        name: {
            "batch": batch,
            "step_milliseconds": round(1e3 * of.seconds, 2),
            "samples_per_second": round(batch / of.seconds),
            "times_as_fast_is_ours": round(of.seconds / ours, 3),
            "table_bytes": of.table_bytes,
            "peak_bytes": of.peak_bytes,
            "operators": of.operators,
        }
        for name, of in measured.items()
    }


def main() -> None:
    """Measure, print and, with ``--out``, write a result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = capped_sizes(5_000 if args.quick else NUM_IDS)
    features = tuple(
        Feature(name=f"C{i + 1}", num_ids=n, dim=args.dim) for i, n in enumerate(sizes)
    )
    found = {}
    for model in args.models:
        found[model] = measure(
            model, features, 128 if args.quick else args.batch,
            rounds=args.rounds, steps=args.steps, threads=args.threads,
        )  # fmt: skip
        for name, row in found[model].items():
            print(
                f"{model:13s} {name:14s} {row['step_milliseconds']:9.2f} ms "
                f"{row['samples_per_second']:8.0f}/s  ours {row['times_as_fast_is_ours']:.2f}x",
                flush=True,
            )
        setting = {
            "batch": args.batch, "dim": args.dim, "num_ids": sum(sizes), "rounds": args.rounds,
            "steps": args.steps,
        }  # fmt: skip
        write_bench(args.out, args.threads, {**setting, "models": found})  # so far


if __name__ == "__main__":
    main()
