"""A plan: which method config each feature gets. All that it takes to build the tables again."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import ValidationError
from torch import Tensor

from compactrec.embeddings.config import MethodConfig, first_error
from compactrec.embeddings.contract import Arrays, Lowered, check_array
from compactrec.embeddings.feature import Feature, check_features
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.patterns import check_pattern
from compactrec.embeddings.registry import config_from_dict
from compactrec.embeddings.routers import RoutingBytes
from compactrec.embeddings.ties import check_ties, lower_tied

if TYPE_CHECKING:
    from compactrec.embeddings.routed import RoutedPlan

__all__ = [
    "AnyPlan",
    "Group",
    "Plan",
    "array_checksum",
    "from_plan_file",
    "load_plan",
    "read_plan_file",
    "select",
    "write_plan_file",
]

P = TypeVar("P")
FORMAT, VERSION = "compactrec.plan", 1
_KEYS = {"format", "version", "features", "groups", "arrays"}


@dataclass(frozen=True)
class Group:
    """Features that share one config and, when there are several, their tables."""

    features: tuple[str, ...]
    config: MethodConfig
    ties: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Features of the group that have the vectors of another one, and which."""

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError(
                f"a group with config {self.config.to_dict()} names no feature; name one or leave "
                f"the group out"
            )
        check_ties(self.features, self.ties)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``ties`` only where there are any."""
        ties = {"ties": dict(self.ties)} if self.ties else {}
        return {"features": list(self.features), "config": self.config.to_dict(), **ties}


@dataclass(frozen=True, eq=False)
class Plan:
    """Features, their groups, and the integer arrays that some methods need.

    Every feature is in exactly one group. Equal plans have equal :attr:`digest`.
    """

    features: tuple[Feature, ...]
    groups: tuple[Group, ...]
    arrays: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_features(self.features)
        grouped = [name for group in self.groups for name in group.features]
        known = {feature.name for feature in self.features}
        unknown = sorted(set(grouped) - known)
        missing = sorted(known - set(grouped))
        twice = sorted({name for name in grouped if grouped.count(name) > 1})
        for names, what in (
            (unknown, "names features that do not exist"),
            (missing, "leaves out features"),
            (twice, "names features in several groups"),
        ):
            if names:
                raise ValueError(f"the plan {what}: {', '.join(names)}")
        for name, array in self.arrays.items():
            check_array(name, array)

    @property
    def digest(self) -> str:
        """A hash of everything in the plan, arrays included."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def plans(self) -> "tuple[Plan, ...]":
        """The collections that a model of this plan holds: this one."""
        return (self,)

    @property
    def routing(self) -> RoutingBytes:
        """Bytes of what chooses between plans: nothing, there is one."""
        return RoutingBytes()

    @property
    def methods(self) -> frozenset[str]:
        """The names of all methods in the plan."""
        return frozenset(group.config.method for group in self.groups)

    def group_features(self, group: Group) -> tuple[Feature, ...]:
        """The features of a group, as objects."""
        by_name = {feature.name: feature for feature in self.features}
        return tuple(by_name[name] for name in group.features)

    def lower(self) -> list[Lowered]:
        """Lower every group."""
        return [self.lower_group(group) for group in self.groups]

    def lower_group(self, group: Group, arrays: Arrays | None = None) -> Lowered:
        """Lower one group; with other arrays than the plan's where they are given."""
        arrays = self.arrays if arrays is None else arrays
        return lower_tied(group.config, self.group_features(group), group.ties, arrays)

    def check_features(self, features: tuple[Feature, ...]) -> None:
        """Raise when ``features`` are not the ones the plan was made for."""
        ours = {feature.name: feature for feature in self.features}
        theirs = {feature.name: feature for feature in features}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"the plan was made for other features: {name!r} is {ours.get(name)!r} in the "
                    f"plan and {theirs.get(name)!r} in the data; make a plan for this data"
                )

    def to_json(self) -> dict[str, Any]:
        """A JSON value; arrays appear by checksum (:meth:`save` stores them beside it)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "features": [f.model_dump(mode="json", exclude_defaults=True) for f in self.features],
            "groups": [group.to_json() for group in self.groups],
            "arrays": {name: array_checksum(array) for name, array in sorted(self.arrays.items())},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], arrays: Arrays | None = None) -> "Plan":
        """The plan that :meth:`to_json` wrote; ``arrays`` must match its checksums."""
        arrays = arrays or {}
        found = (value.get("format"), value.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(
                f"this is not a plan that can be read here: format and version are {found}, "
                f"expected {(FORMAT, VERSION)}"
            )
        if value.keys() != _KEYS:
            raise ValueError(
                f"the plan lacks the keys {sorted(_KEYS - value.keys())} and has the unknown keys "
                f"{sorted(value.keys() - _KEYS)}; the keys of a plan are {sorted(_KEYS)}"
            )
        for name, checksum in value["arrays"].items():
            if name not in arrays:
                raise ValueError(f"array {name!r} of the plan is missing")
            check_array(name, arrays[name])
            if array_checksum(arrays[name]) != checksum:
                raise ValueError(f"array {name!r} of the plan was changed: its checksum differs")
        try:
            features = tuple(Feature.model_validate(f) for f in value["features"])
        except ValidationError as error:
            raise ValueError(f"plan: feature {first_error(error, Feature)}") from None
        groups = tuple(_group(g) for g in value["groups"])
        return Plan(features, groups, {name: arrays[name] for name in value["arrays"]})

    def save(self, path: str | Path) -> None:
        """Write ``path`` (JSON) and, if there are arrays, ``<path>.safetensors`` beside it."""
        write_plan_file(path, self.to_json(), self.arrays)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan that :meth:`save` wrote."""
        read = read_plan_file(path)
        return from_plan_file(path, lambda: Plan.from_json(*read))


AnyPlan: TypeAlias = "Plan | RoutedPlan"
"""What a model can be built from: one plan, or several behind a router."""


def load_plan(path: str | Path) -> "AnyPlan":
    """The plan in a file, whatever kind of plan it is."""
    from compactrec.embeddings.routed import FORMAT as ROUTED
    from compactrec.embeddings.routed import RoutedPlan

    value, arrays = read_plan_file(path)
    kind: type[Plan | RoutedPlan] = RoutedPlan if value.get("format") == ROUTED else Plan
    return from_plan_file(path, lambda: kind.from_json(value, arrays))


def from_plan_file(path: str | Path, make: Callable[[], P]) -> P:
    """What ``make`` makes of the content of a plan file; errors name the file."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_plan_file(path: str | Path, value: Mapping[str, Any], arrays: Arrays) -> None:
    """Write ``path`` (JSON) and, if there are arrays, ``<path>.safetensors`` beside it."""
    from compactrec.embeddings.checkpoint_io import write_tensors

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a plan is a file; give a name, as plan.json")
    if arrays:
        write_tensors(_arrays_path(path), arrays)
    text = json.dumps(value, indent=1) + "\n"
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_plan_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON object of a plan file and, where it names ``arrays``, those beside it."""
    from safetensors.torch import load_file

    path = Path(path)
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"the plan {path} cannot be read ({error.strerror}); give the path of a plan file, as "
            f"'compactrec plan', 'compactrec search' and Plan.save write it"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected a plan file") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a plan file: expected a JSON object")
    if not value.get("arrays"):
        return value, {}
    beside = _arrays_path(path)
    if not beside.is_file():
        raise ValueError(f"{path} has arrays, but {beside} is not there; a plan is both files")
    return value, load_file(str(beside))


def array_checksum(array: Tensor) -> str:
    """A hash of the bytes of a tensor on the CPU."""
    return hashlib.sha256(array.numpy().tobytes()).hexdigest()


def select(
    features: tuple[Feature, ...],
    rules: Mapping[str, MethodConfig],
    *,
    min_num_ids: int = 0,
    small: MethodConfig | None = None,
) -> Plan:
    """A plan by rules: exact name first, then regular expressions in order, then ``_default``.

    Features with at most ``min_num_ids`` ids get ``small`` (None is a full table), unless named
    exactly.
    Raises ``ValueError`` for a rule that matches nothing and a feature that no rule matches.
    """
    exact = {feature.name for feature in features}
    for pattern in rules.keys() - exact:
        check_pattern(pattern, "feature", "C[0-9]+")
    used: set[str] = set()
    groups = []
    for feature in features:
        is_small = feature.num_ids is not None and feature.num_ids <= min_num_ids
        if is_small and feature.name not in rules:
            groups.append(Group((feature.name,), small or FullConfig()))
            continue
        name = feature.name if feature.name in rules else _matching_rule(feature, rules, exact)
        used.add(name)
        groups.append(Group((feature.name,), rules[name]))
    idle = [name for name in rules if name not in used and name != "_default"]
    if idle:
        raise ValueError(f"rules that match no feature: {', '.join(idle)}")
    return Plan(features, tuple(groups))


def _matching_rule(feature: Feature, rules: Mapping[str, MethodConfig], exact: set[str]) -> str:
    for pattern in rules:
        if pattern not in {"_default"} | exact and re.fullmatch(pattern, feature.name):
            return pattern
    if "_default" not in rules:
        raise ValueError(f"no rule matches feature {feature.name!r}; add '_default'")
    return "_default"


def _group(value: Any) -> Group:
    """One entry of a plan's ``groups``."""
    if not isinstance(value, dict) or value.keys() - {"ties"} != {"features", "config"}:
        raise ValueError(f"plan: a group needs the keys 'config' and 'features' alone, got {value}")
    config = config_from_dict(value["config"])
    return Group(tuple(value["features"]), config, value.get("ties", {}))


def _arrays_path(path: Path) -> Path:
    return path.with_name(path.name + ".safetensors")
