"""The rewrite: every stream of a collection, run kind by kind on whole batches.

Layout of a batch, as in torchrec's KeyedJaggedTensor: ``values (V,)`` feature-major,
``lengths (F * B,)``, ``weights (V,)`` or None. The result has the same layout over physical parts.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from compactrec.embeddings.compiled_maps import ids_in_range, is_plain
from compactrec.embeddings.expand import ExpandProgram
from compactrec.embeddings.feature import MAX_ID, Feature
from compactrec.embeddings.program import Bags, Flat, MapProgram, Source, SplitProgram
from compactrec.embeddings.rewrites import Entries, Positions, Stream

__all__ = ["Bags", "Rewrite"]


class Rewrite(nn.Module):
    """ids -> rows for all features of a collection. Buffers only, integer arithmetic only.

    Args:
        features: the logical features, in the order of the input keys.
        streams: what reads them; the parts appear in :attr:`part_keys` order.
        check_ids: raise on ids outside ``0 .. num_ids - 1``.

    A compiled or exported graph cannot raise in words: there the same checks are assertions of the
    graph (``RuntimeError``), of ids where ``check_ids`` asks for them and of bags in any case.
    """

    _bounds: Tensor

    def __init__(
        self, features: Sequence[Feature], streams: Sequence[Stream], *, check_ids: bool = True
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.check_ids = check_ids
        index = {feature.name: i for i, feature in enumerate(self.features)}
        plain = _ordered((s for s in streams if s.split is None), index)
        split = _ordered((s for s in streams if _is_split(s)), index)
        expand = _ordered((s for s in streams if isinstance(s.split, Entries)), index)
        self.plain = MapProgram(plain, index)
        self.split = SplitProgram(split, index) if split else None
        self.expand = ExpandProgram(expand, index) if expand else None
        self.streams = (*plain, *split, *expand)
        self.part_keys = tuple(key for s in self.streams for key in s.parts)
        self.part_tables = tuple(name for s in self.streams for name in s.tables)
        limits = {s.feature: s.split.max_bag for s in split if isinstance(s.split, Positions)}
        limits |= {s.feature: 1 for s in plain if s.single}
        self._max_bags = tuple((index[name], limit) for name, limit in limits.items())
        bounds = [MAX_ID if f.num_ids is None else f.num_ids - 1 for f in self.features]
        self.register_buffer(
            "_bounds", torch.tensor(bounds, dtype=torch.int64, device="cpu"), persistent=False
        )
        self.is_identity = (
            len(plain) == len(self.streams)
            and all(s.id_map.kind == "identity" for s in plain)
            and [s.feature for s in plain] == [f.name for f in self.features]
        )

    def forward(self, bags: Bags, length_per_key: list[int] | None = None) -> Bags:
        """Rows of every part; raises ``ValueError`` on an id or a bag out of range."""
        num_features = len(self.features)
        lengths = bags.lengths.view(num_features, bags.lengths.numel() // num_features)
        if length_per_key is None:
            length_per_key = lengths.sum(dim=1).tolist()
        batch = lengths.shape[1]
        tracing = torch.compiler.is_compiling()
        one_id = (
            not tracing
            and all(count == batch for count in length_per_key)
            and batch > 0
            and [int(bound) for bound in lengths.aminmax()] == [1, 1]
        )
        if tracing:
            self._assert(bags.values, lengths)
        else:
            self._check(bags.values, lengths, length_per_key, one_id)
        if self.is_identity:
            return bags
        source = Source(bags, lengths, length_per_key, one_id)
        programs: list[MapProgram] = [p for p in (self.split, self.expand) if p is not None]
        if self.plain.streams or not programs:
            programs.insert(0, self.plain)
        return _joined([program.run(source) for program in programs])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rewrite":
        """Integer state is a constant of the plan: it survives ``to_empty`` as well as ``to``."""
        before = list(self.buffers())
        super()._apply(fn, recurse)
        for old, new in zip(before, self.buffers(), strict=True):
            if new is not old and not old.is_meta and not new.is_meta:
                new.copy_(old)
        return self

    def _assert(self, values: Tensor, lengths: Tensor) -> None:
        """What :meth:`_check` does, as operations of a traced graph."""
        for position, limit in self._max_bags:
            name = self.features[position].name
            torch._assert_async(
                (lengths[position] <= limit).all(), f"feature {name!r} has a bag over {limit} ids"
            )
        if self.check_ids:
            counts = lengths.sum(1)
            top = torch.repeat_interleave(self._bounds, counts, output_size=values.shape[0])
            torch._assert_async(((values >= 0) & (values <= top)).all(), "an id is out of range")

    def _check(
        self, values: Tensor, lengths: Tensor, length_per_key: list[int], one_id: bool
    ) -> None:
        for position, limit in () if one_id else self._max_bags:
            longest = int(lengths[position].max()) if lengths.shape[1] else 0
            if longest > limit:
                raise ValueError(
                    f"feature {self.features[position].name!r} has a bag of {longest} ids but its "
                    f"max_bag is {limit}; raise max_bag in the plan (max_bags of compress and "
                    f"plan_swap) or cut the bags"
                )
        if not self.check_ids or values.numel() == 0:
            return
        if is_plain(values):
            if ids_in_range(values, length_per_key, self._bounds):
                return
        elif one_id:  # a pass over the ids, and not one for each operation
            low, high = values.view(lengths.shape).aminmax(dim=1)
            if not bool(((low < 0) | (high > self._bounds)).any()):
                return
        flat = Flat(values, torch.tensor(length_per_key, device=values.device))
        bad = (flat.ids < 0) | (flat.ids > flat.spread(self._bounds))
        if bool(bad.any()):
            self._raise_bad_id(flat.ids.reshape(-1), bad.reshape(-1), length_per_key)

    def _raise_bad_id(self, values: Tensor, bad: Tensor, length_per_key: list[int]) -> None:
        at = int(bad.nonzero()[0, 0])
        ends = torch.tensor(length_per_key).cumsum(0)
        feature = self.features[int(torch.searchsorted(ends, at, right=True))]
        allowed = "0 .. 2^63 - 1" if feature.num_ids is None else f"0 .. {feature.num_ids - 1}"
        raise ValueError(
            f"id {int(values[at])} of feature {feature.name!r} is out of range: allowed are "
            f"{allowed}; map unseen ids to a reserved id before the lookup"
        )


def _is_split(stream: Stream) -> bool:
    return stream.split is not None and not isinstance(stream.split, Entries)


def _joined(parts: Sequence[Bags]) -> Bags:
    """Bags of all keys of the parts."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.weights for part in parts if part.weights is not None]
    return Bags(
        torch.cat([part.values for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat(weights) if weights else None,
    )


def _ordered(streams: Iterable[Stream], index: dict[str, int]) -> list[Stream]:
    """Slot by slot in the order of the features, streams of one table side by side."""
    listed = sorted(streams, key=lambda s: index[s.feature])
    tables = {name: i for i, name in enumerate(dict.fromkeys(s.tables[0] for s in listed))}
    return sorted(listed, key=lambda s: (s.slot, tables[s.tables[0]]))
