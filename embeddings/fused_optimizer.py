"""Which optimizer the fused engine applies inside the backward pass."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.embeddings.decay import DecayMode, check_decay

__all__ = ["FusedOptimizer"]


class FusedOptimizer(BaseModel):
    """An optimizer whose rule touches only the rows of a batch.

    ``sgd``: ``w -= lr * g``. ``adagrad``: ``s += g^2; w -= lr * g / (sqrt(s) + eps)``, per weight.
    ``rowwise_adagrad``: one ``s`` per physical row, ``s += mean(g^2)``. ``g`` is the sum over the
    batch of a row's gradients. ``weight_decay`` and ``decay_mode``: see ``decay.py``. One backward
    pass is one step, in which all rows decay under the dense modes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adagrad", "rowwise_adagrad"] = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_mode: DecayMode = "touched_rows"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_decay(self.learning_rate, self.weight_decay)
        return self
