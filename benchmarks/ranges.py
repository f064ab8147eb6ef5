"""One dimension of a space that tuning chooses from: what values it has, and where its ends are."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, StrictInt, model_validator

__all__ = ["End", "Range"]

End = Literal["low", "high"]
_KINDS = ("choices", "uniform", "log_uniform", "integers", "times")
_NEAR_END = 0.05
"""So close to an end, as a part of the range (of its logarithm), a value stands at it."""


class Range(BaseModel):
    """The values of one setting: one of these kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[JsonValue, ...] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[StrictInt, StrictInt] | None = None
    """Both ends included."""
    times: tuple[float, float] | None = None
    """Log-uniform factors on what the base config has."""
    optional: bool = False
    """Leave it out where the model has no such option; without this it is an error."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"give one of {', '.join(_KINDS)}, got {' and '.join(kinds) or 'none of them'}"
            )
        (kind,) = kinds
        if self.choices is not None:
            if len({repr(choice) for choice in self.choices}) < max(2, len(self.choices)):
                raise ValueError(
                    f"choices must be two or more different values, got {list(self.choices)}"
                )
            return self
        low, high = getattr(self, kind)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"{kind} goes from a lower to a higher number, got [{low:g}, {high:g}]"
            )
        if kind in ("log_uniform", "times") and low <= 0:
            raise ValueError(f"{kind} needs numbers above 0, got [{low:g}, {high:g}]; use choices")
        return self

    @property
    def num_values(self) -> int | None:
        """How many different values there are; None for real numbers."""
        if self.choices is not None:
            return len(self.choices)
        return None if self.integers is None else self.integers[1] - self.integers[0] + 1

    def holds(self, value: JsonValue) -> bool:
        """Whether a value is one of these."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self._ends()
        return low <= value <= high and (self.integers is None or value == int(value))

    def based_on(self, value: object) -> Range:
        """`times` as the range that it is around the base config's value; others as they are."""
        if self.times is None:
            return self
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(
                f"times multiplies what the base config has, and that is {value!r}; use "
                f"log_uniform or choices"
            )
        low, high = (_three_digits(value * factor) for factor in self.times)
        return Range(log_uniform=(low, high))

    @property
    def text(self) -> str:
        """`0.002 to 0.2`, or the choices."""
        if self.choices is not None:
            return f"choices {', '.join(map(str, self.choices))}"
        low, high = self.times or self._ends()
        return f"{low:g} to {high:g}"

    def at(self, point: float) -> JsonValue:
        """The value at a point of [0, 1); real numbers have three digits."""
        if self.choices is not None:
            return self.choices[int(point * len(self.choices))]
        if self.integers is not None:
            low, high = self.integers
            return low + int(point * (high - low + 1))
        if self.uniform is not None:
            start, end = self.uniform
            return self.rounded(start + point * (end - start))
        assert self.log_uniform is not None, "times has a base first"
        start, end = self.log_uniform
        return self.rounded(start * (end / start) ** point)

    def rounded(self, value: float) -> float:
        """`value` with three digits, within the ends."""
        ends = self.uniform or self.log_uniform
        assert ends is not None
        return min(max(_three_digits(value), ends[0]), ends[1])

    def probes(self) -> tuple[JsonValue, ...]:
        """Values that stand for all: every choice, or the ends and some between them."""
        if self.choices is not None:
            return self.choices
        return (*(self.at(point) for point in (0.0, 0.137, 0.618)), self._ends()[1])

    def end_of(self, value: JsonValue) -> End | None:
        """The end that a value stands at or beyond; None within, and where there is no order."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if self.choices is not None and not self._numbers():
            return None
        low, high = self._ends()
        if self.log_uniform is not None:
            place = math.log(value / low) / math.log(high / low) if value > 0 else 0.0
        else:
            place = (value - low) / (high - low)
        near = 0.0 if self.num_values else _NEAR_END
        return "low" if place <= near else "high" if place >= 1 - near else None

    def beyond(self, end: End) -> float:
        """A value somewhat beyond an end."""
        low, high = self._ends()
        if self.log_uniform is not None:
            return low / 1.5 if end == "low" else high * 1.5
        step = (high - low) / 10
        if self.integers is not None:
            step = 1
        if numbers := self._numbers():
            step = numbers[1] - numbers[0] if end == "low" else numbers[-1] - numbers[-2]
        return low - step if end == "low" else high + step

    def _ends(self) -> tuple[float, float]:
        if numbers := self._numbers():
            return numbers[0], numbers[-1]
        ends = self.uniform or self.log_uniform or self.integers
        assert ends is not None
        return ends

    def _numbers(self) -> list[float]:
        """The choices in order, where all are numbers."""
        found = [c for c in self.choices or () if isinstance(c, int | float)]
        plain = [c for c in found if not isinstance(c, bool)]
        return sorted(plain) if len(plain) == len(self.choices or ()) else []


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
