"""With a full table the drop-in layers are torch.nn's Embedding and EmbeddingBag, to the number."""

import pytest
import torch
from torch import Tensor, nn

from compactrec.embeddings import CompressedEmbedding, CompressedEmbeddingBag, single
from tests.contract.support import assert_near

NUM_IDS, DIM = 23, 6


def _twins(mode: str, **kwargs: object) -> tuple[nn.EmbeddingBag, CompressedEmbeddingBag]:
    plain = nn.EmbeddingBag(NUM_IDS, 8, mode=mode, **kwargs)  # type: ignore[arg-type]
    ours = CompressedEmbeddingBag(NUM_IDS, 8, mode=mode, **kwargs)  # type: ignore[arg-type]
    (weight,) = ours.parameters()
    with torch.no_grad():
        weight.copy_(plain.weight)
    return plain, ours


def _compare(plain: nn.Module, ours: nn.Module, *arguments: Tensor | None) -> None:
    expected, out = plain(*arguments), ours(*arguments)
    assert_near(out, expected)
    cotangent = torch.rand(expected.shape)
    (expected * cotangent).sum().backward()
    (out * cotangent).sum().backward()
    (one,), (two,) = plain.parameters(), ours.parameters()
    assert one.grad is not None
    assert two.grad is not None
    assert_near(two.grad.to_dense(), one.grad.to_dense())


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 0, 3), (0,), (2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("padding", [None, 0, 4, -1])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding_is_nn_embedding(
    shape: tuple[int, ...], padding: int | None, dtype: torch.dtype
) -> None:
    plain = nn.Embedding(NUM_IDS, 8, padding_idx=padding)
    ours = CompressedEmbedding(NUM_IDS, 8, padding_idx=padding)
    (weight,) = ours.parameters()
    with torch.no_grad():
        weight.copy_(plain.weight)
    _compare(plain, ours, torch.randint(NUM_IDS, shape).to(dtype))
    assert (ours.num_embeddings, ours.embedding_dim) == (plain.num_embeddings, plain.embedding_dim)
    assert ours.padding_idx == plain.padding_idx


@pytest.mark.parametrize("padding", [None, 3, -2])
@pytest.mark.parametrize("last", [False, True], ids=["starts", "last_offset"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_with_offsets_is_nn_embedding_bag(mode: str, last: bool, padding: int | None) -> None:
    plain, ours = _twins(mode, include_last_offset=last, padding_idx=padding)
    ids = torch.tensor([3, 3, 1, 21, 3, 0, 22, 5, 21])
    offsets = torch.tensor([0, 2, 2, 6, 9] if last else [0, 2, 2, 6])
    _compare(plain, ours, ids, offsets)


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_with_rows_is_nn_embedding_bag(mode: str, padding: int | None) -> None:
    plain, ours = _twins(mode, padding_idx=padding)
    _compare(plain, ours, torch.tensor([[3, 3, 1], [0, 22, 3], [3, 3, 3], [7, 7, 7]]))


@pytest.mark.parametrize("padding", [None, 3])
def test_weighted_bag_is_nn_embedding_bag(padding: int | None) -> None:
    plain, ours = _twins("sum", padding_idx=padding)
    ids = torch.tensor([3, 3, 1, 21, 3, 0])
    _compare(plain, ours, ids, torch.tensor([0, 2, 2]), torch.randn(6))
    _compare(plain, ours, ids.view(2, 3), None, torch.randn(2, 3))
    one, two = (torch.linspace(-1, 1, 6).requires_grad_() for _ in range(2))
    plain(ids, torch.tensor([0, 2, 2]), one).square().sum().backward()
    ours(ids, torch.tensor([0, 2, 2]), two).square().sum().backward()
    assert one.grad is not None
    assert two.grad is not None
    assert_near(two.grad, one.grad)


def test_sparse_gradients() -> None:
    ours = CompressedEmbedding(NUM_IDS, 8, sparse=True)
    ours(torch.tensor([1, 1, 4])).sum().backward()
    (weight,) = ours.parameters()
    assert weight.grad is not None
    assert weight.grad.is_sparse
    assert weight.grad.coalesce().indices().tolist() == [[1, 4]]


def test_dtype_and_device() -> None:
    ours = CompressedEmbeddingBag(NUM_IDS, DIM, mode="sum", dtype=torch.float64, device="cpu")
    out = ours(torch.tensor([[1, 2], [3, 3]]), None, torch.rand(2, 2, dtype=torch.float64))
    assert out.dtype == torch.float64


def test_bag_arguments_are_checked() -> None:
    bag = CompressedEmbeddingBag(NUM_IDS, 8, mode="sum")
    ids = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="mode must be 'sum', 'mean' or 'max', got 'median'"):
        CompressedEmbeddingBag(NUM_IDS, 8, mode="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must have the shape of input, \(3,\), got \(2,\)"):
        bag(ids, torch.tensor([0]), torch.ones(2))
    with pytest.raises(ValueError, match="input must be 2-D, or 1-D with offsets; got 1-D and off"):
        bag(ids)
    with pytest.raises(ValueError, match="offsets are for a 1-D input"):
        bag(ids.view(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="offsets must start at 0 and never fall"):
        bag(ids, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="offsets must start at 0 and never fall"):
        bag(ids, torch.tensor([0, 2, 1]))
    with pytest.raises(ValueError, match="nor pass the end of input"):
        bag(ids, torch.tensor([0, 7]))
    last = CompressedEmbeddingBag(NUM_IDS, 8, mode="sum", include_last_offset=True)
    with pytest.raises(ValueError, match="the last offset is 2 but input has 3 ids"):
        last(ids, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="padding_idx must be within num_embeddings = 23, got 23"):
        CompressedEmbedding(NUM_IDS, 8, padding_idx=23)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.uint8])
def test_only_integers_are_ids_and_offsets(dtype: torch.dtype) -> None:
    ids, offsets = torch.tensor([0, 1]), torch.tensor([0, 1])
    message = f"must be int32 or int64, got {dtype}; convert them with"
    bag = CompressedEmbeddingBag(NUM_IDS, 8)
    with pytest.raises(
        TypeError, match=r"^ids must be a tensor, got list; write torch.tensor\(ids\)"
    ):
        CompressedEmbedding(NUM_IDS, 8)([0, 1])
    with pytest.raises(ValueError, match=f"^ids {message}"):
        CompressedEmbedding(NUM_IDS, 8)(ids.to(dtype))
    with pytest.raises(ValueError, match=f"^ids {message}"):
        bag(ids.to(dtype), offsets)
    with pytest.raises(ValueError, match=f"^offsets {message}"):
        bag(ids, offsets.to(dtype))
    assert bag(ids.int(), offsets.int()).shape == (2, 8)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_weights_are_for_sums_as_in_torch(mode: str) -> None:
    ids, weights = torch.tensor([[1, 2, 3]]), torch.ones(1, 3)
    plain, ours = _twins(mode)
    with pytest.raises(NotImplementedError, match="per_sample_weights"):
        plain(ids, None, weights)
    with pytest.raises(NotImplementedError, match=f"are for mode 'sum', got mode '{mode}'; make"):
        ours(ids, None, weights)


@pytest.mark.parametrize("layer", [CompressedEmbedding, CompressedEmbeddingBag])
def test_what_torch_does_to_rows_is_refused_in_words(
    layer: type[CompressedEmbedding | CompressedEmbeddingBag],
) -> None:
    with pytest.raises(NotImplementedError, match=r"^max_norm=1.0: a compressed table has no row"):
        layer(NUM_IDS, 8, max_norm=1.0)
    with pytest.raises(NotImplementedError, match=r"^norm_type=1.0: .* leave it out"):
        layer(NUM_IDS, 8, norm_type=1.0)
    with pytest.raises(NotImplementedError, match=r"^max_norm=2, scale_grad_by_freq=True: "):
        layer(NUM_IDS, 8, max_norm=2, scale_grad_by_freq=True)
    layer(NUM_IDS, 8, max_norm=None, norm_type=2.0, scale_grad_by_freq=False)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_at_a_budget_has_its_mode(mode: str) -> None:
    made = CompressedEmbeddingBag.from_budget(10, 4, "full", 10**4, mode=mode)  # type: ignore[arg-type]
    ids = torch.tensor([[1, 2], [3, 3]])
    expected = made.materialize()[ids]
    pooled = {"sum": expected.sum(1), "mean": expected.mean(1), "max": expected.amax(1)}
    assert_near(made(ids), pooled[mode])
    with pytest.raises(ValueError, match="mode must be 'sum', 'mean' or 'max', got 'median'"):
        CompressedEmbeddingBag.from_budget(10, 4, "full", 10**4, mode="median")  # type: ignore[arg-type]


def test_nan_elsewhere_does_not_leak() -> None:
    bag = CompressedEmbeddingBag(NUM_IDS, 8, mode="max")
    with torch.no_grad():
        next(bag.parameters())[5] = torch.nan
    assert torch.isfinite(bag(torch.tensor([[1, 2], [3, 4]]))).all()


@pytest.mark.parametrize("padding_idx", [3, 9])
@pytest.mark.parametrize("chunk", [4, 5, 100])
def test_materialize_has_all_rows_and_zeros_for_padding(
    padding_idx: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "_CHUNK", chunk)
    layer = CompressedEmbedding(10, 4, padding_idx=padding_idx)
    assert layer.materialize()[padding_idx].eq(0).all()
    torch.testing.assert_close(layer.materialize(), layer(torch.arange(10)))


def test_config_by_position_must_be_a_config() -> None:
    with pytest.raises(TypeError, match="further arguments, such as padding_idx, go by name"):
        CompressedEmbedding(10, 4, 3)  # type: ignore[arg-type]


def test_last_offset_is_needed_where_it_is_announced() -> None:
    bag = CompressedEmbeddingBag(10, 4, include_last_offset=True)
    with pytest.raises(ValueError, match="needs at least one offset"):
        bag(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def test_a_compressed_layer_says_what_stands_for_its_weight() -> None:
    for layer in (CompressedEmbedding(NUM_IDS, 8), CompressedEmbeddingBag(NUM_IDS, 8)):
        assert not hasattr(layer, "weight")
        with pytest.raises(
            AttributeError, match=r"no 'weight' \(Compr.*materialize\(\) computes th"
        ):
            _ = layer.weight
        with pytest.raises(AttributeError, match="has no attribute 'weights'"):
            _ = layer.weights
