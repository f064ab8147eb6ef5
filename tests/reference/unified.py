"""Unified embedding / feature multiplexing (Coleman et al., NeurIPS 2023, arXiv 2305.12102).

    e_t(x) = concat over j = 1..c_t of  E_{g(t, j)} [ h(x; seed(t, j), M) ]

One table E of shape (M, d) serves all features; with several tables of the same shape, chunk
(t, j) reads table g(t, j). The output width of feature t is c_t d.
"""

from collections.abc import Sequence
from typing import Any

from tests.reference import hashing
from tests.reference.pooling import concat

__all__ = ["embed", "param_count", "rows"]


def rows(index: int, seeds: Sequence[int], num_rows: int) -> list[int]:
    """One row per chunk of the feature."""
    return [hashing.hash_id(index, seed, num_rows) for seed in seeds]


def embed(
    index: int, tables: Sequence[Any], seeds: Sequence[int], table_of_chunk: Sequence[int]
) -> Any:
    """Chunks in their numeric order; `seeds` and `table_of_chunk` have one entry per chunk."""
    num_rows = len(tables[0])
    picked = rows(index, seeds, num_rows)
    return concat([tables[g][r] for g, r in zip(table_of_chunk, picked, strict=True)])


def param_count(num_rows: int, chunk_dim: int, num_tables: int = 1) -> int:
    """num_tables M d scalars, whatever the number of features."""
    return num_tables * num_rows * chunk_dim
