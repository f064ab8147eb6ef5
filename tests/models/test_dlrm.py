"""DLRM against the literal reference, torchrec's DLRM and the published parameter totals."""

import copy
import io
import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM as TorchrecDLRM
from torchrec.models.dlrm import InteractionArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.models.blocks import DotInteraction, lower_triangle_order, stack_by_key
from compactrec.models.dlrm import DLRM, DLRMConfig
from compactrec.models.registry import get_model
from tests.reference.dlrm_reference import dlrm_logits, interact
from tests.reference.kaggle import KAGGLE_SIZES

SIZES = {"C1": 7, "C2": 11, "C3": 5}
SMALL = DLRMConfig(bottom=(16,), top=(10, 1))


def tables(sizes: dict[str, int], dim: int, device: str = "cpu") -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{key}", num_embeddings=rows, embedding_dim=dim, feature_names=[key]
            )
            for key, rows in sizes.items()
        ],
        device=torch.device(device),
    )


def batch(batch_size: int = 6) -> tuple[torch.Tensor, KeyedJaggedTensor, list[list[list[int]]]]:
    generator = np.random.default_rng(3)
    bags = [
        [generator.integers(0, n, generator.integers(0, 4)).tolist() for _ in range(batch_size)]
        for n in SIZES.values()
    ]
    kjt = KeyedJaggedTensor(
        keys=list(SIZES),
        values=torch.tensor([i for feature in bags for bag in feature for i in bag]),
        lengths=torch.tensor([len(bag) for feature in bags for bag in feature]),
    )
    dense = torch.from_numpy(generator.normal(size=(batch_size, 4)).astype(np.float32))
    return dense, kjt, bags


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("itself", [False, True])
def test_dots_equal_brute_force_in_upper_triangle_order(itself: bool) -> None:
    vectors = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = [
        [float(v[i] @ v[j]) for i in range(4) for j in range(i if itself else i + 1, 4)]
        for v in vectors
    ]
    dots = DotInteraction(4, itself)
    assert dots.num_pairs == (10 if itself else 6)
    torch.testing.assert_close(dots(vectors), torch.tensor(expected))


def test_dots_equal_torchrec_interaction_and_its_gradient() -> None:
    vectors = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    out = DotInteraction(4)(ours)
    reference = InteractionArch(3)(theirs[:, 0], theirs[:, 1:])[:, 3:]
    assert torch.equal(out, reference)
    (out * torch.arange(6.0)).sum().backward()
    (reference * torch.arange(6.0)).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("itself", [False, True])
def test_lower_triangle_order_gives_the_reference_order(itself: bool) -> None:
    vectors = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    ours = DotInteraction(5, itself)(vectors)[0, lower_triangle_order(5, itself)]
    expected = interact(list(vectors[0].double().numpy()), "dot", itself)[3:]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("dim", "width"), [(16, 367), (64, 415), (128, 479)])
def test_interaction_widths(dim: int, width: int) -> None:
    ebc = tables({f"C{i}": 3 for i in range(26)}, dim, "meta")
    assert DLRM(ebc, 13, device="meta").interaction_dim == width
    assert (
        DLRM(ebc, 13, DLRMConfig(interaction_itself=True), device="meta").interaction_dim
        == width + 27
    )
    assert DLRM(ebc, 13, DLRMConfig(interaction="cat"), device="meta").interaction_dim == 27 * dim


def test_parameter_totals_of_the_kaggle_model() -> None:
    sizes = {f"C{i + 1}": rows for i, rows in enumerate(KAGGLE_SIZES)}
    model = DLRM(tables(sizes, 16, "meta"), 13, device="meta")
    assert model.bottom is not None
    assert count(model.bottom) == 155_984
    assert count(model.top) == 320_001
    assert count(model) == 540_677_217
    assert all(p.is_meta for p in model.parameters())


def test_more_outputs_only_mean_more_keys() -> None:
    plain = DLRM(tables({f"C{i}": 3 for i in range(26)}, 16, "meta"), 13, device="meta")
    more = DLRM(tables({f"C{i}": 3 for i in range(52)}, 16, "meta"), 13, device="meta")
    assert more.interaction_dim == 16 + 53 * 52 // 2
    assert count(more.top) - count(plain.top) == 525_824


def test_initial_weights_follow_the_reference() -> None:
    torch.manual_seed(0)
    model = DLRM(tables(SIZES, 64), 13)
    assert model.bottom is not None
    for layer in [*linears(model.bottom), *linears(model.top)]:
        fan_out, fan_in = layer.weight.shape
        expected = ((layer.weight, 2 / (fan_in + fan_out)), (layer.bias, 1 / fan_out))
        for parameter, variance in expected:
            values = parameter.detach()
            n = values.numel()
            assert abs(float(values.mean())) < 4 * math.sqrt(variance / n)
            if n > 30:
                error = 4 * math.sqrt(2 / n)
                assert float(values.var()) == pytest.approx(variance, rel=error)


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("itself", [False, True])
def test_logits_equal_the_literal_reference(
    interaction: Literal["dot", "cat"], itself: bool
) -> None:
    torch.manual_seed(1)
    ebc = tables(SIZES, 8)
    config = DLRMConfig(
        bottom=(16, 12), top=(10, 5, 1), interaction=interaction, interaction_itself=itself
    )
    model = DLRM(ebc, 4, config)
    dense, kjt, bags = batch()
    assert model.bottom is not None

    def arrays(module: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
            for layer in linears(module)
        ]

    top = arrays(model.top)
    if interaction == "dot":
        weight = top[0][0].copy()
        weight[:, 8:] = weight[:, 8 + lower_triangle_order(4, itself).numpy()]
        top[0] = (weight, top[0][1])
    weights = [bag.weight.detach().double().numpy() for bag in ebc.embedding_bags.values()]
    expected = dlrm_logits(
        dense.double().numpy(), bags, weights, arrays(model.bottom), top, interaction, itself
    )
    logits = model(dense, kjt)
    assert logits.shape == (6,)
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-5, rtol=1e-5)


def test_logits_equal_torchrec_dlrm_with_our_weights() -> None:
    torch.manual_seed(2)
    ebc = tables(SIZES, 8)
    ours = DLRM(ebc, 4, SMALL)
    theirs = TorchrecDLRM(copy.deepcopy(ebc), 4, [16, 8], [10, 1])
    assert ours.bottom is not None
    with torch.no_grad():
        for mine, other in (
            *zip(linears(ours.bottom), linears(theirs.dense_arch), strict=True),
            *zip(linears(ours.top), linears(theirs.over_arch), strict=True),
        ):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
    dense, kjt, _ = batch()
    torch.testing.assert_close(ours(dense, kjt), theirs(dense, kjt).squeeze(1), atol=1e-5, rtol=0)


class Shuffled(nn.Module):
    """An embedding collection whose output keys come in another order, as sharded ones do."""

    def __init__(self, ebc: EmbeddingBagCollection) -> None:
        super().__init__()
        self.ebc = ebc

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.ebc.embedding_bag_configs()

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        by_key = self.ebc(features).to_dict()
        order = ["C3", "C1", "C2"]
        return KeyedTensor(order, [8, 8, 8], torch.cat([by_key[key] for key in order], dim=1))


def test_outputs_are_found_by_key_not_by_position() -> None:
    torch.manual_seed(3)
    model = DLRM(tables(SIZES, 8), 4, SMALL)
    dense, kjt, _ = batch()
    expected = model(dense, kjt)
    model.embeddings = Shuffled(model.embeddings)
    assert torch.equal(model(dense, kjt), expected)


def test_a_missing_key_is_an_error() -> None:
    with pytest.raises(KeyError, match="C9"):
        stack_by_key(KeyedTensor(["C1"], [2], torch.zeros(3, 2)), ("C9",), 2)


def test_without_dense_columns_one_learned_vector_takes_part() -> None:
    torch.manual_seed(4)
    model = DLRM(tables(SIZES, 8), 0, SMALL)
    _, kjt, _ = batch()
    logits = model(torch.empty(6, 0), kjt)
    logits.square().sum().backward()
    assert model.constant.grad is not None
    assert bool(model.constant.grad.any())
    vectors = stack_by_key(model.embeddings(kjt), model.keys, 8)
    stacked = torch.cat((model.constant.expand(6, 1, 8), vectors), dim=1)
    inputs = torch.cat((model.constant.expand(6, 8), DotInteraction(4)(stacked)), dim=1)
    torch.testing.assert_close(logits, model.top(inputs).squeeze(1))


def test_batch_equals_singles() -> None:
    torch.manual_seed(5)
    model = DLRM(tables(SIZES, 8), 4, SMALL)
    dense, kjt, bags = batch()
    singles = []
    for row in range(6):
        lists = [feature[row] for feature in bags]
        one = KeyedJaggedTensor(
            keys=list(SIZES),
            values=torch.tensor([i for ids in lists for i in ids], dtype=torch.int64),
            lengths=torch.tensor([len(ids) for ids in lists]),
        )
        singles.append(model(dense[row : row + 1], one))
    torch.testing.assert_close(torch.cat(singles), model(dense, kjt))


def test_fx_trace_and_pickle_keep_the_numbers() -> None:
    torch.manual_seed(6)
    model = DLRM(tables(SIZES, 8), 4, SMALL)
    dense, kjt, _ = batch()

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return m is model.embeddings or super().is_leaf_module(m, name)

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(dense, kjt), model(dense, kjt))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(dense, kjt), model(dense, kjt))


def test_meta_construction_then_materialise() -> None:
    torch.manual_seed(7)
    model = DLRM(tables(SIZES, 8), 4, SMALL)
    empty = DLRM(tables(SIZES, 8, "meta"), 4, SMALL, device="meta")
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    dense, kjt, _ = batch()
    assert torch.equal(empty(dense, kjt), model(dense, kjt))


def test_different_widths_name_who_has_which() -> None:
    ebc = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name="a", num_embeddings=3, embedding_dim=16, feature_names=["C1"]),
            EmbeddingBagConfig(name="b", num_embeddings=3, embedding_dim=8, feature_names=["C2"]),
        ]
    )
    with pytest.raises(ValueError, match=r"one width .* 16 for C1; 8 for C2; give every Feature"):
        DLRM(ebc, 13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interaction": "sum"}, "model dlrm: option interaction: .*'dot' or 'cat', got 'sum'"),
        ({"top": (8, 2)}, "top must end in 1"),
        ({"top": ()}, "top must end in 1"),
        ({"tops": (8, 1)}, "tops: there is no such field.*options are: bottom, top, interaction"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_model("dlrm").parse(options)


def test_options_that_came_later_are_in_results_where_they_do_something() -> None:
    before = {"bottom", "top", "interaction", "interaction_itself"}
    assert set(DLRMConfig().resolved()) == before
    more = DLRMConfig(dropout=0.5, batch_norm=True).resolved()
    assert set(more) == before | {"dropout", "batch_norm"}
    assert DLRMConfig.model_validate(more).dropout == 0.5
    autoint = get_model("autoint").parse({"flavor": "fuxictr", "residual": False}).resolved()
    later = {"scale", "layer_norm", "residual", "attention_dropout"}
    assert later & set(autoint) == {"residual"}


def test_layers_without_dropout_and_batch_norm_have_the_names_they_had() -> None:
    keys = list(DLRM(tables(SIZES, 8), 4, SMALL).top.state_dict())
    assert keys[:2] == ["_mlp.0._linear.weight", "_mlp.0._linear.bias"]
    normed = DLRM(tables(SIZES, 8), 4, SMALL.model_copy(update={"batch_norm": True}))
    assert set(keys) < set(normed.top.state_dict())


def test_a_negative_number_of_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_dense must be 0 or more, got -1"):
        DLRM(tables(SIZES, 8), -1)


def test_no_features_is_an_error() -> None:
    class Nothing(nn.Module):
        def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
            return []

    with pytest.raises(ValueError, match="no embedded feature"):
        DLRM(Nothing(), 4)
