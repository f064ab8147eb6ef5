"""Small routed plans for tests: three clusters over three features, one of them multi-hot."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactrec.embeddings import Feature, FullConfig, Group, Plan, RoutedPlan, full_plan
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.routers import GateRouterConfig, LinearRouterConfig

__all__ = ["FEATURES", "gate_router", "linear_arrays", "pruned_plan", "routed_plan", "shared_plan"]

DIM, CLUSTERS = 8, 3
FEATURES = (
    Feature(name="a", num_ids=60, dim=DIM, max_bag=3),
    Feature(name="b", num_ids=7, dim=DIM),
    Feature(name="c", num_ids=31, dim=DIM, max_bag=2, pooling="mean"),
)
COLUMNS: tuple[dict[str, tuple[int, ...]], ...] = (
    {"a": (0, 1, 2), "c": (5,)},
    {"a": (), "c": (0, 1, 2, 3, 4, 5, 6, 7)},
    {"a": (3, 6), "c": ()},
)


def linear_arrays(num_clusters: int, num_buckets: int = 32) -> dict[str, Tensor]:
    """A router that uses every cluster."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(num_buckets, num_clusters, generator=generator)
    return {"weight": weight, "bias": torch.zeros(num_clusters)}


def pruned_plan(columns: dict[str, tuple[int, ...]], keep: bool = False) -> Plan:
    """``b`` whole, the others some columns; with ``keep``, every third id of ``a`` dropped."""
    groups, arrays = [], dict[str, Tensor]()
    for f in FEATURES:
        if f.name not in columns:
            groups.append(Group((f.name,), FullConfig()))
            continue
        rows = np.arange(f.num_ids or 0) % 3 > 0 if keep and f.name == "a" else None
        config, own = pruned_assignment(f, rows, [columns[f.name]])
        groups.append(Group((f.name,), config))
        arrays |= own
    return Plan(FEATURES, tuple(groups), arrays)


def routed_plan(num_clusters: int = CLUSTERS) -> RoutedPlan:
    """Separate tables."""
    router = LinearRouterConfig(num_clusters=num_clusters, searched=("a", "c"), num_buckets=32)
    plans = tuple(pruned_plan(COLUMNS[k], keep=k == 0) for k in range(num_clusters))
    return RoutedPlan(plans, router, linear_arrays(num_clusters))


def shared_plan() -> RoutedPlan:
    """The same clusters on one set of tables."""
    router = LinearRouterConfig(num_clusters=CLUSTERS, searched=("a", "c"), num_buckets=32)
    return RoutedPlan((full_plan(FEATURES),), router, linear_arrays(CLUSTERS), COLUMNS)


def gate_router(num_clusters: int, **options: Any) -> tuple[GateRouterConfig, dict[str, Tensor]]:
    """A router by gates with random weights."""
    config = GateRouterConfig(num_clusters=num_clusters, searched=("a", "c"), **options)
    generator = torch.Generator().manual_seed(9)
    shapes = config.shapes(FEATURES)
    return config, {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
