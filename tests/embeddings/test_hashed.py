"""The hashing trick: range, collisions, totals, refusals."""

import math

import pytest
import torch

pytest.importorskip("compactrec.embeddings.hashed")

from compactrec.embeddings import Feature, Group, Plan, make_plan, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.hashed import HashConfig
from compactrec.embeddings.layers import CompressedEmbedding
from tests.reference import hashed
from tests.reference.kaggle import KAGGLE_SIZES


def rows_of(layer: CompressedEmbedding) -> torch.Tensor:
    """Physical row of every id."""
    weight = next(layer.parameters())
    with torch.no_grad():
        weight.copy_(torch.arange(len(weight), dtype=torch.float32)[:, None].expand_as(weight))
    return layer.materialize()[:, 0].long()


@pytest.mark.parametrize(
    ("collisions", "threshold", "scalars"),
    [
        (2, 1, 270_100_736),
        (3, 1, 180_067_216),
        (4, 1, 135_050_464),
        (4, 20, 135_051_040),
        (4, 200, 135_052_896),
        (4, 2000, 135_088_640),
        (4, 20000, 135_619_136),
        (5, 1, 108_040_400),
        (6, 1, 90_033_728),
        (7, 1, 77_171_808),
        (60, 1, 9_003_600),
        (60, 200, 9_006_752),
    ],
)
def test_kaggle_totals(collisions: int, threshold: int, scalars: int) -> None:
    features = tuple(
        Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(KAGGLE_SIZES, start=1)
    )
    groups = tuple(
        Group((f.name,), HashConfig(num_rows=hashed.reference_rows(n, collisions, threshold)))
        for f, n in zip(features, KAGGLE_SIZES, strict=True)
    )
    assert size(Plan(features, groups)).table_bytes == 4 * scalars


@pytest.mark.parametrize("kind", ["mix", "mod"])
def test_range_and_use_of_rows(kind: str) -> None:
    num_rows = 1000
    layer = CompressedEmbedding(num_rows, 4, HashConfig(num_rows=num_rows, hash=kind))  # type: ignore[arg-type]
    rows = rows_of(layer)
    assert 0 <= int(rows.min()) <= int(rows.max()) < num_rows
    used = rows.unique().numel() / num_rows
    expected = 1.0 if kind == "mod" else 1 - (1 - 1 / num_rows) ** num_rows  # 63.2 %
    assert used == pytest.approx(expected, abs=0.03)


def test_mod_with_as_many_rows_as_ids_is_the_full_table() -> None:
    layer = CompressedEmbedding(50, 4, HashConfig(num_rows=50, hash="mod"))
    assert rows_of(layer).tolist() == list(range(50))


def test_collision_rate_of_pairs() -> None:
    layer = CompressedEmbedding(2000, 4, HashConfig(num_rows=100))
    counts = torch.bincount(rows_of(layer), minlength=100).double()
    pairs = float((counts * (counts - 1)).sum()) / (2000 * 1999)
    assert pairs == pytest.approx(0.01, abs=3 * math.sqrt(0.01 / (2000 * 1999 / 2)) * 2)


def test_seed_and_name_move_rows() -> None:
    config = HashConfig(num_rows=100)
    first = rows_of(CompressedEmbedding(300, 4, config, name="C1"))
    other = rows_of(CompressedEmbedding(300, 4, config, name="C2"))
    seeded = rows_of(CompressedEmbedding(300, 4, HashConfig(num_rows=100, seed=1), name="C1"))
    for moved in (other, seeded):
        assert float((first == moved).double().mean()) < 0.05
    assert torch.equal(first, rows_of(CompressedEmbedding(300, 4, config, name="C1")))


def test_signs_make_inner_products_unbiased() -> None:
    """Two ids that share a row: with signs their products average to zero over the salts."""
    products = {True: [], False: []}  # type: dict[bool, list[float]]
    for sign in products:
        for seed in range(200):
            config = HashConfig(num_rows=1, sign=sign, seed=seed)
            layer = CompressedEmbedding(2, 4, config)
            with torch.no_grad():
                next(layer.parameters()).fill_(1.0)
            first, second = layer.materialize()
            products[sign].append(float(first @ second) / 4)
    assert set(products[False]) == {1.0}
    assert abs(sum(products[True]) / 200) < 3 / math.sqrt(200)


FEATURES = (
    Feature(name="a", num_ids=1000, dim=4),
    Feature(name="b", num_ids=3000, dim=4),
    Feature(name="c", num_ids=50, dim=4),
)


def test_budget_shares_rows_in_proportion() -> None:
    plan = make_plan("hash", FEATURES, 50 * 16 + 16 * 400 + 300)
    rows = {g.features[0]: getattr(g.config, "num_rows", None) for g in plan.groups}
    assert rows["c"] is None
    assert rows["b"] == pytest.approx(3 * rows["a"], abs=3)
    report = size(plan)
    assert report.serving_bytes <= 50 * 16 + 16 * 400 + 300 < report.serving_bytes + 2 * 16 + 16


def test_budget_never_buys_more_rows_than_ids() -> None:
    plan = make_plan("hash", FEATURES, 10**9, threshold=0)
    assert [g.config.num_rows for g in plan.groups] == [1000, 3000, 50]  # type: ignore[attr-defined]


def test_budget_gives_open_vocabularies_rows() -> None:
    features = (Feature(name="open", dim=4), FEATURES[0])
    plan = make_plan("hash", features, 8000, threshold=0)
    rows = [g.config.num_rows for g in plan.groups]  # type: ignore[attr-defined]
    assert min(rows) > 100
    assert size(plan).serving_bytes <= 8000 < size(plan).serving_bytes + 2 * 16 + 16


def test_refusals() -> None:
    unlike = (Feature(name="a", dim=4), Feature(name="b", dim=8))
    with pytest.raises(ValueError, match=r"hash: features that share a table must have equal dim"):
        CompressedEmbeddingBagCollection(Plan(unlike, (Group(("a", "b"), HashConfig(num_rows=3)),)))
    with pytest.raises(ValueError, match="hash: sign needs a width that is a multiple of 4, got 6"):
        CompressedEmbedding(9, 6, HashConfig(num_rows=3, sign=True))
    with pytest.raises(
        ValueError, match=r"hash: the budget is 10 .* smallest plan takes .* raise the b"
    ):
        make_plan("hash", FEATURES, 10, threshold=0)
    with pytest.raises(
        ValueError, match=r"option signed: there is no such field, .* options are: hash"
    ):
        make_plan("hash", FEATURES, 10**6, options={"signed": True})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        HashConfig(num_rows=0)
