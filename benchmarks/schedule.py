"""The learning-rate schedule of the DLRM reference, as a pure function of the step."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MIN_LEARNING_RATE", "LearningRateSchedule"]

MIN_LEARNING_RATE = 1e-7
"""The decay never goes below this, whatever the base rate."""


class LearningRateSchedule(BaseModel):
    """Linear warm-up, constant, quadratic decay, frozen. All zero (the default) is constant.

    For step ``t = 1, 2, ...`` and base rate ``r``::

        r t / W                                 t < W                (warm-up of W steps)
        r                                       until the decay starts
        max(1e-7, r ((S - (t - t0)) / S)^2)     t0 <= t < t0 + S     (decay of S steps from t0)
        the decay's last value                  afterwards

    The reference differs in one point: between warm-up and decay it stays at the last warm-up
    value, ``r (W - 1) / W``, where this is ``r``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_steps: int = Field(default=0, ge=0)
    """W."""
    decay_start_step: int = Field(default=0, ge=0)
    """t0; at least W."""
    num_decay_steps: int = Field(default=0, ge=0)
    """S; 0 means no decay."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_decay_steps and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"the decay starts at step {self.decay_start_step}, inside the warm-up of "
                f"{self.warmup_steps} steps; start it at {self.warmup_steps} or later"
            )
        return self

    @property
    def constant(self) -> bool:
        """True when every step has the base rate."""
        return not self.warmup_steps and not self.num_decay_steps

    def rate(self, base: float, step: int) -> float:
        """The learning rate of ``step`` (1 is the first) for the base rate ``base``."""
        if step < self.warmup_steps:
            return base * step / self.warmup_steps
        if not self.num_decay_steps or step < self.decay_start_step:
            return base
        done = min(step - self.decay_start_step, self.num_decay_steps - 1)
        scale = ((self.num_decay_steps - done) / self.num_decay_steps) ** 2
        return max(MIN_LEARNING_RATE, base * scale)
