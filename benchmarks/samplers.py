"""Where the settings of a tuning come from: a Sobol sequence, or Optuna's TPE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import JsonValue

from compactrec.benchmarks.ranges import Range
from compactrec.benchmarks.space import Settings, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Sampler", "SamplerName", "SobolSampler", "TpeSampler", "make_sampler"]

SamplerName = Literal["sobol", "tpe"]
NUM_RANDOM = 5
"""Trials before TPE looks at results: the base config's, where the space has it, and drawn ones."""


class Sampler(Protocol):
    """Gives settings, one after the other; the same ones for the same space, seed and results."""

    def ask(self) -> dict[str, JsonValue]:
        """The next setting."""

    def tell(self, auc: float | None) -> None:
        """What the setting asked for last came to; None where it failed."""


class SobolSampler:
    """Points of a scrambled Sobol sequence, whatever the results are.

    Args:
        space: resolved. first: the base config's settings, which are not given again.
    """

    def __init__(self, space: Space, first: Settings, seed: int) -> None:
        self._points = _sobol(len(space.ranges), seed)
        self._space = space
        self._seen = {_key(first)}

    def ask(self) -> dict[str, JsonValue]:
        """The next setting that was not there before; a space must have one left."""
        for point in self._points:
            spans = zip(self._space.ranges.items(), point, strict=True)
            settings = {name: span.at(place) for (name, span), place in spans}
            if _key(settings) not in self._seen:
                self._seen.add(_key(settings))
                return settings
        raise AssertionError("the sequence has no end")

    def tell(self, auc: float | None) -> None:
        """Nothing is learned."""


class TpeSampler:
    """Optuna's tree-structured Parzen estimator, from results told in the order of the trials.

    The study is in memory: who goes on with a tuning asks and tells again.

    Args:
        space: resolved. first: the base config's settings, trial 0; told first.

    Raises:
        ValueError: Optuna is not installed.
    """

    def __init__(self, space: Space, first: Settings, seed: int) -> None:
        with _quiet_optuna() as optuna:
            self._study = optuna.create_study(
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=NUM_RANDOM),
            )
        self._ranges = space.ranges
        self._distributions = {name: _distribution(span) for name, span in self._ranges.items()}
        self._first: Settings | None = first
        self._trial: Any = None

    def ask(self) -> dict[str, JsonValue]:
        with _quiet_optuna():
            self._trial = self._study.ask(self._distributions)
        return {name: self._value(name, self._trial.params[name]) for name in self._ranges}

    def tell(self, auc: float | None) -> None:
        with _quiet_optuna() as optuna:
            if self._trial is None:
                self._tell_first(optuna, auc)
            elif auc is None:
                self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(self._trial, auc)

    def _tell_first(self, optuna: Any, auc: float | None) -> None:
        """The base config may stand outside of the space; then nothing is learned from it."""
        assert self._first is not None
        inside = all(span.holds(self._first[name]) for name, span in self._ranges.items())
        if auc is not None and inside:
            params = {name: self._param(name, value) for name, value in self._first.items()}
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=self._distributions, value=auc
                )
            )
        self._first = None

    def _value(self, name: str, asked: Any) -> JsonValue:
        span = self._ranges[name]
        if span.choices is not None:
            return span.choices[asked]
        return int(asked) if span.integers is not None else span.rounded(asked)

    def _param(self, name: str, value: JsonValue) -> JsonValue:
        """What Optuna knows a value by."""
        choices = self._ranges[name].choices
        return value if choices is None else choices.index(value)


_SAMPLERS: dict[SamplerName, Callable[[Space, Settings, int], Sampler]] = {
    "sobol": SobolSampler,
    "tpe": TpeSampler,
}


def make_sampler(name: SamplerName, space: Space, first: Settings, seed: int) -> Sampler:
    """The sampler of a cell."""
    return _SAMPLERS[name](space, first, seed)


def _sobol(num_dims: int, seed: int) -> Iterator[list[float]]:
    """Points of [0, 1)^d without end. Drawn in powers of 2, as the sequence has its balance."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(num_dims, rng=seed)
    for power in range(3, 30):
        yield from sequence.random(2**power).tolist()


def _distribution(span: Range) -> BaseDistribution:
    from optuna import distributions

    if span.choices is not None:  # by index: a choice may be a list
        return distributions.CategoricalDistribution(tuple(range(len(span.choices))))
    if span.integers is not None:
        return distributions.IntDistribution(*span.integers)
    ends = span.uniform or span.log_uniform
    assert ends is not None
    return distributions.FloatDistribution(*ends, log=span.log_uniform is not None)


@contextmanager
def _quiet_optuna() -> Iterator[Any]:
    """Optuna without its log of every step."""
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "sampler 'tpe' needs Optuna, which is not installed: in the checkout \"pip install "
            "'.[tune]'\", or use sampler 'sobol' (--sampler)"
        ) from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _key(settings: Settings) -> str:
    """The same text for 0 and 0.0."""
    numbers = {name: float(v) for name, v in settings.items() if type(v) is int}
    return json.dumps({**settings, **numbers}, sort_keys=True)
