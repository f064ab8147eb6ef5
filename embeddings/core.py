"""What a layer of one feature is made of: a rewrite, tables and a combine; plain torch.

Layers whose features share a group share the tables, and layers of one feature share everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Table
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.logical import LogicalCombine
from compactrec.embeddings.registry import lower
from compactrec.embeddings.rewrite import Bags, Rewrite

__all__ = ["BagTables", "Core", "make_cores"]


class BagTables(nn.Module):
    """Physical tables as plain modules; the same state-dict keys as a torchrec collection."""

    def __init__(self, tables: Sequence[Table], *, sparse: bool) -> None:
        super().__init__()
        self._tables = tuple(tables)
        self.sparse = sparse
        self.embedding_bags = nn.ModuleDict(
            {
                t.name: nn.EmbeddingBag(
                    t.num_rows, t.dim, mode="sum", include_last_offset=True, sparse=sparse
                )
                for t in tables
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        for table in self._tables:
            weight = self.embedding_bags[table.name].weight
            assert isinstance(weight, Tensor)
            if not weight.is_meta:
                table.init_fn(weight)

    def constant_parameters(self) -> list[nn.Parameter]:
        """Weights of one-hot tables: a weight decay would move them, so no optimizer holds them."""
        holders = [self.embedding_bags[t.name] for t in self._tables if t.is_constant]
        return [parameter for holder in holders for parameter in holder.parameters()]

    def forward(self, bags: Bags, part_tables: tuple[str, ...], num_bags: int) -> Tensor:
        """``(N, sum of part dims)``, parts in the order of ``part_tables``."""
        grid = bags.lengths.view(len(part_tables), num_bags)
        counts = grid.sum(1).tolist()
        ends = F.pad(grid.cumsum(1), (1, 0))
        rows = bags.values.split(counts)
        weights = [None] * len(counts) if bags.weights is None else bags.weights.split(counts)
        pooled = [
            self.embedding_bags[name](rows[i], ends[i], weights[i])
            for i, name in enumerate(part_tables)
        ]
        if not pooled:  # every id is dropped
            return torch.zeros(num_bags, 0, device=bags.lengths.device)
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


@dataclass(frozen=True)
class Core:
    """One feature, ready to be read by any number of layers."""

    feature: Feature
    config: MethodConfig
    rewrite: Rewrite
    tables: BagTables
    combine: LogicalCombine
    linear: bool
    dims: tuple[int, ...]
    """Widths of the parts, in the order of the rewrite."""


def make_cores(
    config: MethodConfig,
    features: Sequence[Feature],
    arrays: Arrays,
    *,
    sparse: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Core]:
    """A core for every feature of a group, by name; the tables are those of the group.

    Raises ``ValueError`` for a config that makes several vectors of one feature.
    """
    with torch.device(device or "cpu"):
        lowered = lower(config, tuple(features), arrays)
        tables = BagTables(lowered.tables, sparse=sparse)
    widths = {table.name: table.dim for table in lowered.tables}
    cores = {}
    for feature in features:
        outputs = [o for o in lowered.outputs if o.feature == feature.name]
        if len(outputs) != 1:
            raise ValueError(
                f"{config.method}: this config makes {len(outputs)} vectors of one "
                f"feature, and a single layer returns one; choose another operation"
            )
        rewrite = Rewrite((feature,), [s for s in lowered.streams if s.feature == feature.name])
        core = Core(
            feature,
            config,
            rewrite,
            tables,
            LogicalCombine(outputs),
            outputs[0].combine.linear,
            tuple(widths[table] for table in rewrite.part_tables),
        )
        _place(core, device, dtype)
        cores[feature.name] = core
    return cores


def _place(core: Core, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    modules: tuple[nn.Module, ...] = (core.rewrite, core.tables, core.combine)
    for module in modules:
        if dtype is not None:
            module.to(dtype)
        if device is not None and torch.device(device).type != "meta":
            module.to(device)
