"""Streams whose ids each become several entries of a sparse matrix, all in a few calls.

Legend: ``S`` streams, ``V`` ids, ``C`` columns, ``E`` entries, ``P`` parts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compactrec.embeddings.bitmap import bitmap_rank, index_words
from compactrec.embeddings.program import Bags, MapProgram, Source, by_cell
from compactrec.embeddings.rewrites import Entries, Stream

__all__ = ["ExpandProgram"]


class ExpandProgram(MapProgram):
    """Streams that split into :class:`Entries`: after the maps, every row is sent to its entries.

    Every row is looked up in the bitmap of every column, ``(V, C)`` tests; an entry that there is
    gets its number from the ranks. A bag may have an id twice, so a part may too.
    """

    words: Tensor
    ranks: Tensor
    num_rows: Tensor
    columns: Tensor
    word_base: Tensor
    column_words: Tensor
    entry_base: Tensor
    entry_starts: Tensor
    entry_rows: Tensor
    stream_ids: Tensor

    def __init__(self, streams: Sequence[Stream], index: dict[str, int]) -> None:
        super().__init__(streams, index)
        splits = [s.split for s in streams if isinstance(s.split, Entries)]
        self.num_columns = max(s.num_columns for s in splits)
        self._ragged = any(s.num_columns < self.num_columns for s in splits)
        words, ranks, word_base, entry_base, starts = [], [], [], [], []
        num_words, num_entries = 0, 0
        for split in splits:
            own = index_words(split.num_rows, split.num_columns)[0]
            words.append(split.index[:own])
            ranks.append(split.index[own:])
            word_base.append(num_words)
            entry_base.append(num_entries)
            starts += [num_entries + start for start in split.starts]
            num_words += own
            num_entries += split.num_entries
        self.register_buffer("words", torch.cat(words))
        self.register_buffer("ranks", torch.cat(ranks))
        self.num_parts = len(starts)
        self.register("num_rows", [s.num_rows for s in splits])
        self.register("columns", [s.num_columns for s in splits])
        self.register("word_base", word_base)
        self.register("column_words", [-(-s.num_rows // 64) for s in splits])
        self.register("entry_base", entry_base)
        self.register("entry_starts", starts)
        self.register("entry_rows", [s.num_entry_rows for s in splits])
        self.register("stream_ids", range(len(splits)))

    def run(self, source: Source) -> Bags:
        rows = self.rows(source)
        shape = rows.ids.shape
        row, stream, bag = (
            t.expand(shape).reshape(-1)
            for t in (rows.ids, rows.spread(self.stream_ids), self.bag_of(source, rows))
        )
        weights = source.stream_weights(self._order, self._weighted)
        kept = (row < self.num_rows[stream]).nonzero()[:, 0]
        entry, number = self._entries(row[kept], stream[kept])
        entry = kept[entry]
        stream, batch = stream[entry], source.lengths.shape[1]
        line = number + self.entry_base[stream]
        part = torch.searchsorted(self.entry_starts, line, right=True) - 1
        cell = part * batch + bag[entry]
        order, counts = by_cell(cell, self.num_parts * batch, single=source.one_id)
        return Bags(
            (number % self.entry_rows[stream])[order],
            counts.to(source.lengths.dtype),
            None if weights is None else weights[entry][order],
        )

    def _entries(self, row: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
        """``(V,) -> (E,)``: which of the rows an entry is of, and its number in the matrix."""
        columns = torch.arange(self.num_columns, device=row.device)
        last = self.columns[stream][:, None] - 1
        own = torch.minimum(columns, last) if self._ragged else columns
        first = self.word_base[stream] + (row >> 6)
        place = self.column_words[stream][:, None] * own + first[:, None]
        bits = (self.words[place] >> (row & 63)[:, None]) & 1
        if self._ragged:
            bits = bits * (columns <= last)
        found = bits.reshape(-1).nonzero()[:, 0]
        owner = torch.div(found, self.num_columns, rounding_mode="floor")
        place = place.reshape(-1)[found]
        word, rank = self.words[place], self.ranks[place >> 2]
        return owner, bitmap_rank(word, rank, place, row[owner])
