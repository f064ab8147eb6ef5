"""Rows in blocks of like training frequency.

Rows are ranked by ``(-count, position)``: the most frequent first, equal ones in the order of
features and ids. A *cut* ``c`` starts a new block at rank ``c``, so the block of a row is the
number of cuts that are at most its rank. Blocks are cut over all features together (the rows of
one table, as it were; every feature has a share of each block) or in each feature alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["FeatureBlocks", "blocks_of_all", "blocks_of_each", "cut_points", "quantile_cuts"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureBlocks:
    """The blocks of one feature."""

    rows: tuple[int, ...]
    """Ids in each block, most frequent block first; 0 where a block has none of this feature."""
    rank: Counts | None
    """id -> rank within the feature, ``(num_ids,)``; None where ids are numbered like that."""

    def of_ids(self) -> Counts:
        """The block of every id, ``(num_ids,)``."""
        blocks = np.repeat(np.arange(len(self.rows)), self.rows)
        return blocks if self.rank is None else blocks[self.rank]


def quantile_cuts(num_blocks: int) -> tuple[Fraction, ...]:
    """Cuts into ``num_blocks`` blocks of equally many rows."""
    return tuple(Fraction(b, num_blocks) for b in range(1, num_blocks))


def cut_points(
    ranked: Counts, cuts: Sequence[int | float | Fraction], *, split_ties: bool
) -> list[int]:
    """Ranks at which blocks begin, without 0.

    Args:
        ranked: frequencies, largest first.
        cuts: whole numbers are ranks; fractions (``float``, ``Fraction``) in 0 .. 1 are shares of
            the rows, rounded to the nearest rank.
        split_ties: False moves every cut to the nearest rank where the frequency changes (the
            earlier of two), so that rows of one frequency share a block. Cuts that fall together
            or on an end leave fewer blocks.
    """
    size = len(ranked)
    wanted = [c if isinstance(c, int) else round(Fraction(c) * size) for c in cuts]
    if not split_ties:
        changes = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1, [size]])
        wanted = [int(changes[np.argmin(np.abs(changes - cut))]) for cut in wanted]
    return sorted({cut for cut in wanted if 0 < cut < size})


def blocks_of_all(
    counts: Mapping[str, Counts], cuts: Sequence[int | float | Fraction], *, split_ties: bool
) -> dict[str, FeatureBlocks]:
    """Blocks over the rows of all features together; all features have as many entries."""
    sizes = [len(c) for c in counts.values()]
    joined = np.concatenate(list(counts.values()))
    order = np.argsort(-joined, kind="stable")
    points = cut_points(joined[order], cuts, split_ties=split_ties)
    block = np.searchsorted(points, np.arange(len(joined)), side="right")
    block_of_row = np.empty_like(block)
    block_of_row[order] = block
    shares = np.split(block_of_row, np.cumsum(sizes)[:-1])
    return {
        name: FeatureBlocks(_rows(share, len(points) + 1), _rank(of_feature))
        for (name, of_feature), share in zip(counts.items(), shares, strict=True)
    }


def blocks_of_each(
    counts: Mapping[str, Counts], cuts: Sequence[int | float | Fraction], *, split_ties: bool
) -> dict[str, FeatureBlocks]:
    """Blocks of every feature by itself."""
    return {
        name: blocks_of_all({name: of_feature}, cuts, split_ties=split_ties)[name]
        for name, of_feature in counts.items()
    }


def _rows(blocks: NDArray[np.int64], num_blocks: int) -> tuple[int, ...]:
    return tuple(np.bincount(blocks, minlength=num_blocks).tolist())


def _rank(counts: Counts) -> Counts | None:
    if np.all(np.diff(counts) <= 0):
        return None
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank
