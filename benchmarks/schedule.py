"""The learning rate of a step: the DLRM reference's schedule, and BARS' reductions on a plateau.

A pure function of the base rate, the step and the number of reductions so far.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MIN_LEARNING_RATE", "MIN_REDUCED_RATE", "LearningRateSchedule"]

MIN_LEARNING_RATE = 1e-7
"""The decay never goes below this, whatever the base rate."""
MIN_REDUCED_RATE = 1e-6
"""Reductions never go below this; a rate that is lower stays as it is."""


class LearningRateSchedule(BaseModel):
    """Linear warm-up, constant, quadratic decay, frozen. All zero (the default) is constant.

    For step ``t = 1, 2, ...`` and base rate ``r``::

        r t / W                                 t < W                (warm-up of W steps)
        r                                       until the decay starts
        max(1e-7, r ((S - (t - t0)) / S)^2)     t0 <= t < t0 + S     (decay of S steps from t0)
        the decay's last value                  afterwards

    The reference differs in one point: between warm-up and decay it stays at the last warm-up
    value, ``r (W - 1) / W``, where this is ``r``.

    With ``plateau_factor`` every validation that is not better than the best one by
    ``plateau_min_delta`` multiplies this by the factor from the next step on, not below 1e-6.
    Without it a validation is better when it is higher at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_steps: int = Field(default=0, ge=0)
    """W."""
    decay_start_step: int = Field(default=0, ge=0)
    """t0; at least W."""
    num_decay_steps: int = Field(default=0, ge=0)
    """S; 0 means no decay."""
    plateau_factor: float | None = Field(default=None, gt=0, lt=1)
    """BARS has 0.1; None leaves the rates alone."""
    plateau_min_delta: float = Field(default=1e-6, ge=0)
    """What a validation must be better by; for early stopping and selection too."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_decay_steps and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"the decay starts at step {self.decay_start_step}, inside the warm-up of "
                f"{self.warmup_steps} steps; start it at {self.warmup_steps} or later"
            )
        delta = type(self).model_fields["plateau_min_delta"].default
        if self.plateau_factor is None and self.plateau_min_delta != delta:
            raise ValueError(
                f"plateau_min_delta {self.plateau_min_delta:g} does nothing without "
                f"plateau_factor; give plateau_factor = 0.1, or leave both out"
            )
        return self

    def is_better(self, value: float, best: float) -> bool:
        """Whether a validation of ``value`` is better than the ``best`` before it."""
        delta = 0.0 if self.plateau_factor is None else self.plateau_min_delta
        return value > best and value >= best + delta

    def reductions_after(self, num_before: int) -> int:
        """Reductions after a validation that was not better, with so many before it."""
        return num_before + (self.plateau_factor is not None)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the rates, as JSON; nothing of plateaus where they do nothing."""
        of_plateaus = {"plateau_factor", "plateau_min_delta"}
        return self.model_dump(exclude=of_plateaus if self.plateau_factor is None else set())

    def rate(self, base: float, step: int, num_reductions: int = 0) -> float:
        """The learning rate of ``step`` (1 is the first) for the base rate ``base``."""
        rate = self._before_reductions(base, step)
        if self.plateau_factor is None or not num_reductions:
            return rate
        return max(rate * self.plateau_factor**num_reductions, min(rate, MIN_REDUCED_RATE))

    def _before_reductions(self, base: float, step: int) -> float:
        if step < self.warmup_steps:
            return base * step / self.warmup_steps
        if not self.num_decay_steps or step < self.decay_start_step:
            return base
        done = min(step - self.decay_start_step, self.num_decay_steps - 1)
        scale = ((self.num_decay_steps - done) / self.num_decay_steps) ** 2
        return max(MIN_LEARNING_RATE, base * scale)
