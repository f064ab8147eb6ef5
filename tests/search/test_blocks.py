"""Blocks of like frequency: monotone, complete, ties together, boundaries to the next block."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactrec.embeddings.search.blocks import (
    blocks_of_all,
    blocks_of_each,
    cut_points,
    quantile_cuts,
)
from tests.reference import gated

counts_of = st.lists(st.integers(0, 6), min_size=1, max_size=12)
three = st.tuples(counts_of, counts_of, counts_of)


def arrays(lists: tuple[list[int], ...]) -> dict[str, np.ndarray]:
    return {f"f{i}": np.array(c, dtype=np.int64) for i, c in enumerate(lists)}


@given(three, st.integers(1, 7), st.booleans())
def test_blocks_over_all_features(
    lists: tuple[list[int], ...], num_blocks: int, split_ties: bool
) -> None:
    counts = arrays(lists)
    joined = [c for of in lists for c in of]
    found = blocks_of_all(counts, quantile_cuts(num_blocks), split_ties=split_ties)
    blocks = np.concatenate([f.of_ids() for f in found.values()])
    order = gated.order(joined)
    # monotone in rank; every row in one block; all features have the same number of blocks
    assert np.all(np.diff(blocks[order]) >= 0)
    rows = np.array([f.rows for f in found.values()])
    assert rows.sum(1).tolist() == [len(c) for c in lists]
    assert set(blocks) == set(range(rows.shape[1])), "no block is empty over all features"
    ranked = [joined[i] for i in order]
    cuts = [round(len(joined) * b / num_blocks) for b in range(1, num_blocks)]
    if not split_ties:
        cuts = [gated.nearest_change(ranked, cut) for cut in cuts]
        assert all(len({b for b, c in zip(blocks, joined) if c == n}) == 1 for n in set(joined))  # noqa: B905
    cuts = sorted({cut for cut in cuts if 0 < cut < len(joined)})
    for place, row in enumerate(order):  # the block is the number of cuts at most the rank
        assert blocks[row] == sum(cut <= place for cut in cuts)


@given(three, st.integers(1, 7))
def test_blocks_of_each_feature_are_its_own(lists: tuple[list[int], ...], num_blocks: int) -> None:
    counts = arrays(lists)
    found = blocks_of_each(counts, quantile_cuts(num_blocks), split_ties=False)
    for name, own in counts.items():
        alone = blocks_of_all({name: own}, quantile_cuts(num_blocks), split_ties=False)[name]
        assert found[name].rows == alone.rows
        assert min(found[name].rows) > 0


@given(counts_of)
def test_rows_and_ranks_agree_with_the_blocks_of_ids(counts: list[int]) -> None:
    (found,) = blocks_of_all(arrays((counts,)), quantile_cuts(3), split_ties=True).values()
    if found.rank is None:
        assert counts == sorted(counts, reverse=True)
    else:
        assert found.rank.tolist() == [gated.rank(x, counts) for x in range(len(counts))]
    for x in range(len(counts)):
        assert found.of_ids()[x] == gated.block(gated.rank(x, counts), found.rows)


def test_published_cuts() -> None:
    ranked = np.arange(100_000, 0, -1)
    explicit = (51, 126, 1763, 17057, 91265)
    assert cut_points(ranked, explicit, split_ties=True) == list(explicit)
    # 10/20/20/20/30 percent of 100,000 rows
    shares = (0.1, 0.3, 0.5, 0.7)
    assert cut_points(ranked, shares, split_ties=False) == [10_000, 30_000, 50_000, 70_000]


@pytest.mark.parametrize(
    ("cut", "expected"), [(1, []), (2, [3]), (3, [3]), (4, [3]), (5, [6]), (7, [6]), (8, [])]
)
def test_a_cut_moves_to_the_nearest_change(cut: int, expected: list[int]) -> None:
    ranked = np.array([9, 9, 9, 5, 5, 5, 1, 1, 1])
    assert cut_points(ranked, (cut,), split_ties=False) == expected
    assert cut_points(ranked, (cut,), split_ties=True) == [cut]
