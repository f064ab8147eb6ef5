"""A feature: one logical key of a model's sparse input."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["MAX_ID", "Feature", "check_features", "part_key"]

MAX_ID = 2**63 - 1
"""Ids are int64; an open vocabulary takes any id in 0 .. MAX_ID."""

_FORBIDDEN = ("@", ".", "__")


def part_key(feature: str, part: str) -> str:
    """The physical key of one part of a feature: ``<feature>__<part>``."""
    return f"{feature}__{part}"


class Feature(BaseModel):
    """A logical sparse feature: what the model sees, whatever the tables behind it are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    """Logical key. No ``__``, ``@`` or ``.``: torchrec gives those a meaning in physical keys."""
    num_ids: int | None = Field(default=None, ge=1, le=MAX_ID)
    """Ids are ``0 .. num_ids - 1``; None is an open vocabulary (any non-negative int64)."""
    dim: int = Field(ge=1)
    """Width of the vector that the model gets (D)."""
    max_bag: int = Field(default=1, ge=1)
    """The largest number of ids in one bag; only methods with a non-linear combine need it."""
    pooling: Literal["sum", "mean"] = "sum"
    """``mean`` divides the weighted sum by the number of ids; an empty bag gives zeros."""

    init_std: float | None = Field(default=None, gt=0)
    """Standard deviation of each element of a vector at the start, whatever tables it is made of;
    None is the method's own start, DLRM's U(+-sqrt(1/n)) for most. Behind projections, which have
    a start of their own, it is that of what they are applied to."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name or any(token in name for token in _FORBIDDEN):
            raise ValueError(
                f"feature name {name!r} is not allowed: it must not be empty nor contain "
                f"{', '.join(repr(t) for t in _FORBIDDEN)}; rename the feature"
            )
        return name


def check_features(features: tuple[Feature, ...]) -> None:
    """Raise when there are no features or two of them share a name."""
    if not features:
        raise ValueError("no features were given; at least one is needed")
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise ValueError(f"feature {feature.name!r} was given twice; names must be unique")
        seen.add(feature.name)
