"""The rare-id filter: which ids keep a row, at what cost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("compactrec.embeddings.rare")

from compactrec.embeddings import Feature, Group, Plan, make_plan, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.rare import RareConfig
from tests.reference import rare


def rows_of(plan: Plan, name: str) -> list[int]:
    """Physical row of every id of a feature."""
    feature = next(f for f in plan.features if f.name == name)
    config = next(g.config for g in plan.groups if g.features == (name,))
    assert feature.num_ids is not None
    layer = CompressedEmbedding(feature.num_ids, 4, config, name=name, arrays=plan.arrays)
    weight = next(layer.parameters())
    with torch.no_grad():
        weight.copy_(torch.arange(len(weight))[:, None].expand_as(weight))
    return [int(v) for v in layer.materialize()[:, 0]]


@pytest.mark.parametrize(
    ("shared", "rows"), [("first", [0, 1, 2, 0, 0]), ("last", [0, 1, 2, 2, 2])]
)
def test_rare_ids_share_one_row(shared: str, rows: list[int]) -> None:
    config = RareConfig(num_rows=3, shared=shared)  # type: ignore[arg-type]
    plan = Plan((Feature(name="a", num_ids=5, dim=4),), (Group(("a",), config),))
    assert rows_of(plan, "a") == rows


COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(
    st.lists(COUNTS, min_size=1, max_size=3),
    st.sampled_from(["any", "from 0", "from 1"]),
    st.floats(0, 1),
)
def test_exactly_the_most_frequent_ids_have_rows_of_their_own(
    drawn: list[list[int]], numbered: str, share: float
) -> None:
    counts = {f"f{i}": np.array(_numbered(c, numbered)) for i, c in enumerate(drawn)}
    features = tuple(Feature(name=n, num_ids=len(c), dim=4) for n, c in counts.items())
    least = size(_plan_of_one_row(features, counts)).serving_bytes
    budget = least + int(share * 16 * sum(len(c) for c in drawn))
    plan = make_plan("rare", features, budget, counts=counts, threshold=0)
    found = {n: _own(rows_of(plan, n)) for n in counts}
    all_ids = [(-c, i, x) for i, of in enumerate(counts.values()) for x, c in enumerate(of)]
    frequent = [(f"f{i}", x) for _, i, x in sorted(all_ids)]
    kept = sum(len(own) for own in found.values())
    assert any(found == _expected(counts, frequent[:k]) for k in range(kept + 1))
    for group in plan.groups:
        config, of = group.config, counts[group.features[0]]
        assert isinstance(config, RareConfig)
        if all(of[1:-1] >= of[2:]):
            assert config.remap is None
        reference = rare.kept_ids(of.tolist(), config.num_rows)
        alone = _own([rare.row(x, reference) for x in range(len(of))])
        assert found[group.features[0]] == alone


def _numbered(counts: list[int], how: str) -> list[int]:
    if how == "any":
        return counts
    first = counts[:1] if how == "from 1" else []
    return first + sorted(counts[len(first) :], reverse=True)


def _plan_of_one_row(features: tuple[Feature, ...], counts: dict[str, np.ndarray]) -> Plan:
    """Nothing but shared rows, with the remaps that counts ask for."""
    remaps = {n: f"{n}__remap" for n, c in counts.items() if not all(c[1:-1] >= c[2:])}
    groups = [Group((f.name,), RareConfig(num_rows=1, remap=remaps.get(f.name))) for f in features]
    arrays = {r: torch.zeros(len(counts[n]), dtype=torch.int64) for n, r in remaps.items()}
    return Plan(features, tuple(groups), arrays)


def _own(rows: list[int]) -> set[int]:
    """Ids that share their row with no other."""
    return {x for x, row in enumerate(rows) if rows.count(row) == 1}


def _expected(
    counts: dict[str, np.ndarray], frequent: list[tuple[str, int]]
) -> dict[str, set[int]]:
    """The frequent ids of each feature; an id that is left over alone has a row as well."""
    own = {name: {x for n, x in frequent if n == name} for name in counts}
    return {
        n: x if len(x) < len(counts[n]) - 1 else set(range(len(counts[n]))) for n, x in own.items()
    }


@pytest.mark.parametrize("zero", [0, 45])
def test_id_zero_is_an_id_like_any_other(zero: int) -> None:
    """Unseen, it shares the trained row; frequent, it has its own. No remap either way."""
    features = (Feature(name="a", num_ids=6, dim=4),)
    counts = {"a": np.array([zero, 50, 40, 3, 2, 1])}
    config = RareConfig(num_rows=4, shared="last" if zero else "first")
    wanted = Plan(features, (Group(("a",), config),))
    budget = size(wanted).serving_bytes
    assert make_plan("rare", features, budget, counts=counts, threshold=0) == wanted
    rows = rows_of(wanted, "a")
    assert rows == ([0, 1, 2, 3, 3, 3] if zero else [0, 1, 2, 3, 0, 0])


def test_budget_keeps_the_most_frequent_over_all_features() -> None:
    features = (Feature(name="a", num_ids=6, dim=4), Feature(name="b", num_ids=5, dim=4))
    counts = {"a": np.array([0, 50, 40, 3, 2, 1]), "b": np.array([9, 45, 2, 1, 0])}
    # Ids by falling count: a1 50, b1 45, a2 40, ... each row costs 16 bytes, row 0 twice.
    for kept, expected in (
        (0, {"a": 1, "b": 1}),
        (1, {"a": 2, "b": 1}),
        (2, {"a": 2, "b": 2}),
        (3, {"a": 3, "b": 2}),
    ):
        groups = [Group((n,), RareConfig(num_rows=expected[n])) for n in ("a", "b")]
        wanted = Plan(features, tuple(groups))
        plan = make_plan("rare", features, size(wanted).serving_bytes, counts=counts, threshold=0)
        assert plan == wanted, kept


def test_ids_in_any_order_get_a_remap_that_is_counted() -> None:
    features = (Feature(name="a", num_ids=6, dim=16),)
    counts = {"a": np.array([7, 1, 50, 3, 2, 40])}
    plan = make_plan("rare", features, 3 * 64 + 8 * 6 + 64, counts=counts, threshold=0)
    (group,) = plan.groups
    assert isinstance(group.config, RareConfig)
    assert group.config.remap is not None
    assert rows_of(plan, "a")[:3] == [0, 0, 1]
    assert rows_of(plan, "a")[5] == 2
    assert size(plan).aux_bytes >= 8 * 6


def test_frequencies_are_needed() -> None:
    with pytest.raises(ValueError, match="rare: training frequencies"):
        make_plan("rare", (Feature(name="a", num_ids=6, dim=4),), 10**6, threshold=0)


def test_refusals() -> None:
    features = (Feature(name="a", num_ids=6, dim=4),)
    with pytest.raises(ValueError, match="rare: num_rows must be at most num_ids = 6 for feature"):
        CompressedEmbeddingBagCollection(Plan(features, (Group(("a",), RareConfig(num_rows=7)),)))
    with pytest.raises(ValueError, match="rare: the plan has no array 'map' of 6 entries for feat"):
        CompressedEmbeddingBagCollection(
            Plan(features, (Group(("a",), RareConfig(num_rows=2, remap="map")),))
        )
    for rows, found in (([0, 1, 2, 0, 0, 1], "0 .. 2"), ([0, 1, 0, 0, 0, -1], "-1 .. 1")):
        arrays = {"map": torch.tensor(rows)}
        with pytest.raises(ValueError, match=f"'a' has rows {found}, allowed are 0 .. 1"):
            CompressedEmbeddingBagCollection(
                Plan(features, (Group(("a",), RareConfig(num_rows=2, remap="map")),), arrays)
            )
