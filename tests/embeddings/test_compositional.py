"""Compositional embeddings: partitions, exact index maths, initialisation, refusals."""

import math
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("compactrec.embeddings.compositional")

from compactrec.embeddings import (
    Feature,
    Group,
    Plan,
    make_plan,
)
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.compositional import CompositionalConfig as Config
from compactrec.embeddings.compositional_sizing import (
    coprime_moduli,
    least_rows,
    radix_moduli,
    row_moduli,
)
from compactrec.embeddings.init import Init
from compactrec.embeddings.layers import CompressedEmbedding, CompressedEmbeddingBag
from tests.reference import compositional
from tests.reference.kaggle import KAGGLE_SIZES

KAGGLE = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(KAGGLE_SIZES, start=1)
)


def buckets(config: Config, num_ids: int, ids: torch.Tensor) -> list[tuple[int, ...]]:
    """The bucket in each table of every id, as the collection's rewrite gives them."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    plan = Plan((Feature(name="a", num_ids=num_ids, dim=32),), (Group(("a",), config),))
    collection = CompressedEmbeddingBagCollection(plan, device="meta")
    lengths = torch.ones(len(ids), dtype=torch.int32)
    physical = collection.rewrite(KeyedJaggedTensor(keys=["a"], values=ids, lengths=lengths))
    parts = physical.to_dict()
    columns = [parts[f"a__p{j}"].values().tolist() for j in range(len(config.moduli))]
    return list(zip(*columns, strict=True))


# --- partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ids", [12, 97, 1000, 99_991])
@pytest.mark.parametrize("family", ["quotient_remainder", "mixed_radix", "chinese_remainder"])
def test_every_id_has_a_tuple_of_its_own(family: str, num_ids: int) -> None:
    moduli = {
        "quotient_remainder": row_moduli(num_ids, num_ids // 3, 2, family, "remainder"),  # type: ignore[arg-type]
        "mixed_radix": radix_moduli(num_ids, least_rows(num_ids, 3), 3),
        "chinese_remainder": coprime_moduli(num_ids, least_rows(num_ids, 3), 3),
    }[family]
    assert moduli is not None
    found = buckets(
        Config(moduli=moduli, family=family, operation="concat"),  # type: ignore[arg-type]
        num_ids,
        torch.arange(num_ids),
    )
    assert len(set(found)) == num_ids
    for column, modulus in zip(zip(*found, strict=True), moduli, strict=True):
        assert 0 <= min(column) <= max(column) < modulus
    if family == "quotient_remainder":
        assert all(q * moduli[0] + r == x for x, (r, q) in enumerate(found))


def test_quotients_of_ids_that_float32_cannot_hold() -> None:
    """The reference's float32 quotient is wrong from 2^24 on and reads one row past the table."""
    config = Config(moduli=(4, 10_000_000))
    ids = torch.tensor([39_999_999, 2**24 + 1, 2**24 + 3, 39_999_998])
    assert buckets(config, 40_000_000, ids) == [
        (3, 9_999_999),
        (1, 2**22),
        (3, 2**22),
        (2, 9_999_999),
    ]
    large = 2**40
    config = Config(moduli=(2**20, 2**20))
    ids = torch.tensor([large - 1, 2**31 + 5, 2**31 - 1])
    expected = [(x % 2**20, x // 2**20) for x in ids.tolist()]
    assert buckets(config, large, ids) == expected


def test_digits_are_golden() -> None:
    config = Config(moduli=(250, 220, 200), family="mixed_radix")
    assert buckets(config, 11_000_000, torch.tensor([123_456])) == [(206, 53, 2)]


def test_neighbours_share_a_row_of_the_quotient_table_only() -> None:
    spread = row_moduli(1000, 250, 2, "quotient_remainder", "remainder")
    near = row_moduli(1000, 250, 2, "quotient_remainder", "quotient")
    assert (spread, near) == ((250, 4), (4, 250))
    ids = torch.tensor([8, 9, 258])
    assert spread is not None
    assert near is not None
    big = [b for b, _ in buckets(Config(moduli=spread), 1000, ids)]
    assert big[0] == big[2] != big[1]
    big = [b for _, b in buckets(Config(moduli=near), 1000, ids)]
    assert big[0] == big[1] != big[2]


@pytest.mark.parametrize("num_ids", [1, 2, 7, 8, 9, 26, 27, 28, 1000, 10_131_227, 2**40])
@pytest.mark.parametrize("num_factors", [2, 3, 5])
def test_least_rows_is_the_integer_root(num_ids: int, num_factors: int) -> None:
    root = least_rows(num_ids, num_factors)
    assert root**num_factors >= num_ids
    assert root == 1 or (root - 1) ** num_factors < num_ids


@pytest.mark.parametrize("num_ids", [50, 1000, 10_131_227])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
@pytest.mark.parametrize(
    ("family", "factors"),
    [
        ("quotient_remainder", 2),
        ("mixed_radix", 2),
        ("mixed_radix", 4),
        ("chinese_remainder", 3),
    ],
)
def test_sized_moduli_are_valid_and_save_rows(
    family: str, factors: int, share: float, num_ids: int
) -> None:
    big_rows = max(1, int(share * num_ids))
    moduli = row_moduli(num_ids, big_rows, factors, family, "remainder")  # type: ignore[arg-type]
    if moduli is None:
        assert num_ids == 50
        return
    assert sum(moduli) < num_ids
    assert math.prod(moduli) >= num_ids
    assert moduli[0] == max(least_rows(num_ids, factors), big_rows)
    if family == "chinese_remainder":
        assert all(math.gcd(a, b) == 1 for i, a in enumerate(moduli) for b in moduli[i + 1 :])
    reverse = row_moduli(num_ids, big_rows, factors, family, "quotient")  # type: ignore[arg-type]
    assert reverse is not None
    assert sorted(reverse) == sorted(moduli)
    if family != "chinese_remainder":
        assert reverse[-1] == moduli[0]


# --- vectors ----------------------------------------------------------------------------------


def test_product_pools_after_combining() -> None:
    """Pooling each table first, then multiplying, as the reference does, is another function for
    bags of several ids, and a weight enters it twice."""
    bag = CompressedEmbeddingBag(16, 4, Config(moduli=(4, 4)), mode="sum")
    first, second = bag.parameters()
    with torch.no_grad():
        first.copy_(torch.tensor([2.0, 3.0, 5.0, 7.0])[:, None].expand(4, 4))
        second.copy_(torch.tensor([11.0, 13.0, 17.0, 19.0])[:, None].expand(4, 4))
    out = bag(torch.tensor([[1, 6]]), None, torch.tensor([[0.5, 2.0]]))
    # id 1: 3 * 11, id 6 = (2, 1): 5 * 13; the weight enters once
    assert out.tolist() == [[0.5 * 3 * 11 + 2.0 * 5 * 13] * 4]


@pytest.mark.parametrize("moduli", [(9, 1), (12, 1), (1, 9), (1, 12)])
@pytest.mark.parametrize("family", ["quotient_remainder", "mixed_radix", "chinese_remainder"])
def test_one_shared_row_scales_or_shifts_a_full_table(family: str, moduli: tuple[int, int]) -> None:
    """A modulus of 1 shares one row among all ids; the other tells them all apart."""
    for operation in ("product", "sum"):
        config = Config(moduli=moduli, family=family, operation=operation)  # type: ignore[arg-type]
        layer = CompressedEmbedding(9, 4, config)
        shared, full = sorted((p.detach() for p in layer.parameters()), key=len)
        expected = full[:9] * shared if operation == "product" else full[:9] + shared
        torch.testing.assert_close(layer.materialize(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("operation", ["product", "sum", "concat"])
def test_vectors_are_distinct(operation: str) -> None:
    layer = CompressedEmbedding(1000, 8, Config(moduli=(40, 25), operation=operation))  # type: ignore[arg-type]
    assert layer.materialize().unique(dim=0).shape[0] == 1000


@pytest.mark.parametrize("operation", ["product", "sum", "concat"])
@pytest.mark.parametrize("moduli", [(250, 200), (40, 40, 40)])
def test_vectors_start_at_the_scale_of_a_full_table(
    moduli: tuple[int, ...], operation: str
) -> None:
    """Zero mean and variance 1 / (3 n); the reference code's weights lie in (0, 1) instead."""
    num_ids = 50_000
    family = "quotient_remainder" if len(moduli) == 2 else "mixed_radix"
    config = Config(moduli=moduli, family=family, operation=operation)  # type: ignore[arg-type]
    means, variances = [], []
    for seed in range(20):
        torch.manual_seed(seed)
        table = CompressedEmbedding(num_ids, 32, config).materialize().double()
        means.append(float(table.mean()))
        variances.append(float((table**2).mean()))
    target = 1 / (3 * num_ids)
    assert sum(variances) / 20 == pytest.approx(target, rel=0.1)
    assert abs(sum(means) / 20) < 0.05 * math.sqrt(target)


def test_reference_init_can_be_asked_for() -> None:
    low = math.sqrt(1 / 10_000)
    config = Config(moduli=(100, 100), init=Init(kind="uniform", low=low, scale=1.0))
    for weight in CompressedEmbedding(10_000, 16, config).parameters():
        assert low <= float(weight.detach().min()) < 0.05
        assert float(weight.detach().mean()) == pytest.approx((1 + low) / 2, abs=0.03)


def test_small_and_split_tables_have_the_same_width_under_concat() -> None:
    """In the reference a full table is half as wide as the two it stands beside."""
    features = (Feature(name="a", num_ids=100, dim=16), Feature(name="b", num_ids=5000, dim=16))
    plan = make_plan("compositional", features, 40_000, options={"operation": "concat"})
    assert [g.config.method for g in plan.groups] == ["full", "compositional"]
    collection = CompressedEmbeddingBagCollection(plan)
    assert [c.embedding_dim for c in collection.embedding_bag_configs()] == [16, 16]


def test_feature_generation_gives_one_vector_per_table() -> None:
    plan = Plan(
        (Feature(name="a", num_ids=100, dim=8),),
        (Group(("a",), Config(moduli=(10, 10), operation="feature")),),
    )
    configs = CompressedEmbeddingBagCollection(plan).embedding_bag_configs()
    assert [(c.name, c.embedding_dim) for c in configs] == [("a__0", 8), ("a__1", 8)]


# --- refusals ---


def build(num_ids: int, **fields: object) -> None:
    CompressedEmbedding(num_ids, 8, Config(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"moduli": (3, 0)}, "moduli must be at least 1"),
        ({"moduli": (3, 4, 5)}, "quotient_remainder needs two moduli"),
        ({"moduli": (4, 6), "family": "chinese_remainder"}, "needs pairwise coprime moduli, got"),
        ({"moduli": (4, 6), "family": "metadata"}, "partitions belong to the metadata family"),
        ({"moduli": (4, 6), "partitions": ("a", "b")}, "partitions belong to the metadata family"),
        (
            {"moduli": (4, 6), "family": "metadata", "partitions": ("a",)},
            "1 partitions and 2 moduli were given; they go in pairs",
        ),
        ({"moduli": (9, 11)}, "tells 99 ids apart, but feature 'ids' has 100; raise a modulus"),
        ({"moduli": (9, 11), "family": "chinese_remainder"}, "tells 99 ids apart, but feature"),
        ({"moduli": (4, 4, 4), "family": "mixed_radix"}, "tells 64 ids apart"),
        (
            {"moduli": (50, 2), "family": "metadata", "partitions": ("a", "b")},
            "the plan has no array 'a' of 100 entries for feature 'ids'",
        ),
        (
            {"moduli": (5, 5, 5), "family": "mixed_radix", "operation": "concat"},
            "concat over 3 tables needs a width that is a multiple of 4 and at least 12",
        ),
        ({"moduli": ()}, "at least 1 item"),
        ({"moduli": (10, 10), "operation": "mean"}, "Input should be 'product', 'sum'"),
    ],
)
def test_refusals(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(100, **fields)


def test_partitions_are_checked() -> None:
    config = Config(moduli=(2, 2), family="metadata", partitions=("a", "b"))
    good = {"a": torch.tensor([0, 0, 1]), "b": torch.tensor([0, 1, 0])}
    assert CompressedEmbedding(3, 8, config, arrays=good).materialize().shape == (3, 8)
    with pytest.raises(ValueError, match="not complementary: 3 ids have only 2 different tuples"):
        CompressedEmbedding(3, 8, config, arrays=good | {"b": torch.tensor([1, 1, 0])})
    with pytest.raises(
        ValueError, match=r"array 'b' of feature 'ids' has rows 0 .. 2, allowed are 0 .. 1"
    ):
        CompressedEmbedding(3, 8, config, arrays=good | {"b": torch.tensor([0, 2, 0])})


def test_bad_options_are_refused() -> None:
    features = (Feature(name="a", num_ids=1000, dim=8),)
    with pytest.raises(ValueError, match="quotient_remainder has two factors; use mixed_radix for"):
        make_plan("compositional", features, 10**4, options={"num_factors": 3})


def test_least_rows_agrees_with_the_reference_rows() -> None:
    n = 10_131_227
    for collisions, rows in ((4, 2_532_811), (60, 168_914), (3183, 6_366)):
        moduli = row_moduli(n, -(-n // collisions), 2, "quotient_remainder", "remainder")
        assert moduli is not None
        assert sum(moduli) == rows == sum(compositional.quotient_remainder_rows(n, collisions))


@pytest.mark.parametrize("std", [None, 0.02])
def test_factors_start_so_that_their_combination_does(std: float | None) -> None:
    combined: dict[str, Callable[[list[float]], float]] = {
        "product": math.prod, "sum": lambda found: math.hypot(*found), "concat": max,
    }  # fmt: skip
    for operation, of in combined.items():
        config = Config.model_validate(
            {"family": "mixed_radix", "operation": operation, "moduli": (50, 20, 4)}
        )
        sizes = {"a": 4000, "b": 2500, "c": 777}
        features = tuple(Feature(name=f, num_ids=n, dim=12, init_std=std) for f, n in sizes.items())
        plan = Plan(features, tuple(Group((name,), config) for name in sizes))
        for part, num_ids in zip(plan.lower(), sizes.values(), strict=True):
            expected = std or math.sqrt(1 / (3 * num_ids))
            assert of([table.init.std for table in part.tables]) == pytest.approx(expected)
