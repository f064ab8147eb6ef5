"""What a training run has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.metrics import Metrics, monitored
from compactrec.benchmarks.progress import ProgressBar
from compactrec.benchmarks.result import Evaluation

__all__ = ["History"]


@dataclass
class History:
    """All that the loop remembers. A checkpoint holds every field."""

    epoch: int = 0
    step: int = 0
    num_processes: int = 1
    num_samples: int = 0
    """By so many processes; what others did before them is not timed with it."""
    train_seconds: float = 0.0
    """The same."""
    loss_sum: float = 0.0
    loss_steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None
    evals_since_best: int = 0
    num_reductions: int = 0
    """Of the learning rates, on plateaus."""
    stopped: bool = False

    def count(self, loss: float, batch_size: int) -> None:
        """One step is done."""
        self.step += 1
        self.num_samples += batch_size
        self.loss_sum += loss
        self.loss_steps += 1

    def goes_on(self, num_processes: int) -> None:
        """So many processes take the run up."""
        if num_processes != self.num_processes:
            self.num_processes, self.num_samples, self.train_seconds = num_processes, 0, 0.0

    @property
    def samples_per_second(self) -> float:
        """Over training alone; 0 before the first step."""
        return self.num_samples / self.train_seconds if self.num_samples else 0.0

    def show(self, bar: ProgressBar) -> None:
        """Put the current figures on the progress bar."""
        last = self.evaluations[-1] if self.evaluations else None
        fresh = self.loss_sum / self.loss_steps if self.loss_steps else None
        bar.show(
            self.step,
            loss=(last.train_loss if fresh is None and last is not None else fresh) or 0.0,
            auc=None if last is None else last.validation.auc,
            samples_per_second=self.samples_per_second,
        )

    def is_evaluation_step(self, config: TrainConfig, steps_per_epoch: int) -> bool:
        """Whether to validate after the current step; always after the last one."""
        step, every = self.step, config.eval_every_steps
        if step == config.epochs * steps_per_epoch:
            return True
        if every is not None:
            return step % every == 0
        evals = config.evals_per_epoch
        return step * evals // steps_per_epoch != (step - 1) * evals // steps_per_epoch

    def add_evaluation(self, validation: Metrics, config: TrainConfig) -> bool:
        """Remember a validation, and what follows when it is not the best so far.

        Then rates are reduced, where the schedule does so on plateaus, and the ``patience``-th in a
        row stops the run. Returns whether it is the best (a tie is not).
        """
        loss = self.loss_sum / self.loss_steps if self.loss_steps else None
        evaluation = Evaluation(step=self.step, train_loss=loss, validation=validation)
        self.loss_sum, self.loss_steps = 0.0, 0
        self.evaluations.append(evaluation)
        value = monitored(validation, config.monitor)
        best = None if self.best is None else monitored(self.best.validation, config.monitor)
        if best is None or config.schedule.is_better(value, best):
            self.best, self.evals_since_best = evaluation, 0
            return True
        self.evals_since_best += 1
        self.num_reductions = config.schedule.reductions_after(self.num_reductions)
        self.stopped = config.patience is not None and self.evals_since_best >= config.patience
        return False

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON."""
        dump = {k: v for k, v in vars(self).items() if k not in ("evaluations", "best")}
        dump["evaluations"] = [e.model_dump(mode="json") for e in self.evaluations]
        dump["best"] = self.best and self.best.model_dump(mode="json")
        return dump

    @staticmethod
    def from_json(values: dict[str, Any]) -> History:
        """What :meth:`to_json` gave."""
        evaluations = [Evaluation.model_validate(e) for e in values["evaluations"]]
        best = values["best"] and Evaluation.model_validate(values["best"])
        return History(**{**values, "evaluations": evaluations, "best": best})
