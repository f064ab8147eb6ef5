"""Which optimizer the fused engine applies inside the backward pass."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.embeddings.decay import DecayMode, check_decay

__all__ = ["ADAM_BETAS", "FusedOptimizer"]

ADAM_BETAS = 0.9, 0.999


class FusedOptimizer(BaseModel):
    """An optimizer whose rule touches only the rows of a batch.

    ``sgd``: ``w -= lr * g``. ``adagrad``: ``s += g^2; w -= lr * g / (sqrt(s) + eps)``, per weight.
    ``rowwise_adagrad``: one ``s`` per physical row, ``s += mean(g^2)``. ``g`` is the sum over the
    batch of a row's gradients. ``weight_decay`` and ``decay_mode``: see ``decay.py``. One backward
    pass is one step, in which all rows decay under the dense modes.

    ``adam``, of kernel ``numba``: ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``, ``w -=
    lr m' / (sqrt(v') + eps)`` with ``m' = m / (1 - b1^t)``, ``v' = v / (1 - b2^t)``, b1 = 0.9 and
    b2 = 0.999. It is lazy: the moments and weights of other rows stay, and ``t`` counts the steps
    of the optimizer, as in ``torch.optim.SparseAdam``; ``eps`` is where ``torch.optim.Adam`` has
    it. Bytes: 8 per weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adagrad", "rowwise_adagrad", "adam"] = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_mode: DecayMode = "touched_rows"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_decay(self.learning_rate, self.weight_decay)
        if self.name == "adam" and self.decay_mode != "touched_rows":
            raise ValueError(
                f"under decay_mode {self.decay_mode!r} 'adam' moves every row in every step, which "
                f"the fused engine cannot make up for later; use decay_mode 'touched_rows', or "
                f"engine 'eager'"
            )
        return self
