"""Search on one data folder: train a supernet, derive a plan for every budget, write it all down.

    out/search.json                 what was asked for, the history, what was found
    out/plans/<budget>.json         a plan per budget, to train like any other
    out/plans/<budget>.start.safetensors   weights to start from, where the search gives some
    out/checkpoint/                 while it runs

A search that was killed goes on from its checkpoint and finds the very same plans; a finished one
is not repeated. Training and validation rows only: the test split stays closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from compactrec.benchmarks.environment import (
    describe_environment,
    library_versions,
    peak_rss_bytes,
    reset_peak_rss,
)
from compactrec.benchmarks.fitness import Fitness, rows_of
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.model import build_model, click_model
from compactrec.benchmarks.plans import counts_of
from compactrec.benchmarks.readiness import check_ready
from compactrec.benchmarks.result import DataInfo
from compactrec.benchmarks.search_config import SearchConfig
from compactrec.benchmarks.search_loop import SearchLoop
from compactrec.benchmarks.search_result import FoundPlan, SearchResult, finished_search
from compactrec.benchmarks.start import START_EPOCHS
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.embeddings import size
from compactrec.embeddings.checkpoint_io import write_atomically
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.placing import place
from compactrec.embeddings.search import Derived, Search, SearchTask, Supernet, Trained, get_search
from compactrec.embeddings.search.base import BudgetTooSmallError, parse_search_options
from compactrec.embeddings.search.beside import derive_with_beside, full_bytes
from compactrec.locks import locked

__all__ = ["search"]

_LEAST_FITNESS_ROWS = 1_000
_FITNESS_SHARE = 60


@dataclass(frozen=True)
class _Run:
    config: SearchConfig
    search: Search
    manifest: Manifest
    task: SearchTask
    supernet: Supernet
    model: nn.Module
    store: CheckpointFolder


def search(config: SearchConfig) -> SearchResult:
    """Run ``config`` to its end; what it found is written to ``config.train.out`` and returned.

    A budget below what the search can do is recorded with its reason.

    Raises:
        TrainingDiverged: a loss or a prediction is not finite.
        CheckpointError: the checkpoint is damaged or of another search, or cannot be written.
        ValueError: the data or the result in the folder does not fit the config, or another
            process is writing there.
    """
    check_ready(config.train)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    keep_freed_memory()
    reset_peak_rss()
    train = config.train
    if train.num_threads is not None:
        torch.set_num_threads(train.num_threads)
    manifest = Manifest.load(train.data)
    for split in ("train", "validation"):
        if split not in manifest.splits or not manifest.splits[split].num_rows:
            raise ValueError(f"{train.data} has no {split} rows; prepare it with all splits")
    identity = {"config": config.resolved(), "data": manifest.sha256()}
    resumable = {**identity, "versions": library_versions()}
    with locked(train.out), CheckpointFolder(train.out / "checkpoint", resumable) as store:
        if (done := finished_search(train.out, identity)) is not None:
            store.remove()
            return done
        manifest.verify(train.data, ("train", "validation"))
        (train.out / "plans").mkdir(parents=True, exist_ok=True)
        run = _start(config, manifest, store)
        loop = SearchLoop(train, run.model, run.supernet, store, config.search)
        loop.run()
        ended = time.perf_counter()
        found = _derive_all(run)
        result = SearchResult(
            search=config.search,
            seed=train.seed,
            config=config.resolved(),
            data=DataInfo(
                name=manifest.name, protocol=manifest.protocol, manifest_sha256=manifest.sha256()
            ),
            history=loop.entries,
            found=found,
            train_seconds=loop.seconds,
            total_seconds=loop.wall_seconds + time.perf_counter() - ended,
            supernet_bytes=sum(p.numel() * p.element_size() for p in run.model.parameters()),
            peak_rss_bytes=peak_rss_bytes(),
            environment=describe_environment(torch.get_num_threads()),
        )
        result.save(train.out)
        store.remove()
        return result


def _start(config: SearchConfig, manifest: Manifest, store: CheckpointFolder) -> _Run:
    """Build the task, the supernet and the model around it; keep how they start."""
    train, chosen = config.train, get_search(config.search)
    own = {feature.name for feature in manifest.sparse}
    everything = train.features(manifest)
    features = tuple(f for f in everything if f.name in own)
    beside = tuple(f for f in everything if f.name not in own)
    open_ones = [f.name for f in features if f.num_ids is None]
    if open_ones:
        raise ValueError(
            f"{config.search}: features {open_ones} have an open vocabulary, and a search needs a "
            f"row for every id; prepare the data with a vocabulary"
        )
    searched = tuple(f.name for f in features if (f.num_ids or 0) > train.threshold)
    if not searched:
        raise ValueError(
            f"{config.search}: no feature has more than threshold = {train.threshold} ids, so "
            f"there is nothing to search; lower it: {config.search}:train.threshold=0"
        )
    steps = len(BatchLoader(train.data, "train", train.batch_size))
    taken = full_bytes(beside)
    task = SearchTask(
        features=features,
        searched=searched,
        counts=counts_of(features, manifest.counts(train.data)),
        options=parse_search_options(chosen, config.options),
        budgets=tuple(budget - taken for budget in config.budgets if budget > taken),
        steps_per_epoch=steps,
        seed=train.seed,
        beside=beside,
    )
    supernet, model = _built(config, task, len(manifest.dense))
    return _Run(config, chosen, manifest, task, supernet, model, store)


def _built(config: SearchConfig, task: SearchTask, num_dense: int) -> tuple[Supernet, nn.Module]:
    """The supernet and the model around it as they start: the same again from the same seed."""
    torch.manual_seed(config.train.seed)
    supernet = get_search(config.search).supernet(task)
    return supernet, click_model(config.train, supernet, num_dense)


class _Initial(Mapping[str, Tensor]):
    """The state before the first step, built again when somebody asks: it is not kept meanwhile."""

    def __init__(self, build: Callable[[], tuple[Supernet, nn.Module]]) -> None:
        self._build = build

    @cached_property
    def _both(self) -> tuple[Supernet, nn.Module]:
        return self._build()

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        return self._both[0].raw_tables()

    @property
    def supernet(self) -> Supernet:
        """What the tables are of."""
        return self._both[0]

    @property
    def model(self) -> nn.Module:
        """The whole model."""
        return self._both[1]

    def __getitem__(self, name: str) -> Tensor:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def _derive_all(run: _Run) -> tuple[FoundPlan, ...]:
    """A plan for every budget, the largest first."""
    train = run.config.train
    initial = _Initial(lambda: _built(run.config, run.task, len(run.manifest.dense)))
    batch = next(iter(BatchLoader(
        train.data, "validation", _fitness_rows(run), seed=train.seed,
    )))  # fmt: skip
    trained = Trained(
        task=run.task,
        supernet=run.supernet,
        initial=initial,
        fitness=Fitness(run.model, run.supernet, batch),
        rows=partial(
            rows_of, run.supernet, train.data, batch_size=train.eval_batch_size, seed=train.seed
        ),
    )
    return tuple(_derive(run, trained, initial, budget) for budget in run.config.budgets or (None,))


def _fitness_rows(run: _Run) -> int:
    """Rows that candidates are judged on: as many as the config says or its rule gives."""
    there = run.manifest.splits["validation"].num_rows
    asked = run.config.fitness_rows
    if asked is None:
        epochs = sum(phase.epochs for phase in run.supernet.phases)
        seen = epochs * run.manifest.splits["train"].num_rows
        asked = max(_LEAST_FITNESS_ROWS, seen // _FITNESS_SHARE)
    return min(asked, there)


def _derive(run: _Run, trained: Trained, initial: _Initial, budget: int | None) -> FoundPlan:
    """One plan, saved with its start; a budget that is too small is an outcome."""
    started = time.perf_counter()
    try:
        derived = derive_with_beside(run.search, trained, budget)
    except BudgetTooSmallError as error:
        return FoundPlan(budget_bytes=budget, reason=str(error))
    serving = size(derived.plan).serving_bytes
    if budget is not None and serving > budget:
        raise AssertionError(f"{run.search.name} derived {serving:,} bytes for {budget:,}")
    folder = run.config.train.out
    name = f"plans/{'own' if budget is None else budget}"
    derived.plan.save(folder / f"{name}.json")
    start = None
    if derived.tables is not None or derived.dense != "fresh":
        start = f"{name}.start.safetensors"
        state = {k: t.contiguous() for k, t in _start_state(run, derived, initial).items()}
        about = None if derived.epochs is None else {START_EPOCHS: str(derived.epochs)}
        write_atomically(folder / start, tensors_to_bytes(state, about))
    return FoundPlan(
        budget_bytes=budget,
        plan=f"{name}.json",
        start=start,
        epochs=derived.epochs,
        serving_bytes=serving,
        derive_seconds=time.perf_counter() - started,
        notes=derived.notes,
    )


def _start_state(run: _Run, derived: Derived, initial: _Initial) -> dict[str, Tensor]:
    """The state dict of a model over the derived plan, with the values that it is to start from."""
    num_dense = len(run.manifest.dense)
    model, embeddings = build_model(run.config.train, derived.plan, num_dense)
    tables, source = dict(derived.tables or {}), run.model
    if derived.dense != "fresh":
        trained = derived.dense == "trained"
        source = run.model if trained else initial.model
        tables |= (run.supernet if trained else initial.supernet).tables_beside()
    for collection in embeddings:
        place(collection, tables)
    state = model.state_dict()
    if derived.dense != "fresh":
        inside = next(name for name, m in run.model.named_modules() if m is run.supernet)
        for name, tensor in source.state_dict().items():
            if name in state and not name.startswith(f"{inside}."):
                state[name] = tensor
    return state
