"""A plan of several models behind a router: every example goes to exactly one.

    k(x)   = router(ids of the example)
    logit  = expert_k(x)(dense, vectors by plan_k(x))

*Separate* tables: K plans, one for each cluster, each with tables of its own. *Shared* tables: one
plan, and for each cluster the columns of the vectors that its expert sees; the others are zeros.

Cost: the plans' bytes together (separate tables multiply memory), the router's, ``K F D`` bytes of
masks where tables are shared, and ``4 K`` for what calibrates the clusters' logits.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compactrec.embeddings.feature import Feature
from compactrec.embeddings.plan import Plan, array_checksum, write_plan_file
from compactrec.embeddings.routers import RouterConfig, RoutingBytes, router_from_dict

__all__ = ["FORMAT", "RoutedPlan"]

FORMAT, VERSION = "compactrec.routed_plan", 1
_KEYS = {"format", "version", "router", "columns", "plans", "arrays"}

Columns = Mapping[str, tuple[int, ...]]
"""Columns that a cluster's expert sees, by feature; features left out are seen whole."""


@dataclass(frozen=True, eq=False)
class RoutedPlan:
    """K clusters: their plans or columns, and the router between them.

    Equal plans have equal :attr:`digest`.
    """

    plans: tuple[Plan, ...]
    """One for each cluster; or a single one that all share, with ``columns`` for each."""
    router: RouterConfig
    arrays: Mapping[str, Tensor]
    """The router's weights, float32, by the names and shapes that it asks for."""
    columns: tuple[Columns, ...] = field(default=())
    """For shared tables, one for each cluster; empty for separate ones."""

    def __post_init__(self) -> None:
        wanted = (1, self.num_clusters) if self.shared else (self.num_clusters, 0)
        found = (len(self.plans), len(self.columns))
        if found != wanted:
            raise ValueError(
                f"a router to {self.num_clusters} clusters needs a plan for each, or one plan and "
                f"the columns of each; got {found[0]} plans and {found[1]} lists of columns"
            )
        for plan in self.plans[1:]:
            plan.check_features(self.features)
        self._check_columns()
        self._check_arrays()

    @property
    def num_clusters(self) -> int:
        """K"""
        return self.router.num_clusters

    @property
    def shared(self) -> bool:
        """True where all clusters read the same tables."""
        return bool(self.columns)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The logical features, the same in every plan."""
        return self.plans[0].features

    @property
    def methods(self) -> frozenset[str]:
        """The names of all methods in the plans, and ``routed``."""
        return frozenset({"routed"}).union(*(plan.methods for plan in self.plans))

    @property
    def routing(self) -> RoutingBytes:
        """Bytes of the router, the masks and the calibration."""
        table, aux, dense = self.router.num_bytes(self.features)
        masks = self.num_clusters * sum(f.dim for f in self.features) if self.shared else 0
        return RoutingBytes(table, aux + masks, dense + 4 * self.num_clusters)

    @property
    def digest(self) -> str:
        """A hash of everything in the plan, arrays included."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RoutedPlan) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def check_features(self, features: tuple[Feature, ...]) -> None:
        """Raise when ``features`` are not the ones the plans were made for."""
        self.plans[0].check_features(features)

    def masks(self) -> Tensor:
        """``(K, sum of widths)`` bool: what each cluster sees of the vectors side by side."""
        rows = []
        for columns in self.columns:
            parts = []
            for f in self.features:
                part = torch.zeros(f.dim, dtype=torch.bool, device="cpu")
                part[list(columns.get(f.name, range(f.dim)))] = True
                parts.append(part)
            rows.append(torch.cat(parts))
        return torch.stack(rows)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; arrays appear by checksum (:meth:`save` stores them beside it)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "router": self.router.model_dump(mode="json"),
            "columns": [{name: list(c) for name, c in of.items()} for of in self.columns],
            "plans": [plan.to_json() for plan in self.plans],
            "arrays": {name: array_checksum(array) for name, array in sorted(self.arrays.items())},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> "RoutedPlan":
        """The plan that :meth:`to_json` wrote, with the arrays that :meth:`all_arrays` gave."""
        found = (value.get("format"), value.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(
                f"this is not a routed plan that can be read here: format and version are {found}, "
                f"expected {(FORMAT, VERSION)}"
            )
        if value.keys() != _KEYS:
            raise ValueError(
                f"the routed plan lacks the keys {sorted(_KEYS - value.keys())} and has the "
                f"unknown keys {sorted(value.keys() - _KEYS)}; its keys are {sorted(_KEYS)}"
            )
        own = _under("router.", arrays)
        for name, checksum in value["arrays"].items():
            if name not in own:
                raise ValueError(f"array {name!r} of the router is missing")
            if array_checksum(own[name]) != checksum:
                raise ValueError(f"array {name!r} of the router was changed: its checksum differs")
        return RoutedPlan(
            plans=tuple(
                Plan.from_json(plan, _under(f"plan{k}.", arrays))
                for k, plan in enumerate(value["plans"])
            ),
            router=router_from_dict(value["router"]),
            arrays={name: own[name] for name in value["arrays"]},
            columns=tuple(
                {name: tuple(columns) for name, columns in of.items()} for of in value["columns"]
            ),
        )

    def all_arrays(self) -> dict[str, Tensor]:
        """The router's arrays and the plans', as a file holds them."""
        named = {f"router.{name}": array for name, array in self.arrays.items()}
        for k, plan in enumerate(self.plans):
            named |= {f"plan{k}.{name}": array for name, array in plan.arrays.items()}
        return named

    def save(self, path: str | Path) -> None:
        """Write ``path`` (JSON) and ``<path>.safetensors`` beside it."""
        write_plan_file(path, self.to_json(), self.all_arrays())

    def _check_columns(self) -> None:
        dims = {f.name: f.dim for f in self.features}
        for k, columns in enumerate(self.columns):
            for name, of in columns.items():
                allowed = range(dims.get(name, 0))
                if (
                    name not in dims
                    or list(of) != sorted({*of})
                    or any(c not in allowed for c in of)
                ):
                    raise ValueError(
                        f"cluster {k}: columns {list(of)} of feature {name!r} must be ascending "
                        f"and within 0 .. {dims[name] - 1}"
                        if name in dims
                        else f"cluster {k}: the plan has no feature {name!r}; leave it out"
                    )

    def _check_arrays(self) -> None:
        known = {f.name for f in self.features}
        unknown = [name for name in self.router.searched if name not in known]
        if unknown:
            raise ValueError(f"the router reads features that the plan does not have: {unknown}")
        wanted = self.router.shapes(self.features)
        if self.arrays.keys() != wanted.keys():
            raise ValueError(
                f"a {self.router.kind} router needs the arrays {sorted(wanted)}, got "
                f"{sorted(self.arrays)}"
            )
        for name, array in self.arrays.items():
            kind = (tuple(array.shape), array.dtype, array.device.type, array.is_contiguous())
            if kind != (wanted[name], torch.float32, "cpu", True):
                raise ValueError(
                    f"array {name!r} of the router must be float32 {wanted[name]}, contiguous and "
                    f"on the CPU, got {array.dtype} {tuple(array.shape)} on {array.device}"
                )


def _under(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in arrays.items() if k.startswith(prefix)}
