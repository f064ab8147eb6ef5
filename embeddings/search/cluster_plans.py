"""Plans of clusters: which columns each keeps, as separate tables or as masks on shared ones."""

from collections.abc import Mapping, Sequence
from sys import maxsize

import numpy as np
import torch
from torch import Tensor, nn

from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.plan import AnyPlan, Group, Plan
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.routed import RoutedPlan
from compactrec.embeddings.routers import RouterConfig
from compactrec.embeddings.search.base import SearchTask, Trained
from compactrec.embeddings.search.clusters import bags_of_rows

__all__ = ["RankedMasks", "SeenIds", "cluster_plan", "seen_ids"]

SeenIds = Sequence[Mapping[str, Tensor]]
"""For each cluster and searched feature, ``(num_ids,)`` bool."""


class RankedMasks:
    """Masks ``(K, S, D)`` of the first entries in a fixed order: larger ones hold smaller ones.

    The order is that of falling ``means``, then of falling ``chances``, then of place.
    """

    def __init__(self, means: Tensor, chances: Tensor) -> None:
        order = np.lexsort((-chances.flatten().numpy(), -means.flatten().numpy()))
        self._order, self._shape = torch.from_numpy(order), means.shape

    def __call__(self, num_kept: int) -> Tensor:
        masks = torch.zeros(self._shape.numel(), dtype=torch.bool)
        masks[self._order[:num_kept]] = True
        return masks.view(self._shape)


def cluster_plan(
    task: SearchTask,
    router: RouterConfig | None,
    arrays: Mapping[str, Tensor],
    masks: Tensor,
    keep: SeenIds | None,
    shared: bool,
) -> AnyPlan:
    """The plan of masks ``(K, S, D)``; without a router, the plain plan of the one cluster.

    Args:
        keep: the ids that separate tables hold; None is all.
        shared: one set of tables with the columns that any cluster keeps.
    """
    names = [f.name for f in task.searched_features]
    if router is None:
        return _plan(
            task, dict(zip(names, masks[0], strict=True)), None if keep is None else keep[0]
        )
    if shared:
        plan = _plan(task, dict(zip(names, masks.any(0), strict=True)), None)
        columns = tuple(
            {name: _columns(row) for name, row in zip(names, mask, strict=True)} for mask in masks
        )
        return RoutedPlan((plan,), router, arrays, columns)
    plans = tuple(
        _plan(task, dict(zip(names, mask, strict=True)), None if keep is None else keep[k])
        for k, mask in enumerate(masks)
    )
    return RoutedPlan(plans, router, arrays)


def seen_ids(
    trained: Trained, names: Sequence[str], router: nn.Module | None, num_clusters: int
) -> SeenIds:
    """Which ids the training rows of each cluster have. Reads all of them."""
    sizes = {f.name: f.num_ids or 0 for f in trained.task.features}
    seen = [
        {name: torch.zeros(sizes[name], dtype=torch.bool) for name in names}
        for _ in range(num_clusters)
    ]
    for rows in trained.rows("train", maxsize):
        bags = bags_of_rows(rows)
        owners = torch.zeros(len(rows.vectors), dtype=torch.int64)
        if router is not None:
            owners = router(bags)
        for name in names:
            bag = bags[name]
            owner = torch.repeat_interleave(owners, bag.lengths.to(torch.int64))
            for k in range(num_clusters):
                seen[k][name][bag.values[owner == k]] = True
    return seen


def _plan(task: SearchTask, masks: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None) -> Plan:
    groups, arrays = [], dict[str, Tensor]()
    for feature in task.features:
        rows = None if keep is None else keep.get(feature.name)
        mask = masks.get(feature.name)
        if mask is None or (bool(mask.all()) and (rows is None or bool(rows.all()))):
            groups.append(Group((feature.name,), FullConfig()))
            continue
        config, own = pruned_assignment(feature, rows, [_columns(mask)])
        groups.append(Group((feature.name,), config))
        arrays |= own
    return Plan(task.features, tuple(groups), arrays)


def _columns(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[:, 0].tolist())
