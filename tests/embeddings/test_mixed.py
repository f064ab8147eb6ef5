"""Mixed dimensions: blocks, rank, gradients, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("compactrec.embeddings.mixed")

from compactrec.embeddings import Feature, make_plan, size
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.mixed import MixedConfig
from compactrec.embeddings.mixed_sizing import equipartition, popularity_dims
from tests.reference import mixed
from tests.reference.kaggle import KAGGLE_SIZES

K = KAGGLE_SIZES
KAGGLE = tuple(Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(K, start=1))
SIZES = st.lists(st.integers(1, 10**7), min_size=1, max_size=12)
ALPHAS = st.floats(0, 1.5)


# --- blocks -----------------------------------------------------------------------------------


def _reference_blocks(freq: list[int], num_blocks: int) -> tuple[list[int], list[int]]:
    """Blocks of the reference; where ids from 1 on are in order, id 0 in front for nothing."""
    if freq[1:] == sorted(freq[1:], reverse=True):
        ends = [
            next(
                i + 1 for i in range(len(freq)) if sum(freq[: i + 1]) * num_blocks >= b * sum(freq)
            )
            for b in range(1, num_blocks)
        ]
        cuts, ranked = sorted({*ends, len(freq)}), list(range(len(freq)))
    else:
        cuts, ranked = mixed.equipartition(freq, num_blocks)
    return [b - a for a, b in zip([0, *cuts[:-1]], cuts, strict=True)], ranked


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.integers(1, 6),
    st.sampled_from(["any", "from 0", "from 1"]),
)
def test_equipartition_equals_reference(freq: list[int], num_blocks: int, numbered: str) -> None:
    first = {"any": len(freq), "from 0": 0, "from 1": 1}[numbered]
    freq = freq[:first] + sorted(freq[first:], reverse=True)
    rows, remap = equipartition(np.array(freq, dtype=np.int64), num_blocks)
    expected_rows, expected_remap = _reference_blocks(freq, num_blocks)
    assert rows == expected_rows
    found = list(range(len(freq))) if remap is None else remap.tolist()
    assert found == expected_remap
    assert remap is None or numbered == "any"
    assert sorted(found) == list(range(len(freq)))
    assert sum(rows) == len(freq)
    assert all(n >= 1 for n in rows)


def test_a_frequent_id_zero_is_ranked_where_ids_are_in_no_order() -> None:
    """Ids by first appearance: id 0 is one among others."""
    rows, remap = equipartition(np.array([5, 1, 90, 4, 30]), 2)
    assert remap is not None
    assert remap.tolist() == [2, 4, 0, 3, 1]
    assert rows == [1, 4]


@given(st.lists(st.integers(1, 50), min_size=8, max_size=60), st.integers(2, 6))
def test_blocks_are_within_one_row_of_an_equal_mass(tail: list[int], num_blocks: int) -> None:
    freq = np.array([max(tail), *tail], dtype=np.int64)
    rows, remap = equipartition(freq, num_blocks)
    ranked = freq if remap is None else freq[np.argsort(remap)]
    ends = np.cumsum(rows)
    masses = [int(ranked[a:b].sum()) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    # A cut comes with the first row past its mark, so each end of a block is off by part of a row.
    share, heaviest = int(freq.sum()) / num_blocks, int(freq.max())
    assert all(share - heaviest < mass < share + heaviest for mass in masses)


def test_outputs_of_a_block_span_its_width() -> None:
    config = MixedConfig(dims=(8, 3, 1), rows=(10, 20, 30))
    table = CompressedEmbedding(60, 8, config).materialize().double()
    ranks = [
        int(torch.linalg.matrix_rank(table[a:b], atol=1e-6))
        for a, b in ((0, 10), (10, 30), (30, 60))
    ]
    assert ranks == [8, 3, 1]


def test_gradients_reach_only_what_was_read() -> None:
    config = MixedConfig(dims=(8, 3, 1), rows=(10, 20, 30))
    layer = CompressedEmbedding(60, 8, config)
    layer(torch.tensor([10, 10, 29])).square().sum().backward()
    touched = {
        name: weight.grad.abs().sum(1).nonzero().flatten().tolist()
        for name, weight in layer.named_parameters()
        if weight.grad is not None and float(weight.grad.abs().max()) > 0
    }
    tables = {n.split(".")[2]: rows for n, rows in touched.items() if n.startswith("tables.")}
    assert tables == {"t_ids__b1": [0, 4]}  # rows 0 and 19 of the block, four to a physical row
    assert [n.split(".")[-1] for n in touched if n.startswith("combine.")] == ["0"]


def test_blocks_by_budget_give_frequent_ids_wide_rows() -> None:
    rng = np.random.default_rng(0)
    counts = {"a": rng.zipf(1.2, 5000).clip(max=10**6), "b": rng.zipf(1.5, 800).clip(max=10**6)}
    features = tuple(Feature(name=n, num_ids=len(c), dim=16, max_bag=3) for n, c in counts.items())
    with pytest.raises(ValueError, match="mixed: blocks need training frequencies"):
        make_plan("mixed", features, 10**5, options={"num_blocks": 4})
    budget = 8 * 5800 + 4 * 5800 * 4
    plan = make_plan(
        "mixed", features, budget, counts=counts, options={"num_blocks": 4, "rounding": "nearest"}
    )
    assert 0.95 * budget <= size(plan).serving_bytes <= budget
    for group in plan.groups:
        config = group.config
        assert isinstance(config, MixedConfig)
        assert len(config.dims) == len(config.rows) > 1
        assert list(config.dims) == sorted(config.dims, reverse=True)
        remap = plan.arrays[config.remap or ""]
        ranked = np.empty(len(remap), dtype=np.int64)
        ranked[remap.numpy()] = counts[group.features[0]]
        assert (np.diff(ranked) <= 0).all()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": ()}, "at least 1 item"),
        ({"dims": (0,)}, "widths and rows must be at least 1, got"),
        ({"dims": (4, 2)}, "2 dims need as many rows, got 0"),
        ({"dims": (4, 2), "rows": (3, 0)}, "widths and rows must be at least 1"),
        ({"dims": (9,)}, r"mixed: widths \[9\] are larger than the width 8 of feature 'ids'"),
        ({"dims": (4, 2), "rows": (3, 6)}, "of feature 'ids' hold 9 rows but it has 10 ids"),
        (
            {"dims": (4,), "remap": "map"},
            "the plan has no array 'map' of 10 entries for feature 'ids'",
        ),
        ({"dims": (4.5,)}, "valid integer"),
    ],
)
def test_refusals(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressedEmbedding(10, 8, MixedConfig(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (
            [0, 1, 2],
            "no array 'rank' of 4 entries for feature 'ids', it has one of 3; give one entry",
        ),
        ([0, 1, 2, 4], r"array 'rank' of feature 'ids' has rows 0 .. 4, allowed are 0 .. 3"),
        ([0, 1, 2, -1], r"array 'rank' of feature 'ids' has rows -1 .. 2, allowed are 0 .. 3"),
        ([0, 1, 2, 2], "array 'rank' of feature 'ids' gives two ids the same row; every id needs"),
        ([0.0, 1.0, 2.0, 3.0], "array 'rank' must be int64, int32 or uint8, 1-D"),
    ],
)
@pytest.mark.parametrize("rows", [(), (1, 3)])
def test_ranks_are_checked(ranks: list[float], rows: tuple[int, ...], message: str) -> None:
    """A rank past the last block would be a row of the next feature's table."""
    config = MixedConfig(dims=(8, 4)[: len(rows) or 1], rows=rows, remap="rank")
    with pytest.raises(ValueError, match=message):
        CompressedEmbedding(4, 8, config, arrays={"rank": torch.tensor(ranks)})
    good = {"rank": torch.tensor([2, 0, 3, 1])}
    assert CompressedEmbedding(4, 8, config, arrays=good).materialize().shape == (4, 8)


def test_bad_rules_are_refused() -> None:
    with pytest.raises(
        ValueError, match="alpha must be >= 0 and every popularity > 0, got alpha -"
    ):
        popularity_dims([0.1, 0.2], -0.1, 8)
    with pytest.raises(ValueError, match="base width 10 must be a multiple of 4"):
        popularity_dims([0.1, 0.2], 0.1, 10, rounding="multiple", multiple=4)
    with pytest.raises(ValueError, match="need num_blocks >= 1 and rows, got 0 and 3"):
        equipartition(np.ones(3, dtype=np.int64), 0)
