"""The result of one training run, as ``result.json`` holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.benchmarks.metrics import Metrics
from compactrec.embeddings.checkpoint_index import differences
from compactrec.embeddings.checkpoint_io import write_atomically

__all__ = [
    "MODEL_NAME",
    "PLAN_NAME",
    "PREDICTIONS_NAME",
    "RESULT_NAME",
    "Bytes",
    "DataInfo",
    "Evaluation",
    "Result",
    "finished_result",
]

RESULT_NAME = "result.json"
PREDICTIONS_NAME = "test_predictions.safetensors"
MODEL_NAME = "model.safetensors"
PLAN_NAME = "plan.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataInfo(_Frozen):
    """Which data; results may be compared only where ``manifest_sha256`` is the same."""

    name: str
    protocol: str
    manifest_sha256: str


class Bytes(_Frozen):
    """Bytes of the embeddings, on paper (`compactrec.embeddings.size`)."""

    table_bytes: int
    aux_bytes: int
    dense_bytes: int
    serving_bytes: int
    optimizer_bytes: int
    training_bytes: int
    full_serving_bytes: int | None
    """What the full tables serve with; None where a feature has an open vocabulary."""


class Evaluation(_Frozen):
    """One validation during training."""

    step: int
    train_loss: float | None
    """Mean loss of the training batches since the evaluation before; None where there were none."""
    validation: Metrics


class Result(_Frozen):
    """One finished run."""

    format: Literal["compactrec.result"] = "compactrec.result"
    version: Literal[1] = 1
    method: str
    budget_bytes: int | None
    seed: int
    config: dict[str, Any]
    """The resolved config, without the places of files."""
    plan: dict[str, Any]
    data: DataInfo
    bytes: Bytes
    validation: Metrics
    """Of the selected weights."""
    test: Metrics | None
    """Of the selected weights; the test split was read once, after training. None in a trial."""
    best_step: int
    """The step whose weights were selected, on validation rows."""
    num_steps: int
    """Steps trained."""
    samples_per_second: float
    """Over training steps and their loading alone; validation and checkpoints are left out."""
    num_processes: int | None = None
    """How many trained, where a run went on with others the last ones, of which alone are
    ``samples_per_second`` and ``train_seconds``; None in older files."""
    train_seconds: float
    """The seconds behind ``samples_per_second``."""
    total_seconds: float | None = None
    """From the first step to the end, validations and writing too; None where the run was
    interrupted, and in older files."""
    peak_rss_bytes: int
    history: tuple[Evaluation, ...]
    environment: dict[str, str | int | None]
    start_sha256: str | None = None
    """Hash of the file of weights that the run started from; None where it drew its own."""

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        return f"validation AUC {self.validation.auc:.4f}, {self.train_seconds:.0f} s of training"

    @property
    def tested(self) -> Metrics:
        """:attr:`test`; raises ``ValueError`` where the test split stayed closed."""
        if self.test is None:
            raise ValueError(
                f"the run of {self.method} with seed {self.seed} did not score the test split "
                f"(score_test is false); train it again with score_test = true"
            )
        return self.test

    def save(self, folder: Path) -> None:
        """Write ``folder/result.json`` in one step."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / RESULT_NAME, text.encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``folder/result.json``; ValueError when it cannot be read here."""
        path = folder / RESULT_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is not a result of version 1 ({error.errors()[0]['msg']}); "
                "remove its folder and run again"
            ) from error


def finished_result(folder: Path, identity: Mapping[str, Any]) -> Result | None:
    """The result in ``folder``, if the run of this ``identity`` is finished.

    An identity is config, plan, data and start.

    Raises:
        ValueError: the folder holds the result of another run.
    """
    if not (folder / RESULT_NAME).is_file():
        return None
    result = Result.load(folder)
    theirs = {
        "config": result.config,
        "plan": result.plan,
        "data": result.data.manifest_sha256,
        "start": result.start_sha256,
    }
    found = differences(theirs, identity)
    if found:
        raise ValueError(
            f"{folder} holds the result of another run: {'; '.join(found)}. Choose another folder"
        )
    return result
