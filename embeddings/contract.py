"""The one contract: a method is a lowering.

    logical ids --rewrite--> physical row ids --tables--> rows --combine--> logical vectors
            integers only            all the big weights      small dense parameters

A method is a config type and a function ``lower(config, features, arrays) -> Lowered``. Everything
else (budgets, bytes, engines, checkpoints, conversion, export) is written once, against
:class:`Lowered`. A method never edits a model; a model never names a method.

What every lowering must keep (each is a test over every registered method):

* the rewrite holds integer buffers only, no parameter, and depends on nothing but the config;
* a physical key is ``<feature>__<part>``; a table name has no ``.`` and no ``@``;
* inputs are addressed by key, never by position; outputs are the logical features, as declared;
* a non-linear combine sees single ids, never pooled rows;
* an empty bag gives zeros, and no combine has a bias that would change that;
* every weight is in a table or in a combine; sizes are known without allocating;
* a table's width is a multiple of 4 (narrow rows are packed, see ``packing.py``).

A group of several features shares its tables: ``lower`` gets them all at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from compactrec.embeddings.combines import Combine
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.init import Init
from compactrec.embeddings.rewrites import Stream

__all__ = ["Arrays", "Lowered", "Output", "Slot", "Table", "require_vocabulary", "table_name"]

Arrays = Mapping[str, Tensor]
"""Integer arrays of a plan (remaps, partitions), by name."""


@dataclass(frozen=True)
class Table:
    """A physical table: ``num_rows * dim`` float32 weights."""

    name: str
    num_rows: int
    dim: int
    init: Init

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights."""
        return 4 * self.num_rows * self.dim

    @property
    def init_fn(self) -> "partial[Tensor]":
        """Draws the initial weights in place."""
        return self.init.fn(self.dim)


@dataclass(frozen=True)
class Slot:
    """One input of a combine: a part, or the lanes of a packed table."""

    parts: tuple[str, ...]
    dim: int
    """Logical width: part ``j`` contributes its columns ``j * dim .. (j + 1) * dim``."""


@dataclass(frozen=True)
class Output:
    """One logical vector: ``combine`` over ``inputs``, summed over bag positions."""

    key: str
    feature: str
    dim: int
    inputs: tuple[tuple[Slot, ...], ...]
    """One tuple of slots per bag position; a single one where the combine is linear."""
    combine: Combine


@dataclass(frozen=True)
class Lowered:
    """What a method makes of a group of features."""

    streams: tuple[Stream, ...]
    tables: tuple[Table, ...]
    outputs: tuple[Output, ...]


def table_name(features: Sequence[Feature], part: str) -> str:
    """The name of a table: the first feature that reads it and the part."""
    return f"t_{part_key(features[0].name, part)}"


def require_vocabulary(method: str, features: Sequence[Feature], *, same: bool = False) -> int:
    """``num_ids`` of a group's features; raise on an open vocabulary, or on unlike ones."""
    for feature in features:
        if feature.num_ids is None:
            raise ValueError(
                f"{method}: feature {feature.name!r} has an open vocabulary, but this method needs "
                f"num_ids; use a hashing method or give num_ids"
            )
        unlike = (feature.num_ids, feature.dim) != (features[0].num_ids, features[0].dim)
        if same and unlike:
            raise ValueError(
                f"{method}: features that share a table must have equal num_ids and dim, but "
                f"{features[0].name!r} has {(features[0].num_ids, features[0].dim)} and "
                f"{feature.name!r} has {(feature.num_ids, feature.dim)}; put them in two groups"
            )
    num_ids = features[0].num_ids
    assert num_ids is not None
    return num_ids
