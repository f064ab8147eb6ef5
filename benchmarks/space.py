"""What tuning chooses from: ranges of training fields and model options, read from a TOML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, ValidationError

from compactrec.benchmarks.choices import changed
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.ranges import Range
from compactrec.embeddings import Feature
from compactrec.models.registry import get_model
from compactrec.words import nearest, read_toml

__all__ = ["TUNABLE", "Settings", "Space", "settings_text", "with_settings"]

Settings = Mapping[str, JsonValue]
"""Fields of training and options of the model -> values."""

TUNABLE = (
    "batch_size", "accumulate_steps", "max_grad_norm",
    "dense_optimizer", "dense_learning_rate", "dense_weight_decay",
    "table_optimizer", "table_learning_rate", "table_eps", "table_decay", "decay_mode",
    "embedding_decay",
)  # fmt: skip
"""Fields of the training config that may be in a space. The rest is what a comparison holds equal
(data, bytes, seeds, the length of training), or where it runs."""


class Space(BaseModel):
    """A range for each setting that is tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranges: dict[str, Range]
    _where: str = PrivateAttr("space")
    """What errors call it: the file, where it is from one."""

    @classmethod
    def default(cls) -> Space:
        """The shipped space."""
        return cls.load(Path(__file__).parent / "spaces" / "default.toml")

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read a TOML file of lines such as `dropout = { uniform = [0.0, 0.5] }`.

        Raises ValueError, naming the file and the line's name, where it is no such file.
        """
        given = read_toml(
            path, "space", "give the path of a TOML file with what tuning chooses from (--space)"
        )
        if not given:
            raise ValueError(
                f"{path} has nothing to tune; write a line such as "
                f"table_learning_rate = {{ log_uniform = [0.002, 0.2] }}"
            )
        made = cls(ranges={name: _range(path, name, value) for name, value in given.items()})
        made._where = f"space {path}"
        return made

    def resolve(self, base: TrainConfig) -> Space:
        """The space around a base config: `times` are ranges, and what is optional and not there is
        left out. Raises ValueError for what cannot be tuned, and for values that are not allowed.
        """
        try:
            return Space(ranges=self._resolved_ranges(base))
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}") from error

    def _resolved_ranges(self, base: TrainConfig) -> dict[str, Range]:
        options = get_model(base.model).config.model_fields
        ranges = {}
        for name, given in self.ranges.items():
            if name in TrainConfig.model_fields:
                _require_tunable(name)
            elif name not in options:
                if given.optional:
                    continue
                near = nearest(name, [*TUNABLE, *options])
                near = near and f" ({near})"
                raise ValueError(
                    f"{name!r} is neither a field of training nor an option of model "
                    f"{base.model!r}{near}; fields that can be tuned are {', '.join(TUNABLE)}; "
                    f"options are {', '.join(options) or 'none'}"
                )
            ranges[name] = _resolved(base, name, given)
        if not ranges:
            raise ValueError(
                f"model {base.model!r} has none of {', '.join(self.ranges)}; nothing is "
                f"left to tune"
            )
        return ranges

    def require(self, num_trials: int, first: Settings) -> None:
        """Raise ValueError where there are fewer settings than trials, `first` being one."""
        sizes = [span.num_values for span in self.ranges.values()]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return
        inside = all(span.holds(first[name]) for name, span in self.ranges.items())
        there = math.prod(known) + (not inside)
        if num_trials > there:
            raise ValueError(
                f"{num_trials} trials, and the space has {there} settings, the base config's one "
                f"of them; ask for {there}, or widen the space"
            )

    def settings_of(self, config: TrainConfig) -> dict[str, JsonValue]:
        """What a config has in place of the settings."""
        return {name: _value(config, name) for name in self.ranges}

    def edges(self, config: TrainConfig, settings: Settings) -> tuple[str, ...]:
        """The settings that stand at an end of their range which the config could go beyond."""
        found = []
        for name, span in self.ranges.items():
            end = span.end_of(settings[name])
            if end is not None and _allowed(config, {**settings, name: span.beyond(end)}):
                found.append(name)
        return tuple(found)


def with_settings(config: TrainConfig, settings: Settings) -> TrainConfig:
    """`config` with other values for fields and options of the model."""
    fields = {name: value for name, value in settings.items() if name in TrainConfig.model_fields}
    options = {name: value for name, value in settings.items() if name not in fields}
    return changed(config, **fields, model_options={**config.model_options, **options})


def settings_text(settings: Settings) -> str:
    """`table_learning_rate 0.0613, dropout 0.2`."""
    texts = (
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )
    return ", ".join(texts)


def _range(path: Path, name: str, value: Any) -> Range:
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: {name} must say what it is chosen from, such as "
            f"{name} = {{ choices = [...] }}, got {value!r}"
        )
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in (name, *problem["loc"]))
        if problem["type"] == "extra_forbidden":
            kinds = ", ".join(Range.model_fields)
            raise ValueError(f"{path}: {where} is not known; there are {kinds}") from None
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}: {where}: {message}") from None


def _require_tunable(name: str) -> None:
    if name not in TUNABLE:
        raise ValueError(
            f"{name!r} is not for tuning: it is the same for all that is compared. Set it "
            f"for all, or choose among {', '.join(TUNABLE)} and options of the model"
        )


def _resolved(base: TrainConfig, name: str, given: Range) -> Range:
    try:
        span = given.based_on(_value(base, name))
        for value in span.probes():
            _require_same_features(base, with_settings(base, {name: value}), name)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} cannot be {value!r}: {message}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return span.model_copy(update={"optional": False})


def _require_same_features(base: TrainConfig, config: TrainConfig, name: str) -> None:
    """An option that decides which tables there are would change the bytes too."""
    probe = (Feature(name="probe", num_ids=10, dim=base.dim),)
    made = [get_model(c.model).parse(c.model_options).features(probe) for c in (base, config)]
    if made[0] != made[1]:
        raise ValueError(
            f"it decides which tables the model has, so plans and bytes with it; set {name} for "
            f"all instead"
        )


def _value(config: TrainConfig, name: str) -> Any:
    if name in TrainConfig.model_fields:
        return getattr(config, name)
    options = get_model(config.model).parse(config.model_options)
    return options.model_dump(mode="json")[name]


def _allowed(config: TrainConfig, settings: Settings) -> bool:
    try:
        with_settings(config, settings)
    except ValueError:
        return False
    return True
