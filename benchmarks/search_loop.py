"""Trains a supernet through its phases: weights on training rows, architecture where a phase says.

    off          weight step on a training batch
    train        the same, and the architecture's optimizer steps on the same gradients
    validation   weight step on a training batch, then the architecture's gradient on a validation
                 batch, weights untouched

In a weight step of ``off`` and ``validation`` the architecture is out of the graph. The test split
is never opened. A killed search goes on from its checkpoint to the very same state.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks import snapshot
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.loop import predict
from compactrec.benchmarks.metrics import Metrics, evaluate
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.progress import ProgressBar
from compactrec.benchmarks.search_result import SearchEntry
from compactrec.benchmarks.search_state import AllOptimizers, SearchLoaders, SearchProgress
from compactrec.benchmarks.stopping import TrainingDiverged
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.embeddings.checkpoint_index import TensorSet
from compactrec.embeddings.checkpoint_state import model_tensors, put_model
from compactrec.embeddings.checkpointing import CheckpointFolder
from compactrec.embeddings.search import Losses, Phase, Supernet

__all__ = ["SearchLoop"]

SHOW_EVERY_SECONDS = 0.5


class SearchLoop:
    """One supernet in one model, trained through its phases.

    Args:
        config: data, optimizers, batch size, seed, evaluations and checkpoints.
        model: holds ``supernet`` in the place of its embeddings.
        store: where checkpoints and selected weights go.
        title: for the progress bar.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        supernet: Supernet,
        store: CheckpointFolder,
        title: str,
    ) -> None:
        self._config, self._model, self._supernet = config, model, supernet
        self._store, self._title = store, title
        self._architecture = supernet.architecture_parameters()
        of_architecture = {id(p) for p in self._architecture}
        self._weights = [p for p in model.parameters() if id(p) not in of_architecture]
        in_supernet = {id(p) for p in supernet.parameters()}
        self._dense = [p for p in self._weights if id(p) not in in_supernet]
        self._tables = [p for p in self._weights if id(p) in in_supernet]
        weights = Optimizers(model, supernet.collections, config, exclude=self._architecture)
        self._optimizers = AllOptimizers(weights, supernet.architecture_optimizer())
        self._loaders = SearchLoaders(config)
        self._judge = BatchLoader(config.data, "validation", config.eval_batch_size, shuffle=False)
        self._progress = SearchProgress()
        self._best: TensorSet | None = None
        self._saved_at = time.monotonic()
        self._counted_at = time.perf_counter()

    @property
    def entries(self) -> tuple[SearchEntry, ...]:
        """The history so far."""
        return tuple(self._progress.entries)

    @property
    def seconds(self) -> float:
        """Of training: loading, weight and architecture steps; validations are left out."""
        return self._progress.seconds

    @property
    def wall_seconds(self) -> float:
        """Of all there was up to the end, over all processes that worked on it."""
        return self._progress.wall_seconds

    def run(self) -> None:
        """Train what is left of all phases; the model then holds what the last one kept.

        Raises:
            TrainingDiverged: a loss or a validation prediction is not finite.
            CheckpointError: a checkpoint cannot be written.
        """
        phases = self._supernet.phases
        resumed = self._resume()
        total = sum(self._num_steps(phase) for phase in phases)
        with ProgressBar(self._title, total, self._config.quiet) as bar:
            if resumed is not None:
                bar.say(resumed)
            while self._progress.phase < len(phases):
                before = sum(self._num_steps(p) for p in phases[: self._progress.phase])
                self._run_phase(phases[self._progress.phase], bar, before)
        self._store.wait()  # where a save in the background failed, this says so
        self._model.eval()

    def _num_steps(self, phase: Phase) -> int:
        per_epoch = len(self._loaders.train)
        if phase.architecture == "validation" and phase.epoch_ends == "shorter":
            per_epoch = min(per_epoch, len(self._loaders.validation))
        return phase.epochs * per_epoch

    def _run_phase(self, phase: Phase, bar: ProgressBar, before: int) -> None:
        progress, num_steps = self._progress, self._num_steps(phase)
        for parameter in self._dense:
            parameter.requires_grad_(phase.weights != "tables")
        for parameter in self._tables:
            parameter.requires_grad_(phase.weights != "dense")
        shown_at = 0.0
        stopped = progress.step >= num_steps
        while not stopped:
            started = time.perf_counter()
            for batch in self._loaders.train:
                self._step(phase, batch, num_steps)
                now = time.perf_counter()
                progress.seconds += now - started
                if now - shown_at > SHOW_EVERY_SECONDS:
                    shown_at = now
                    self._show(bar, before)
                stopped = progress.step >= num_steps or self._supernet.finished()
                if stopped or self._evaluation_is_due(phase, num_steps):
                    stopped |= self._validate(phase)
                if not stopped and self._checkpoint_is_due():
                    self._save()
                if stopped:
                    self._show(bar, before)
                    break
                started = time.perf_counter()
            self._loaders.train.set_epoch(self._loaders.train.epoch + stopped)
        self._end_phase(phase)

    def _step(self, phase: Phase, batch: Batch, num_steps: int) -> None:
        """A weight step and, where the phase has one, an architecture step."""
        supernet, progress = self._supernet, self._progress
        weights, architecture = self._optimizers.weights, self._optimizers.architecture
        joint = phase.architecture == "train"
        for parameter in self._architecture:
            parameter.requires_grad_(joint)
        supernet.before_step(phase, progress.step / num_steps)
        loss = self._loss(batch)
        weights.zero_grad()
        if joint and architecture is not None:
            architecture.zero_grad(set_to_none=True)
        (loss + supernet.penalty() if joint else loss).backward()
        weights.step()
        if joint and architecture is not None:
            architecture.step()
            supernet.after_architecture_step()
        if phase.architecture == "validation":
            self._architecture_step(batch)
        supernet.after_step(phase)
        progress.step += 1
        progress.num_samples += batch.batch_size
        progress.loss_sum += loss.item()
        progress.loss_steps += 1
        if not math.isfinite(progress.loss_sum):
            raise TrainingDiverged(
                f"the loss is {loss.item()} at step {progress.step} of {self._title}'s phase "
                f"{phase.name!r}: try lower learning rates"
            )

    def _architecture_step(self, batch: Batch) -> None:
        """Move the architecture on the next validation batch; no weight gets a gradient."""
        optimizer = self._optimizers.architecture
        assert optimizer is not None
        validation = self._loaders.next_validation()
        for parameter in self._architecture:
            parameter.requires_grad_(True)
        losses = Losses(
            train=lambda: self._loss(batch),
            validation=lambda: self._loss(validation),
            weights=[p for p in self._weights if p.requires_grad],
            learning_rate=self._config.table_learning_rate,
        )
        gradients = self._supernet.architecture_gradient(losses)
        for parameter, gradient in zip(self._architecture, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._supernet.after_architecture_step()

    def _loss(self, batch: Batch) -> Tensor:
        return binary_cross_entropy_with_logits(self._model(batch.dense, batch.kjt()), batch.labels)

    def _evaluation_is_due(self, phase: Phase, num_steps: int) -> bool:
        evals = self._config.evals_per_epoch * phase.epochs
        step = self._progress.step
        return step * evals // num_steps != (step - 1) * evals // num_steps

    def _validate(self, phase: Phase) -> bool:
        """Evaluate and remember; True when the phase's patience is at its end."""
        progress = self._progress
        metrics = self._evaluate()
        entry = SearchEntry(
            phase=phase.name,
            step=progress.step,
            train_loss=progress.loss_sum / max(1, progress.loss_steps),
            validation=metrics,
            figures=self._supernet.figures(),
        )
        progress.entries.append(entry)
        progress.loss_sum, progress.loss_steps = 0.0, 0
        if progress.best_auc is None or metrics.auc > progress.best_auc:
            progress.best_auc, progress.evals_since_best = metrics.auc, 0
            if phase.keep == "best":
                self._keep_best()
            return False
        progress.evals_since_best += 1
        return phase.patience is not None and progress.evals_since_best >= phase.patience

    def _evaluate(self) -> Metrics:
        logits, labels = predict(self._model, self._judge, "cpu")
        if not torch.isfinite(torch.from_numpy(logits)).all():
            raise TrainingDiverged(
                f"a validation prediction is not finite at step {self._progress.step} of "
                f"{self._title}: try lower learning rates"
            )
        return evaluate(logits, labels)

    def _keep_best(self) -> None:
        old, progress = self._best, self._progress
        name = f"best-{progress.phase}-{progress.step:09d}"
        self._best = self._store.write(name, model_tensors(self._model))
        if old is not None and old.name != name:
            self._store.discard(old)

    def _end_phase(self, phase: Phase) -> None:
        """Take up what the phase keeps, and let the next one begin."""
        progress = self._progress
        if phase.keep == "best" and self._best is not None and progress.best_auc is not None:
            self._store.verify(*self._best.files)
            put_model(self._model, self._store.read(self._best))
        progress.phase, progress.step = progress.phase + 1, 0
        progress.best_auc, progress.evals_since_best = None, 0
        self._save()

    def _checkpoint_is_due(self) -> bool:
        every = self._config.checkpoint_every_steps
        if every is not None and self._progress.step % every == 0:
            return True
        seconds = self._config.checkpoint_every_seconds
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def _save(self) -> None:
        now = time.perf_counter()
        self._progress.wall_seconds += now - self._counted_at
        self._counted_at = now
        order = 1_000_000_000 * self._progress.phase + self._progress.step
        state = {"progress": self._progress.to_json()}
        snapshot.save(
            self._store,
            order,
            self._model,
            self._optimizers,
            self._loaders.state_dict(),
            state,
            self._best,
            asynchronous=self._config.checkpoint_asynchronous,
        )
        self._saved_at = time.monotonic()

    def _resume(self) -> str | None:
        """Take up a checkpoint, if there is one; then where from, in words."""
        checkpoint = self._store.load()
        if checkpoint is None:
            return None
        snapshot.restore(self._store, checkpoint, self._model, self._optimizers, self._loaders)
        self._progress = SearchProgress.from_json(checkpoint.state["progress"])
        self._best = checkpoint.best
        place = f"step {self._progress.step:,} of phase {self._progress.phase + 1}"
        return snapshot.origin(self._store, checkpoint, place)

    def _show(self, bar: ProgressBar, before: int) -> None:
        progress = self._progress
        last = progress.entries[-1] if progress.entries else None
        steps = progress.loss_steps
        fresh = progress.loss_sum / steps if steps else 0.0
        bar.show(
            before + progress.step,
            loss=last.train_loss if last is not None and not steps else fresh,
            auc=None if last is None else last.validation.auc,
            samples_per_second=progress.num_samples / progress.seconds,
        )
