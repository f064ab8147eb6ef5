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

import numpy as np
import torch
from torch import Tensor

from compactrec.embeddings.combines import Combine
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.init import Init
from compactrec.embeddings.rewrites import Stream

__all__ = [
    "Arrays",
    "Lowered",
    "Output",
    "Slot",
    "Table",
    "check_array",
    "require_array",
    "require_bitmap",
    "require_vocabulary",
    "table_name",
]

Arrays = Mapping[str, Tensor]
"""Integer arrays of a plan (remaps, partitions, bitmaps), by name: 1-D, contiguous, on the CPU.

Rows are int64, or int32 where a method says so; bitmaps are uint8, see ``bitmap.py``.
"""

_DTYPES = (torch.int64, torch.int32, torch.uint8)


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
    def is_constant(self) -> bool:
        """True for one-hot rows: no optimizer and no decay may move them."""
        return self.init.kind == "identity"

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
    whole: bool = False
    """True where the combine gets all columns of all parts, side by side, ``dim`` in all."""


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


def check_array(name: str, array: Tensor) -> None:
    """Raise unless ``array`` is what a plan may hold."""
    cpu = array.device.type == "cpu"
    if array.dtype not in _DTYPES or array.dim() != 1 or not cpu or not array.is_contiguous():
        layout = "contiguous" if array.is_contiguous() else "not contiguous"
        raise ValueError(
            f"array {name!r} must be int64, int32 or uint8, 1-D, contiguous and on the CPU, got "
            f"{array.dtype}, {array.dim()}-D, {layout}, on {array.device}; convert it first"
        )


def require_array(
    method: str,
    arrays: Arrays,
    name: str,
    feature: Feature,
    num_rows: int,
    *,
    unique: bool = False,
    drops: bool = False,
) -> Tensor:
    """The plan's array id -> row of ``feature``; raise on a wrong length or a row out of range.

    ``unique``: no two ids may have the same row. ``drops``: the array is int32 instead of int64,
    and -1 stands for no row. On ``meta`` the values are not looked at.
    """
    dtype = torch.int32 if drops else torch.int64
    array = _found(method, arrays, name, feature, feature.num_ids, "one entry for every id", dtype)
    if array.is_meta:
        return array
    lowest = -1 if drops else 0
    low, high = (int(bound) for bound in array.aminmax())
    if low < lowest or high >= num_rows:
        raise ValueError(
            f"{method}: array {name!r} of feature {feature.name!r} has rows {low} .. {high}, "
            f"allowed are {lowest} .. {num_rows - 1}"
        )
    rows = array[array >= 0] if drops else array
    if unique and rows.numel() and int(rows.bincount(minlength=num_rows).max()) > 1:
        raise ValueError(
            f"{method}: array {name!r} of feature {feature.name!r} gives two ids the same row; "
            f"every id needs one of its own"
        )
    return array


def require_bitmap(
    method: str, arrays: Arrays, name: str, feature: Feature, shape: tuple[int, int], num_ones: int
) -> Tensor:
    """The plan's bitmaps ``shape = (how many, bits each)``, each from a byte of its own on.

    Raises ``ValueError`` unless they hold ``num_ones`` ones in all. On ``meta`` the values are not
    looked at.
    """
    each = -(-shape[1] // 8)
    array = _found(method, arrays, name, feature, shape[0] * each, "one bit each", torch.uint8)
    if array.is_meta:
        return array
    rows = array.numpy().reshape(shape[0], each)
    ones = int(np.unpackbits(rows).sum())
    if ones != num_ones:
        raise ValueError(
            f"{method}: array {name!r} of feature {feature.name!r} has {ones} bits set, but the "
            f"config says {num_ones}"
        )
    if shape[1] % 8 and (rows[:, -1] >> (shape[1] % 8)).any():
        raise ValueError(
            f"{method}: array {name!r} of feature {feature.name!r} has bits set past the "
            f"{shape[1]} that it is for; clear them"
        )
    return array


def _found(
    method: str,
    arrays: Arrays,
    name: str,
    feature: Feature,
    num_entries: int | None,
    what: str,
    dtype: torch.dtype,
) -> Tensor:
    """The plan's array of that name, length and type."""
    array = arrays.get(name)
    if array is None or array.numel() != num_entries:
        given = "no such array" if array is None else f"one of {array.numel()}"
        raise ValueError(
            f"{method}: the plan has no array {name!r} of {num_entries} entries for feature "
            f"{feature.name!r}, it has {given}; give {what}"
        )
    if not array.is_meta:
        check_array(name, array)
    if array.dtype != dtype:
        raise ValueError(
            f"{method}: array {name!r} of feature {feature.name!r} must be {dtype}, got "
            f"{array.dtype}; convert it first"
        )
    return array
