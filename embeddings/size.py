"""Bytes of a plan, on paper: nothing is allocated, and a test holds it to what is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from compactrec.embeddings.contract import Lowered
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.plan import AnyPlan
from compactrec.embeddings.sizing import aux_bytes, dense_bytes, table_bytes

__all__ = ["DenseOptimizer", "GroupSize", "SizeReport", "TableOptimizer", "size"]

TableOptimizer = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "amsgrad", "lamb"]
DenseOptimizer = Literal["sgd", "adagrad", "adam", "amsgrad", "lamb"]
_STATES_PER_WEIGHT = {"sgd": 0, "adagrad": 1, "adam": 2, "amsgrad": 3, "lamb": 2}


@dataclass(frozen=True)
class GroupSize:
    """Bytes of one group of a plan."""

    features: tuple[str, ...]
    method: str
    num_rows: int
    """Physical rows over the group's tables."""
    table_bytes: int
    aux_bytes: int
    dense_bytes: int
    full_bytes: int | None
    """What full tables of these features take; None for an open vocabulary."""


@dataclass(frozen=True)
class SizeReport:
    """Bytes of a plan, for serving and for training."""

    table_bytes: int
    """Weights of the physical tables (float32)."""
    aux_bytes: int
    """Integer state of the rewrite: salts, digits, remaps, pointers."""
    dense_bytes: int
    """Weights of the combines: projections, path functions."""
    optimizer_bytes: int
    """State of the optimizers, tables and dense parts. Gradients and activations are not here."""
    groups: tuple[GroupSize, ...]
    """Plan after plan, where there are several."""
    routing_bytes: int = 0
    """Of the bytes above, those of a router, its masks and its calibration."""

    @property
    def serving_bytes(self) -> int:
        """What a server must hold: tables, integer state, dense parts."""
        return self.table_bytes + self.aux_bytes + self.dense_bytes

    @property
    def training_bytes(self) -> int:
        """Serving bytes and the optimizer's state."""
        return self.serving_bytes + self.optimizer_bytes


def size(
    plan: AnyPlan,
    features: Sequence[Feature] | None = None,
    *,
    optimizer: TableOptimizer = "rowwise_adagrad",
    dense_optimizer: DenseOptimizer = "adagrad",
    lazy_decay: bool = False,
) -> SizeReport:
    """Bytes of ``plan``, without allocating its tables: every copy, and what routes to it.

    Args:
        features: if given, must be the ones the plan was made for (``ValueError`` otherwise).
        optimizer: what trains the tables; ``rowwise_adagrad`` keeps 4 bytes per physical row.
        dense_optimizer: what trains the combines.
        lazy_decay: the fused engine has a dense weight decay: 8 bytes more per physical row,
            but for constant tables, which do not decay.
    """
    if features is not None:
        plan.check_features(tuple(features))
    groups: list[GroupSize] = []
    every: list[Lowered] = []
    aux = 0
    for part in plan.plans:
        arrays = {name: array.to("meta") for name, array in part.arrays.items()}
        lowered = []
        for group in part.groups:
            members = part.group_features(group)
            with torch.device("meta"):
                lowered.append(part.lower_group(group, arrays))
            own = tuple(f for f in members if f.name not in group.ties)
            groups.append(_group_size(group.config.method, members, own, lowered[-1]))
        aux += aux_bytes(part.features, lowered)
        every += lowered
    routing, dense = plan.routing, dense_bytes(every)
    return SizeReport(
        table_bytes=table_bytes(every) + routing.table,
        aux_bytes=aux + routing.aux,
        dense_bytes=dense + routing.dense,
        optimizer_bytes=_table_states(every, optimizer)
        + 8 * lazy_decay * sum(t.num_rows for of in every for t in of.tables if not t.is_constant)
        + dense * _STATES_PER_WEIGHT[dense_optimizer],
        groups=tuple(groups),
        routing_bytes=sum(routing),
    )


def _group_size(
    method: str, features: tuple[Feature, ...], own: tuple[Feature, ...], lowered: Lowered
) -> GroupSize:
    """``own`` are the features with a table of their own in full: those that are not tied."""
    full: int | None = 0
    for feature in own:
        full = (
            None
            if full is None or feature.num_ids is None
            else (full + 4 * feature.num_ids * feature.dim)
        )
    return GroupSize(
        features=tuple(feature.name for feature in features),
        method=method,
        num_rows=sum(table.num_rows for table in lowered.tables),
        table_bytes=table_bytes([lowered]),
        aux_bytes=aux_bytes(features, [lowered]),
        dense_bytes=dense_bytes([lowered]),
        full_bytes=full,
    )


def _table_states(lowered: Sequence[Lowered], optimizer: TableOptimizer) -> int:
    if optimizer == "rowwise_adagrad":
        return sum(4 * table.num_rows for part in lowered for table in part.tables)
    return table_bytes(lowered) * _STATES_PER_WEIGHT[optimizer]
