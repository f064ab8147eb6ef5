"""Our parts of models against FuxiCTR's layers with our weights."""

import importlib.util

import pytest
import torch

from compactrec.benchmarks.foreign import foreign
from compactrec.models.bilinear import BilinearPairs, SqueezeExcitation
from compactrec.models.blocks import DotInteraction, pairwise_sum
from compactrec.models.cin import CompressedInteraction
from compactrec.models.crosses import crosses
from compactrec.models.towers import tower

if importlib.util.find_spec("fuxictr") is None:
    pytest.skip("FuxiCTR is not installed", allow_module_level=True)

layers = foreign("fuxictr.pytorch.layers")
NUM_FIELDS, DIM = 5, 4


@pytest.fixture
def vectors() -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(7, NUM_FIELDS, DIM)


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_bilinear_pairs(vectors: torch.Tensor, kind: str) -> None:
    ours = BilinearPairs(NUM_FIELDS, DIM, kind)
    theirs = layers.BilinearInteraction(NUM_FIELDS, DIM, f"field_{kind}")
    theirs.bilinear_W.data = ours.weight.data[0] if kind == "all" else ours.weight.data
    torch.testing.assert_close(ours(vectors), theirs(vectors))


@pytest.mark.parametrize("reduction", [2, 3, 9])
def test_squeeze_and_excitation(vectors: torch.Tensor, reduction: int) -> None:
    ours = SqueezeExcitation(NUM_FIELDS, reduction)
    theirs = layers.SqueezeExcitation(NUM_FIELDS, reduction)
    theirs.excitation[0].weight.data = ours.squeeze.weight.data.abs()
    theirs.excitation[2].weight.data = ours.excite.weight.data
    ours.squeeze.weight.data.abs_()
    torch.testing.assert_close(ours(vectors.abs()), theirs(vectors.abs()))
    assert bool(ours(vectors.abs()).any())


def test_compressed_interaction(vectors: torch.Tensor) -> None:
    ours = CompressedInteraction(NUM_FIELDS, (6, 3))
    theirs = layers.CompressedInteractionNet(NUM_FIELDS, [6, 3])
    theirs.fc.load_state_dict(ours.top.state_dict())
    for number, (mine, size) in enumerate(zip(ours.layers, (6, 3), strict=True), start=1):
        # theirs has the fields of the example first, ours those of the layer before
        weight = mine.weight.data.unflatten(1, (-1, NUM_FIELDS)).transpose(1, 2).reshape(size, -1)
        theirs.cin_layer[f"layer_{number}"].weight.data = weight.unsqueeze(2)
        theirs.cin_layer[f"layer_{number}"].bias.data = mine.bias.data.normal_()
    torch.testing.assert_close(ours(vectors), theirs(vectors).squeeze(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vector", "full", "mixture"])
def test_crosses(vectors: torch.Tensor, kind: str) -> None:
    x = vectors.flatten(1)
    width = x.shape[1]
    ours = crosses(kind, width, 2, rank=3, num_experts=2)
    w = ours.state_dict()
    for value in w.values():
        value.normal_(std=0.3)
    if kind == "vector":
        theirs = layers.CrossNet(width, 2)
        state = {f"cross_net.{n}.weight.weight": w[f"kernels.{n}"].T for n in range(2)}
        state |= {f"cross_net.{n}.bias": w[f"bias.{n}"].squeeze(1) for n in range(2)}
    elif kind == "full":
        theirs = layers.CrossNetV2(width, 2)
        state = {f"cross_layers.{n}.weight": w[f"kernels.{n}"] for n in range(2)}
        state |= {f"cross_layers.{n}.bias": w[f"bias.{n}"].squeeze(1) for n in range(2)}
    else:
        theirs = layers.CrossNetMix(width, 2, 3, 2)
        state = {f"V_list.{n}": w[f"V_kernels.{n}"].transpose(1, 2) for n in range(2)}
        state |= {f"{p}_list.{n}": w[f"{p}_kernels.{n}"] for p in "UC" for n in range(2)}
        state |= {f"bias.{n}": w[f"bias.{n}"] for n in range(2)}
        state |= {f"gating.{e}.weight": w[f"gates.{e}.weight"] for e in range(2)}
    theirs.load_state_dict(state)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_dots_and_their_sum(vectors: torch.Tensor) -> None:
    pairs = layers.InnerProductInteraction(NUM_FIELDS, output="inner_product")(vectors)
    torch.testing.assert_close(DotInteraction(NUM_FIELDS)(vectors), pairs)
    total = layers.InnerProductInteraction(NUM_FIELDS, output="product_sum")(vectors)
    torch.testing.assert_close(pairwise_sum(vectors), total.squeeze(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_towers_with_batch_norm(vectors: torch.Tensor, training: bool, dropout: float) -> None:
    x = vectors.flatten(1)
    ours = tower(x.shape[1], (6, 3), 1, batch_norm=True, dropout=dropout)
    theirs = layers.MLP_Block(
        x.shape[1], [6, 3], output_dim=1, batch_norm=True, dropout_rates=dropout
    )
    theirs.mlp.load_state_dict(ours.state_dict())
    ours.train(training)
    theirs.train(training)
    torch.manual_seed(5)
    found = ours(x)
    torch.manual_seed(5)
    torch.testing.assert_close(found, theirs(x))
