"""Train one model on one data folder, select on validation, test once. A script to read and copy.

    python -m compactrec.benchmarks.train run.toml
    torchrun --nproc-per-node 4 -m compactrec.benchmarks.train run.toml  # engine = "sharded"

The file holds the fields of :class:`~compactrec.benchmarks.config.TrainConfig`. A run that was
killed goes on from its last checkpoint and ends with the very same weights; a finished one is not
repeated. The test split is opened once, after training, with the weights of the best validation.
(The public DLRM code picks its checkpoint on test; numbers made so look better than they are.)
"""

from __future__ import annotations

import logging
import math
import sys
import time
import tomllib
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save as tensors_to_bytes
from torch import nn

from compactrec.benchmarks import snapshot
from compactrec.benchmarks.board import Board
from compactrec.benchmarks.calibration import calibrated
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.due import Due
from compactrec.benchmarks.environment import library_versions, reset_peak_rss
from compactrec.benchmarks.history import History
from compactrec.benchmarks.interrupt import Interrupt, RunInterrupted, noted_signals
from compactrec.benchmarks.loop import Loop, make_loop, predict
from compactrec.benchmarks.memory import keep_freed_memory
from compactrec.benchmarks.metrics import Metrics, evaluate
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.outcome import keep_weights, make_result
from compactrec.benchmarks.plans import resolve_plan
from compactrec.benchmarks.processes import Processes, joined
from compactrec.benchmarks.progress import ProgressBar
from compactrec.benchmarks.readiness import check_ready
from compactrec.benchmarks.result import (
    MODEL_NAME,
    PLAN_NAME,
    PREDICTIONS_NAME,
    Result,
    finished_result,
)
from compactrec.benchmarks.start import load_start, start_sha256
from compactrec.benchmarks.stopping import (
    TrainingCollapsed,
    TrainingDiverged,
    check_learning,
    place,
)
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.embeddings import AnyPlan
from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_io import write_atomically
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.shard_warnings import quiet_torch
from compactrec.locks import locked

__all__ = ["RunInterrupted", "TrainingCollapsed", "TrainingDiverged", "train"]

SHOW_EVERY_SECONDS = 0.5

Floats = npt.NDArray[np.float32]


@dataclass
class Run:
    """The moving parts of one run."""

    config: TrainConfig
    processes: Processes
    model: nn.Module
    loop: Loop
    loader: BatchLoader
    validation: BatchLoader
    store: CheckpointFolder
    due: Due
    history: History = field(default_factory=History)
    best_file: TensorSet | None = None
    started_at: float = field(default_factory=time.monotonic)
    resumed: str | None = None
    """From where the run goes on, in words; None where it began here."""
    interrupt: Interrupt = field(default_factory=Interrupt)


def train(config: TrainConfig, *, stop_on_signals: bool = False) -> Result:
    """Run ``config`` to its end; what it gave is written to ``config.out`` and returned.

    With engine ``sharded`` every process of ``torchrun`` calls this, and the first one writes. With
    ``stop_on_signals``, for a program's main thread, SIGINT and SIGTERM end the training after the
    step, or the validation, that is being made, and a checkpoint.

    Raises:
        RunInterrupted: such a signal came.
        TrainingDiverged: a loss or a prediction is NaN or infinite.
        TrainingCollapsed: validation AUC stays at that of chance.
        CheckpointError: the checkpoint in ``config.out`` is damaged or of another run, or a new
            one cannot be written.
        ValueError: the data, the plan or the result in ``config.out`` does not fit the config,
            another process is writing there, it is a data folder, or the device is not here.
    """
    check_ready(config)
    # Every KeyedJaggedTensor asks torch.fx whether it is traced, and torch 2.13 logs that it did.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    keep_freed_memory()
    reset_peak_rss()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    manifest = Manifest.load(config.data)
    for split in ("train", "validation", "test"):  # now, not after hours of training
        if split not in manifest.splits or not manifest.splits[split].num_rows:
            raise ValueError(f"{config.data} has no {split} rows; prepare it with all three splits")
    plan = resolve_plan(config, manifest)
    start = start_sha256(config.start)
    identity = {
        "config": config.resolved(), "plan": plan.to_json(), "data": manifest.sha256(),
        "start": start,
    }  # fmt: skip
    resumable = {**identity, "versions": library_versions()}
    with (
        joined(config.engine, config.device) as processes,
        locked(config.out) if processes.is_first else nullcontext(),
        CheckpointFolder(config.out / "checkpoint", resumable) as store,
    ):
        done = finished_result(config.out, identity) if processes.is_first else None
        known = processes.text_of_first(None if done is None else done.model_dump_json())
        if known is not None:
            store.remove()  # where the run was killed after its result, before clearing up
            return Result.model_validate_json(known)
        used = ("train", "validation", "test") if config.score_test else ("train", "validation")
        manifest.verify(config.data, used)
        config.out.mkdir(parents=True, exist_ok=True)
        run = _start(config, manifest, plan, store, processes)
        with noted_signals(stop_on_signals) as run.interrupt:
            _fit(run)
        return _finish(run, manifest, plan, start)


def _start(
    config: TrainConfig,
    manifest: Manifest,
    plan: AnyPlan,
    store: CheckpointFolder,
    processes: Processes,
) -> Run:
    """Build everything; go on from the checkpoint, if there is one."""
    model, embeddings = build_model(config, plan, len(manifest.dense))
    loop = make_loop(model, embeddings, config, processes)
    if config.start is not None:
        load_start(model, config.start)
    part = processes.part
    run = Run(
        config=config,
        processes=processes,
        model=model,
        loop=loop,
        loader=BatchLoader(config.data, "train", config.batch_size, seed=config.seed, part=part),
        validation=BatchLoader(
            config.data, "validation", config.eval_batch_size, shuffle=False, part=part
        ),
        store=store,
        due=Due(config, processes),
    )
    if (checkpoint := store.load()) is not None:
        run.resumed = snapshot.origin(store, checkpoint, f"step {checkpoint.step:,}")
        snapshot.restore(store, checkpoint, model, loop.optimizers, run.loader, loop.names())
        run.history = History.from_json(checkpoint.state["history"])
        run.best_file = checkpoint.best
    run.history.goes_on(processes.size)
    return run


def _fit(run: Run) -> None:
    config, history = run.config, run.history
    num_steps = config.epochs * config.steps_of(len(run.loader))
    is_first = run.processes.is_first
    quiet = config.quiet or not is_first
    with (
        ProgressBar(config.method or "train", num_steps, quiet) as bar,
        Board(config, history, is_writer=is_first) as board,
    ):
        if run.resumed is not None:
            bar.say(run.resumed)
        if not num_steps:
            _validate(run, board)
        while history.epoch < config.epochs and not history.stopped:
            _train_epoch(run, bar, board)
            if not history.stopped:
                history.epoch += 1
                run.loader.set_epoch(history.epoch)
    run.store.wait()  # where a save in the background failed, this says so
    check_learning(history, config, at_end=True)


def _train_epoch(run: Run, bar: ProgressBar, board: Board) -> None:
    """What is left of one epoch."""
    config, history = run.config, run.history
    shown_at = 0.0
    started = time.perf_counter()
    for done in run.loop.steps(run.loader, history):
        history.count(done.loss, done.num_rows)
        if not math.isfinite(history.loss_sum):
            raise TrainingDiverged(f"the loss is {done.loss} at {place(history, config)}")
        now = time.perf_counter()
        history.train_seconds += now - started
        board.stepped(done.loss)
        if now - shown_at > SHOW_EVERY_SECONDS:
            shown_at = now
            history.show(bar)
        if history.is_evaluation_step(config, config.steps_of(len(run.loader))):
            _validate(run, board)
            history.show(bar)
        asked = run.due.end(history.step, run.interrupt)
        if run.due.checkpoint(history.step) or asked:
            _save(run, in_background=config.checkpoint_asynchronous and not asked)
        if asked:
            raise RunInterrupted(asked, history.step, run.store.path)
        if history.stopped:
            return
        started = time.perf_counter()


def _validate(run: Run, board: Board) -> None:
    """Evaluate, remember the weights if they are the best so far, and decide about stopping."""
    history = run.history
    logits, labels = _predict(run, run.validation)
    if not np.isfinite(logits).all():
        raise TrainingDiverged(
            f"a validation prediction is not finite at {place(history, run.config)}"
        )
    logits = calibrated(run.model, run.validation, run.config.device, logits, labels)
    if history.add_evaluation(evaluate(logits, labels), run.config):
        old = run.best_file
        name = f"best-{history.step:09d}"
        run.loop.pause()
        run.best_file = run.store.write(name, run.model.state_dict())
        if old is not None and old.name != name:
            run.store.discard(old)
    board.validated()
    check_learning(history, run.config)


def _save(run: Run, *, in_background: bool) -> None:
    history, loop = run.history, run.loop
    loop.pause()
    snapshot.save(
        run.store, history.step, run.model, loop.optimizers, loop.position(run.loader),
        {"history": history.to_json()}, run.best_file, loop.names(),
        asynchronous=in_background,
    )  # fmt: skip
    run.due.saved()


def _predict(run: Run, loader: BatchLoader) -> tuple[Floats, Floats]:
    """Logits and labels of a whole split, ``(N,)`` float32 each, in the order of the loader."""
    run.loop.pause()
    return predict(run.model, loader, run.config.device, run.processes)


def _finish(run: Run, manifest: Manifest, plan: AnyPlan, start: str | None) -> Result:
    """Test the selected weights, once, and write everything down; ``result.json`` comes last."""
    config, history, out = run.config, run.history, run.config.out
    assert run.best_file is not None
    test = _test(run) if config.score_test else None
    if config.keep_model:
        keep_weights(run.store, run.best_file, out / MODEL_NAME)
    if run.processes.is_first:
        plan.save(out / PLAN_NAME)
    result = make_result(
        config, manifest, plan, history, start=start, test=test,
        total_seconds=time.monotonic() - run.started_at if run.resumed is None else None,
    )  # fmt: skip
    if run.processes.is_first:
        result.save(out)
    run.store.remove()
    return result


def _test(run: Run) -> Metrics:
    """Score the test split with the selected weights and keep the predictions."""
    assert run.best_file is not None
    config, part = run.config, run.processes.part
    run.store.verify(*run.best_file.files)
    run.loop.load(run.store, run.best_file)
    test = BatchLoader(config.data, "test", config.eval_batch_size, shuffle=False, part=part)
    logits, labels = _predict(run, test)
    if run.processes.is_first:
        predictions = tensors_to_bytes({"logits": logits, "labels": labels})
        write_atomically(config.out / PREDICTIONS_NAME, predictions)
    return evaluate(logits, labels)


def main() -> None:
    """Train what the TOML file named on the command line says."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m compactrec.benchmarks.train run.toml")
    quiet_torch()
    config = TrainConfig.model_validate(tomllib.loads(Path(sys.argv[1]).read_text("utf-8")))
    try:
        result = train(config, stop_on_signals=True)
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.number)
    print(result.model_dump_json(indent=1, include={"method", "bytes", "validation", "test"}))


if __name__ == "__main__":
    main()
