"""Single values: what is kept, what it costs, how a mask becomes a plan."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import Feature, Group, Plan, SparseConfig, size
from compactrec.embeddings.bitmap import bitmap_index, bitmap_rank, index_words, pack_bits, popcount
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.registry import lower
from compactrec.embeddings.sparse import sparse_assignment, sparse_bytes
from tests.reference import sparse
from tests.reference.bitmap import bitmap

FEATURE = Feature(name="a", num_ids=11, dim=6)


def assigned(
    feature: Feature, mask: NDArray[np.bool_]
) -> tuple[Plan, SparseConfig, dict[str, Tensor]]:
    config, arrays = sparse_assignment(feature, mask)
    return Plan((feature,), (Group((feature.name,), config),), arrays), config, arrays


def random_mask(num_ids: int, dim: int, share: float, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((num_ids, dim)) < share


@given(st.data())
def test_assignment_keeps_what_it_is_told_at_the_bytes_it_says(data: st.DataObject) -> None:
    num_ids, dim = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 12))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
    mask = random_mask(num_ids, dim, share, data.draw(st.integers(0, 2**20)))
    mask[:, [c for c in range(dim) if data.draw(st.booleans())]] = False
    if data.draw(st.booleans()):  # the first ids are those that are kept
        mask = mask[np.argsort(~mask.any(1), kind="stable")]
    feature = Feature(name="a", num_ids=num_ids, dim=dim)
    plan, config, _ = assigned(feature, mask)
    assert size(plan).serving_bytes == sparse_bytes(
        num_ids, mask.sum(0), int(mask.any(1).sum()), ids="kept" if config.kept else "order"
    )
    collection = CompressedEmbeddingBagCollection(plan)
    assert sum(b.numel() * b.element_size() for b in collection.buffers()) == size(plan).aux_bytes
    table = torch.rand(num_ids, dim) + 1
    place(collection, {"a": table})
    assert torch.equal(logical_table(collection, "a"), table * torch.from_numpy(mask))


@pytest.mark.parametrize("dim", [64, 128])
def test_wide_features_and_all_their_parts(dim: int) -> None:
    mask = random_mask(200, dim, 1 / 16)
    plan, config, _ = assigned(Feature(name="a", num_ids=200, dim=dim), mask)
    collection = CompressedEmbeddingBagCollection(plan, engine="fused")
    (stream,) = collection.rewrite.ids.streams
    assert dim <= len(stream.parts) <= dim + 3
    table = torch.rand(200, dim)
    place(collection, {"a": table})
    assert torch.equal(logical_table(collection, "a"), table * torch.from_numpy(mask))
    (weight,) = collection.tables.parameters()
    stored = weight.detach()
    for x in (0, 63, 64, 199):
        expected = sparse.embed(mask.astype(int).tolist(), x, stored, torch.zeros(dim))
        assert torch.equal(logical_table(collection, "a")[x], expected)
    assert sum(config.values) == sparse.num_values(mask.astype(int).tolist())


def test_a_mask_becomes_two_bitmaps() -> None:
    mask = np.zeros((11, 6), dtype=bool)
    mask[[1, 4, 9], [0, 3, 3]] = True
    mask[4, 0] = True
    _, config, arrays = assigned(FEATURE, mask)
    assert config == SparseConfig(values=(2, 0, 0, 2, 0, 0), rows=3, kept="a__kept", mask="a__mask")
    assert arrays["a__kept"].tolist() == bitmap([0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    assert arrays["a__mask"].tolist() == [0b011, 0b110]
    assert {a.dtype for a in arrays.values()} == {torch.uint8}
    _, config, arrays = assigned(FEATURE, mask[np.argsort(~mask.any(1), kind="stable")])
    assert config.kept is None
    assert [*arrays] == ["a__mask"]
    assert assigned(FEATURE, np.zeros((11, 6), dtype=bool))[1:] == (
        SparseConfig(values=(0,) * 6, rows=0),
        {},
    )


def test_bytes_are_about_what_the_card_says() -> None:
    mask = random_mask(50_000, 16, 1 / 16)
    nnz, kept = int(mask.sum()), int(mask.any(1).sum())
    expected = 4 * nnz + 0.16 * 50_000 + 0.16 * 16 * kept
    assert sparse_bytes(50_000, mask.sum(0), kept) == pytest.approx(expected, rel=0.03)


def test_plans_copies_and_pickles_hold_the_same_values(tmp_path: Path) -> None:
    plan, _, _ = assigned(FEATURE, random_mask(11, 6, 0.3))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    collection = CompressedEmbeddingBagCollection(plan)
    for other in (copy.deepcopy(collection), pickle.loads(pickle.dumps(collection))):
        assert torch.equal(logical_table(other, "a"), logical_table(collection, "a"))
    meta = CompressedEmbeddingBagCollection(plan, device="meta").to_empty(device="cpu")
    meta.load_state_dict(collection.state_dict())
    assert torch.equal(logical_table(meta, "a"), logical_table(collection, "a"))


@settings(max_examples=30)
@given(st.integers(1, 700), st.integers(1, 5), st.floats(0, 1), st.integers(0, 999))
def test_ranks_of_a_bitmap(num_bits: int, num_rows: int, share: float, seed: int) -> None:
    bits = np.random.default_rng(seed).random((num_rows, num_bits)) < share
    index = bitmap_index(pack_bits(bits), num_bits, num_rows)
    num_words, num_ranks = index_words(num_bits, num_rows)
    assert index.numel() == num_words + num_ranks
    bit = torch.arange(num_bits).repeat(num_rows)
    first = torch.arange(num_rows).repeat_interleave(num_bits) * -(-num_bits // 64)
    where = first + (bit >> 6)
    word, rank = index[where], index[num_words + (where >> 2)]
    flat = torch.from_numpy(bits.reshape(-1))
    assert torch.equal(((word >> (bit & 63)) & 1).bool(), flat)
    assert torch.equal(bitmap_rank(word, rank, where, bit), flat.long().cumsum(0) - flat.long())
    assert pack_bits(bits[0]).tolist() == bitmap(bits[0].astype(int).tolist())


def test_ones_of_words_with_every_bit() -> None:
    words = torch.tensor([0, -1, -(2**63), 2**63 - 1, 1, 0x0F0F])
    assert popcount(words).tolist() == [0, 64, 1, 63, 1, 8]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"values": (4,), "rows": 3, "mask": "m"}, r"a column keeps 0 .. rows = 3 values, got"),
        ({"values": (1, 1), "rows": 3, "mask": "m"}, "every one of 3 rows keeps a value, but.* 2"),
        ({"values": (3,), "rows": 3}, "mask must be given where rows are, got None of 3"),
        ({"values": (), "rows": 0}, "Tuple should have at least 1 item"),
    ],
)
def test_config_refuses(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseConfig(**config)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    def lowered(values: tuple[int, ...], mask: list[int], rows: int = 3) -> None:
        config = SparseConfig(values=values, rows=rows, mask="m")
        lower(config, (FEATURE,), {"m": torch.tensor(mask, dtype=torch.uint8)})

    with pytest.raises(ValueError, match="counts the values of 2 columns, but feature 'a' has 6"):
        lowered((2, 1), [3, 4])
    values = (2, 0, 1, 0, 0, 0)
    with pytest.raises(ValueError, match="has 2 bits set, but the config says 3"):
        lowered(values, [3, 0])
    with pytest.raises(ValueError, match=r"has \[1, 2\] bits set in its columns.*says \[2, 1\]"):
        lowered(values, [4, 3])
    with pytest.raises(ValueError, match="12 rows for feature 'a', which has 11 ids"):
        lowered((12, 0, 0, 0, 0, 0), [255, 15], rows=12)
    lowered(values, [3, 4])
    with pytest.raises(ValueError, match=r"bool array of shape \(11, 6\), got int64 of shape"):
        sparse_assignment(FEATURE, np.zeros((11, 6), dtype=np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="open vocabulary, and what is kept"):
        sparse_assignment(Feature(name="o", num_ids=None, dim=4), np.ones((3, 4), dtype=bool))


def test_a_plan_that_keeps_nothing_gives_zeros() -> None:
    plan, _, _ = assigned(FEATURE, np.zeros((11, 6), dtype=bool))
    bags = KeyedJaggedTensor(["a"], torch.tensor([3, 1]), lengths=torch.tensor([1, 0, 1]))
    out = CompressedEmbeddingBagCollection(plan)(bags)["a"]
    assert torch.equal(out, torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"keeps nothing of any feature.*use engine='eager'"):
        CompressedEmbeddingBagCollection(plan, engine="fused")
