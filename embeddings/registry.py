"""The methods that there are. A method registers itself at the end of its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.embeddings.arguments import check_options
from compactrec.embeddings.config import MethodConfig, first_error
from compactrec.embeddings.contract import Arrays, Lowered
from compactrec.embeddings.feature import Feature

__all__ = [
    "Assignments",
    "Method",
    "NoOptions",
    "SizingTask",
    "all_method_names",
    "config_from_dict",
    "get_method",
    "lower",
    "method_names",
    "register_method",
]

LowerFn = Callable[[Any, tuple[Feature, ...], Arrays], Lowered]


class NoOptions(BaseModel):
    """Options of a method that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Assignments:
    """Which features get which config; a group of several features shares its tables."""

    groups: tuple[tuple[tuple[Feature, ...], MethodConfig], ...]
    arrays: Arrays


@dataclass(frozen=True)
class SizingTask:
    """What a method's ``from_budget`` gets."""

    features: tuple[Feature, ...]
    budget_bytes: int
    """For these features alone: weights, auxiliary state and dense parts together."""
    counts: Mapping[str, Any] | None
    """Training frequency of every id, ``(num_ids,)`` integers by feature name; None if unknown."""
    options: Any
    """The method's own options, already validated."""


@dataclass(frozen=True)
class Method:
    """A registered method."""

    config: type[MethodConfig]
    lower: LowerFn
    from_budget: Callable[[SizingTask], Assignments] | None
    """The largest setting that fits; ``ValueError`` names the smallest possible bytes if none.
    None where weights must be seen first: a search makes such plans."""
    options: type[BaseModel]
    """What a person may choose when asking for a plan at a budget."""
    title: str
    paper: str
    formula: str
    baseline: bool = False
    """True for what every comparison shows beside the methods asked for."""
    search_baseline: bool = False
    """True for what a comparison shows beside searches."""
    supernet: bool = False
    """True for what is trained while a search runs, and never served."""

    @property
    def name(self) -> str:
        return self.config.method

    @property
    def sized(self) -> bool:
        """True where a plan can be made from a number of bytes alone."""
        return self.from_budget is not None


_METHODS: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Add a method; raise on a second one of the same name."""
    name = method.name
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"method name {name!r} is not allowed: use a lower-case identifier")
    if name in _METHODS:
        raise ValueError(f"a method named {name!r} is registered already: choose another name")
    _METHODS[name] = method
    return method


def method_names() -> list[str]:
    """The methods that can be asked for with a budget, in order of registration."""
    return [name for name, method in _METHODS.items() if method.sized]


def all_method_names() -> list[str]:
    """Every registered name, also what only searches make, in order of registration."""
    return list(_METHODS)


def get_method(name: str) -> Method:
    """The method of that name; raise ``ValueError`` naming what there is."""
    if name not in _METHODS:
        raise ValueError(f"unknown method {name!r}: there are {', '.join(method_names())}")
    return _METHODS[name]


def lower(config: MethodConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """Lower a group of features by its config."""
    return get_method(config.method).lower(config, features, arrays)


def config_from_dict(fields: Mapping[str, Any]) -> MethodConfig:
    """The config that ``MethodConfig.to_dict`` wrote."""
    rest = dict(fields)
    name, version = rest.pop("method", None), rest.pop("version", None)
    if not isinstance(name, str) or not isinstance(version, int):
        raise ValueError(f"a method config needs 'method' and 'version', got {sorted(fields)}")
    return get_method(name).config.from_fields(rest, version=version)


def parse_options(method: Method, options: Mapping[str, Any]) -> BaseModel:
    """Validate a person's options; errors name the method and the field."""
    allowed = ", ".join(method.options.model_fields) or "none"
    check_options(options, method.name, allowed)
    try:
        return method.options.model_validate(dict(options))
    except ValidationError as error:
        raise ValueError(
            f"{method.name}: option {first_error(error)}; options are: {allowed}"
        ) from None
