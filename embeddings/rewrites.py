"""Integer maths of a rewrite: from ids to rows of physical tables.

A *stream* reads one feature and writes one part, or several when it splits. It is an
:class:`IdMap` (id -> row, the same for every id of the feature) and optionally a :class:`Split`
(which of the stream's parts an id goes to; each id goes to one at most, so nothing is looked up
twice and sums still add up). An id that goes to none is *dropped*: it counts as zeros. One split,
:class:`Entries`, sends an id to several parts.

Maps and splits are values with int64 parameters; :mod:`compactrec.embeddings.rewrite` runs all
streams of a kind in one vectorised call. Legend: ``S`` streams, ``V`` ids.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from compactrec.embeddings.bitmap import bitmap_rank, index_words
from compactrec.embeddings.hashing import salted_hash

__all__ = [
    "Blocks",
    "Clip",
    "Digit",
    "Entries",
    "IdMap",
    "Identity",
    "Keep",
    "LookUp",
    "Positions",
    "Rank",
    "Remap",
    "SaltedHash",
    "Signs",
    "Split",
    "Stream",
]


@dataclass(frozen=True)
class IdMap:
    """A pure integer map. ``params`` and ``array`` are its only state."""

    kind: ClassVar[str]

    @property
    def params(self) -> tuple[int, ...]:
        """int64 parameters, stored in the state dict."""
        return ()

    @property
    def array(self) -> Tensor | None:
        """An array of the plan, stored in the state dict; None for most maps."""
        return None

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        """Rows of ``ids``; every parameter broadcasts against ``ids``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(IdMap):
    """``x``"""

    kind: ClassVar[str] = "identity"

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        return ids


@dataclass(frozen=True)
class Digit(IdMap):
    """``(x div divisor) mod modulus``, in integers (a float quotient is wrong above 2^24)."""

    divisor: int
    modulus: int
    kind: ClassVar[str] = "digit"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.divisor, self.modulus)

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        return torch.div(ids, params[0], rounding_mode="floor") % params[1]


@dataclass(frozen=True)
class SaltedHash(IdMap):
    """``h(x; salt, num_rows)``, see :mod:`compactrec.embeddings.hashing`."""

    salt: int
    num_rows: int
    kind: ClassVar[str] = "hash"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.salt, self.num_rows)

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        return salted_hash(ids, params[0], params[1])


@dataclass(frozen=True)
class Keep(IdMap):
    """``x`` where ``x < num_rows``, else row 0."""

    num_rows: int
    kind: ClassVar[str] = "keep"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.num_rows,)

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        return torch.where(ids < params[0], ids, 0)


@dataclass(frozen=True)
class Clip(IdMap):
    """``x`` where ``x < num_rows``, else the last row."""

    num_rows: int
    kind: ClassVar[str] = "clip"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.num_rows - 1,)

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        return torch.minimum(ids, params[0])


@dataclass(frozen=True)
class LookUp(IdMap):
    """``rows[x]``: any map, at the price of an int64 array over the vocabulary."""

    rows: Tensor = field(repr=False)
    kind: ClassVar[str] = "look_up"

    @property
    def params(self) -> tuple[int, ...]:
        return (0,)  # the offset of this map's array among those of its kind, set by the rewrite

    @property
    def array(self) -> Tensor | None:
        return self.rows

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        assert array is not None
        return array[ids + params[0]]


@dataclass(frozen=True)
class Remap(IdMap):
    """``rows[x]``, and ``dropped`` where that is -1; the array is int32."""

    rows: Tensor = field(repr=False)
    dropped: int
    kind: ClassVar[str] = "remap"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.dropped, 0)  # the last as for LookUp

    @property
    def array(self) -> Tensor | None:
        return self.rows

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        assert array is not None
        rows = array[ids + params[1]].long()
        return torch.where(rows < 0, params[0], rows)


@dataclass(frozen=True)
class Rank(IdMap):
    """How many ids before ``x`` are kept, and ``dropped`` where ``x`` itself is not.

    ``index`` is that of the bitmap of kept ids, see :mod:`compactrec.embeddings.bitmap`.
    """

    index: Tensor = field(repr=False)
    num_ids: int
    dropped: int
    kind: ClassVar[str] = "rank"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.dropped, index_words(self.num_ids)[0], 0)  # the last as for LookUp

    @property
    def array(self) -> Tensor | None:
        return self.index

    @staticmethod
    def apply(ids: Tensor, params: tuple[Tensor, ...], array: Tensor | None) -> Tensor:
        assert array is not None
        dropped, num_words, offset = params
        place = ids >> 6
        word = array[place + offset]
        rank = bitmap_rank(word, array[(ids >> 8) + (offset + num_words)], place, ids)
        return torch.where(((word >> (ids & 63)) & 1) == 1, rank, dropped)


@dataclass(frozen=True)
class Split:
    """Sends each id to one of ``num_parts`` parts, or to none."""

    kind: ClassVar[str]

    @property
    def num_parts(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Blocks(Split):
    """Consecutive blocks of rows, each spread over its ``lanes``.

    A row ``y`` with ``starts[b] <= y < starts[b + 1]`` goes to block ``b``, there to lane
    ``(y - starts[b]) mod lanes[b]``, as row ``(y - starts[b]) div lanes[b]``. Where a block has
    no lanes its rows are dropped.
    """

    starts: tuple[int, ...]
    lanes: tuple[int, ...]
    num_rows: int
    kind: ClassVar[str] = "blocks"

    @property
    def num_parts(self) -> int:
        return sum(self.lanes)


@dataclass(frozen=True)
class Positions(Split):
    """The l-th id of a bag goes to part ``l``; bags are at most ``max_bag`` long."""

    max_bag: int
    kind: ClassVar[str] = "positions"

    @property
    def num_parts(self) -> int:
        return self.max_bag


@dataclass(frozen=True)
class Signs(Split):
    """A random sign of the id, ``h(x; salt, 2)``: 0 goes to the first part, 1 to the second."""

    salt: int
    kind: ClassVar[str] = "signs"

    @property
    def num_parts(self) -> int:
        return 2


@dataclass(frozen=True)
class Entries(Split):
    """Sends a row to one part for every entry that it has in a sparse matrix.

    The matrix has ``num_rows`` rows (others have no entry) and ``num_columns`` columns; its entries
    are numbered column by column. Part ``p`` takes the entries from ``starts[p]`` on, and entry
    ``q`` is read from row ``q mod num_entry_rows``.
    """

    index: Tensor = field(repr=False)
    """Of the columns' bitmaps over rows, see :mod:`compactrec.embeddings.bitmap`."""
    num_rows: int
    num_columns: int
    starts: tuple[int, ...]
    num_entries: int
    num_entry_rows: int
    kind: ClassVar[str] = "entries"

    @property
    def num_parts(self) -> int:
        return len(self.starts)


@dataclass(frozen=True)
class Stream:
    """One feature read through one map into one part, or through a split into several."""

    feature: str
    parts: tuple[str, ...]
    """Physical keys that the stream writes, one per part of its split."""
    tables: tuple[str, ...]
    """The table each part reads, in the order of ``parts``."""
    id_map: IdMap = field(default_factory=Identity)
    split: Split | None = None
    slot: int = 0
    """Which factor of the feature this is; parts of one slot are laid out side by side."""
    single: bool = False
    """True where bags must hold at most one id (a non-linear combine without positions)."""
    weighted: bool = True
    """False where another stream carries the per-id weights (a weight enters a product once)."""

    def __post_init__(self) -> None:
        expected = 1 if self.split is None else self.split.num_parts
        if len(self.parts) != expected or len(self.tables) != expected:
            raise ValueError(
                f"stream of feature {self.feature!r} names {len(self.parts)} parts and "
                f"{len(self.tables)} tables but its split makes {expected}"
            )
