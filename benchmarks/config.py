"""The configuration of one training run: frozen, checked, and documented here only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    model_validator,
)

from compactrec.benchmarks.config_checks import check_engine
from compactrec.benchmarks.metrics import Monitor
from compactrec.benchmarks.precision import DenseDtype
from compactrec.benchmarks.schedule import LearningRateSchedule
from compactrec.data.manifest import Manifest
from compactrec.embeddings import Feature
from compactrec.embeddings.budget import SMALL_NUM_IDS
from compactrec.embeddings.sharding_config import Sharding
from compactrec.models.registry import get_model

__all__ = ["TrainConfig"]

_PLACES = frozenset({"data", "out", "plan", "start"})
_LAYOUT = frozenset({"sharding", "pipeline", "rewrite_in_loader"})
"""Where and when things are computed, which changes results by rounding alone."""
_COSMETIC = frozenset(
    {
        "quiet", "checkpoint_every_seconds", "checkpoint_every_steps", "checkpoint_asynchronous",
        "keep_model", "tensorboard",
    }
)  # fmt: skip
_OFF: dict[str, Any] = {
    "table_decay": 0.0, "dense_dtype": "float32", "accumulate_steps": 1, "max_grad_norm": None,
    "monitor": "auc", "init_std": "method", "dense_eps": None,
}  # fmt: skip
"""Fields whose value here does nothing. They are not in results from before they were there."""


class TrainConfig(BaseModel):
    """What is trained, on what, and how. The same config and seed give the same weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    """Data folder, as `compactrec prepare` makes it."""
    out: Path
    """Folder of this run: result, predictions, model, checkpoint."""

    plan: Path | None = None
    """Plan file. If given, it is used as it is; ``method`` and ``budget_bytes`` only name it."""
    method: str | None = None
    """Method to make a plan with, where no plan file is given."""
    budget_bytes: int | None = Field(default=None, ge=1)
    """Serving bytes of all tables, integer state and small dense parts together."""
    threshold: int = Field(default=SMALL_NUM_IDS, ge=0)
    """Features of at most this many ids stay full."""
    options: dict[str, JsonValue] = {}
    """Options of the method, such as ``{"operation": "product"}``."""

    model: str = "dlrm"
    """Name of the model, see `compactrec models`."""
    model_options: dict[str, JsonValue] = {}
    """Hyper-parameters of the model, such as ``{"hidden": [64, 32]}``. They may also stand beside
    the other fields: ``hidden = [64, 32]``."""
    dim: int = Field(default=16, ge=1)
    """Width D of the vectors that the model gets. A plan file brings its own: leave it out then."""
    init_std: Annotated[float, Field(gt=0)] | Literal["method"] = "method"
    """Standard deviation of their elements at the start (``Feature.init_std``), first-order weights
    too; ``method``: as the method has it, U(+-sqrt(1/n)) for most. A plan file brings its own."""

    batch_size: int = Field(default=2048, ge=1)
    start: Path | None = None
    """Safetensors file with a state dict of the model, from which training starts."""
    epochs: int = Field(default=1, ge=0)
    """0: validate and test the weights of ``start`` as they are."""
    accumulate_steps: int = Field(default=1, ge=1)
    """Batches per update, under engine ``eager``; its gradient is that of the mean over all of
    their examples. An epoch's last update may have fewer. A *step* is an update wherever steps are
    counted. Batch norm takes its statistics of one batch."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Scale the gradient of all weights together, dense and tables, down to this norm, under engine
    ``eager``. The decay of tables, where it is added to gradients, is in it; that of dense weights
    and of ``lamb`` comes after."""
    dense_optimizer: Literal["sgd", "adagrad", "adam", "amsgrad", "lamb"] = "adam"
    dense_learning_rate: float = Field(default=0.001, gt=0)
    dense_eps: float | None = Field(default=None, gt=0)
    """As ``table_eps``, for dense weights; None is the optimizer's own: 1e-10 of ``adagrad``, 1e-6
    of ``lamb``, else 1e-8. ``sgd`` has none."""
    dense_weight_decay: float = Field(default=0.0, ge=0)
    """Added to gradients as ``g + decay w``; ``lamb`` adds ``decay w`` to the direction of Adam's
    step instead, before it scales that."""
    table_optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "amsgrad", "lamb"] = (
        "adagrad"
    )
    """``adam`` is lazy under ``touched_rows``, on the rows of a batch, and then needs engine
    ``eager`` or kernel ``numba``; under the other modes it needs engine ``eager``. So does
    ``amsgrad`` under all, and ``lamb``, which has a norm for every physical row and knows
    ``touched_rows`` alone."""
    table_learning_rate: float = Field(default=0.02, gt=0)
    table_eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the tables' Adagrad accumulator, or of the second moment."""
    table_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the tables' physical rows, in the sense of ``decay_mode``."""
    decay_mode: Literal["dense_coupled", "dense_decoupled", "touched_rows"] = "touched_rows"
    """``dense_coupled``: ``g + table_decay w`` for every row in every step, inside the optimizer's
    rule. ``dense_decoupled``: ``w (1 - rate table_decay)`` for every row in every step, before it.
    ``touched_rows``: ``g + table_decay w`` for the rows of the batch; others do not move. ``lamb``
    adds ``table_decay w`` to its direction, as for dense weights."""
    embedding_decay: float = Field(default=0.0, ge=0)
    """L2 penalty: this times the mean over examples of half the squared norm of all vectors looked
    up. On the complete vectors, so it means the same for every method; rows not looked up stay."""
    schedule: LearningRateSchedule = LearningRateSchedule()
    seed: int = Field(default=0, ge=0, lt=2**32)
    engine: Literal["eager", "fused", "sharded"] = "fused"
    kernel: Literal["auto", "numba", "fbgemm"] = "auto"
    """What looks up and updates under engine ``fused``: ``auto`` is Numba on a CPU where it is
    installed, else FBGEMM."""
    sharding: Sharding = Sharding()
    """Engine ``sharded``: which table is on which process."""
    pipeline: bool = False
    """Engine ``sharded``: exchange the ids of the next batch while this one computes."""
    rewrite_in_loader: bool = False
    """Engine ``sharded``: rewrite the ids of the next batches in a thread of the loader. Not with
    ``pipeline``, which rewrites ahead by itself."""
    device: str = "cpu"
    dense_dtype: DenseDtype = "float32"
    """``bfloat16``: products of the model over the embeddings, where the machine has it. Embeddings
    and all weights stay float32."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of torch; None leaves them as they are. Other threads, other rounding."""

    eval_batch_size: int = Field(default=16384, ge=1)
    evals_per_epoch: int = Field(default=4, ge=1)
    """Validations per epoch, spread evenly; the last step of training is always validated."""
    eval_every_steps: int | None = Field(default=None, ge=1)
    """Validate every so many steps instead."""
    monitor: Monitor = "auc"
    """What validations are judged by: the weights that are kept, ``patience``, and plateaus of the
    ``schedule``. ``auc_minus_logloss`` is what older results of BARS have."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations in a row that were not the best; None trains all epochs."""
    collapse_after_evals: int = Field(default=4, ge=1)
    """Give up when so many validations have passed and no AUC left 0.5 +- 0.001."""

    checkpoint_every_seconds: float | None = Field(default=300.0, gt=0)
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_asynchronous: bool = False
    """Copy what a checkpoint holds and write it while training goes on, which takes the memory of
    the copy. A validation that is the best waits for it, and so does the end."""
    score_test: bool = True
    """False leaves the test split closed, for runs that only choose a setting."""
    keep_model: bool = True
    """Leave the selected weights in ``model.safetensors``."""
    tensorboard: bool = False
    """Write curves of training for TensorBoard, into ``out/tensorboard``. A search writes none."""
    quiet: bool = False
    """No progress bar."""

    @model_validator(mode="wrap")
    @classmethod
    def _fill(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """What nobody gave is as the model has it (``Model.training``), before it is as here."""
        if not isinstance(given, Mapping):
            return handler(given)
        model = get_model(given.get("model", cls.model_fields["model"].default))
        own = {name: value for name, value in model.training.items() if name not in given}
        made = handler({**given, **own})
        made.model_fields_set.difference_update(own)  # nobody gave them
        return made

    @model_validator(mode="before")
    @classmethod
    def _check_model(cls, given: Any) -> Any:
        """Move the model's options into ``model_options`` and hold them to its config."""
        if not isinstance(given, Mapping):
            return given
        model = get_model(given.get("model", cls.model_fields["model"].default))
        names = set(model.config.model_fields) - set(cls.model_fields)
        beside = {name: value for name, value in given.items() if name in names}
        inside = given.get("model_options", {})
        if not isinstance(inside, Mapping):
            return given
        if twice := sorted(set(beside) & set(inside)):
            raise ValueError(f"{twice} are given twice, also in model_options; give them once")
        options = {**inside, **beside}
        checked = model.parse(options).model_dump(mode="json", include=set(options))
        rest = {name: value for name, value in given.items() if name not in beside}
        return {**rest, "model_options": checked}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plan is None and self.method is None:
            raise ValueError("neither a plan nor a method was given; set 'plan' or 'method'")
        if self.plan is None and self.method != "full" and self.budget_bytes is None:
            raise ValueError(
                f"method {self.method!r} needs a budget (--budget, or budget_bytes in a file); "
                f"only 'full' has a size of its own"
            )
        check_engine(self)
        if self.table_learning_rate * self.table_decay >= 1:
            raise ValueError(
                f"table_learning_rate (--table-lr) {self.table_learning_rate:g} times table_decay "
                f"(--table-decay) {self.table_decay:g} must be below 1, or a step takes more "
                f"than the whole weight; lower one of them"
            )
        if not self.epochs and self.start is None:
            raise ValueError(
                "epochs is 0 and there is no start, so nothing would be trained or loaded; give "
                "start (--start), or epochs (--epochs) of 1 or more"
            )
        return self

    def features(self, manifest: Manifest) -> tuple[Feature, ...]:
        """What the model reads of the data, ``dim`` wide: the features of a plan."""
        std = None if self.init_std == "method" else self.init_std
        features = tuple(
            Feature(name=f.name, num_ids=f.num_ids, dim=self.dim, max_bag=f.max_bag, init_std=std)
            for f in manifest.sparse
        )
        return get_model(self.model).parse(self.model_options).features(features)

    def steps_of(self, num_batches: int) -> int:
        """Steps of an epoch of so many batches."""
        return -(-num_batches // self.accumulate_steps)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON, without the places of files.

        What does nothing is left out too: the fields of ``_OFF`` that are off, the mode of decay
        where it changes nothing, and the width where a plan file has it.
        """
        idle = {name for name, off in _OFF.items() if getattr(self, name) == off}
        if self.plan is not None:
            idle |= {"dim", "init_std"}
        if not self.table_decay and self.table_optimizer not in ("adam", "amsgrad", "lamb"):
            idle.add("decay_mode")
        if self.dense_optimizer == "sgd":
            idle.add("dense_eps")
        if self.engine != "fused":
            idle.add("kernel")
        fields = self.model_dump(mode="json", exclude=set(_PLACES | _COSMETIC | _LAYOUT | idle))
        fields["schedule"] = self.schedule.resolved()
        options = get_model(self.model).parse(self.model_options)
        return {**fields, "model_options": options.resolved()}
