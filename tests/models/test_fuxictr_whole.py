"""Whole models that FuxiCTR's distribution installs against ours with their weights.

They are those for long sequences: beside the fields of an example they read an item and the mean of
the items before it. For ours these are two features that share a table.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.foreign import foreign
from compactrec.models import get_model
from tests.models.support import BAGS, DIM, SIZES, bags_of

if importlib.util.find_spec("model_zoo") is None:
    pytest.skip("no models of FuxiCTR are installed", allow_module_level=True)

*FIELDS, ITEM = SIZES
BATCH = 6
HIDDEN, HIDDEN2 = [6, 8], [4]


class Inputs(NamedTuple):
    """One batch as either wants it; their ids are one higher, since 0 pads."""

    ours: KeyedJaggedTensor
    fields: dict[str, Tensor]
    items: dict[str, Tensor]
    mask: Tensor


def padded(bags: list[list[int]], longest: int) -> Tensor:
    return torch.tensor([[i + 1 for i in bag] + [0] * (longest - len(bag)) for bag in bags])


def inputs(bags: str) -> Inputs:
    longest = BAGS[bags]
    lists = bags_of(BATCH, longest)
    item = bags_of(BATCH, 1, seed=9)[-1]
    every = [*lists[:-1], item, lists[-1]]
    ours = KeyedJaggedTensor(
        keys=[*FIELDS, ITEM, "before"],
        values=torch.tensor([i for feature in every for bag in feature for i in bag]),
        lengths=torch.tensor([len(bag) for feature in every for bag in feature]),
    )
    fields = {key: padded(lists[f], longest) for f, key in enumerate(FIELDS)}
    before = padded(lists[-1], longest)
    items = torch.cat([before, padded(item, 1)], dim=1)
    return Inputs(ours, fields, {ITEM: items.flatten()}, before > 0)


def feature_map() -> Any:
    found = foreign("fuxictr.features").FeatureMap("whole", ".")
    found.labels = ["label"]
    for key, rows in SIZES.items():
        found.features[key] = {
            "type": "sequence", "vocab_size": rows + 1, "padding_idx": 0, "source": "",
            "feature_encoder": "layers.MaskedSumPooling()",
        }  # fmt: skip
    found.features[ITEM] |= {"type": "categorical", "source": "item", "feature_encoder": None}
    found.default_emb_dim = DIM
    return found


def theirs(name: str, **options: Any) -> Any:
    """One of their models; every weight is random, the row of id 0 is zero."""
    model: nn.Module = getattr(foreign(f"model_zoo.LongCTR.{name}.{name}"), name)(
        feature_map(), task="regression", embedding_dim=DIM, optimizer="adam",
        loss="binary_crossentropy", metrics=["AUC"], model_root=".", verbose=0, **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.4, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight[0] = 0
    return model


def ours(name: str, options: Mapping[str, Any], other: Any, state: dict[str, Tensor]) -> nn.Module:
    """Our model with the tables of theirs and these weights."""
    tables = [
        EmbeddingBagConfig(
            name=key, num_embeddings=rows, embedding_dim=DIM,
            feature_names=[key, "before"] if key == ITEM else [key],
            pooling=PoolingType.MEAN if key == ITEM else PoolingType.SUM,
        )
        for key, rows in SIZES.items()
    ]  # fmt: skip
    chosen = get_model(name)
    model = chosen.module(EmbeddingBagCollection(tables=tables), 0, chosen.parse(options))
    their_tables = other.embedding_layer.embedding_layer.embedding_layers
    for key in SIZES:
        state[f"embeddings.embedding_bags.{key}.weight"] = their_tables[key].weight[1:]
    model.load_state_dict(state, strict=True)
    return model


def under(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def equal(mine: nn.Module, other: Any, bags: str) -> None:
    given = inputs(bags)
    expected = other((given.fields, given.items, given.mask))["y_pred"].squeeze(1)
    assert bool(expected.detach().std() > 1e-2)
    found = mine(torch.empty(BATCH, 0), given.ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def finalmlp_state(other: Any, heads: int) -> dict[str, Tensor]:
    fusion = other.fusion_module
    weight = fusion.w_xy.view(heads, HIDDEN[-1] // heads, HIDDEN2[-1] // heads)
    return {
        **under("stream", other.mlp1.mlp), **under("stream2", other.mlp2.mlp),
        **under("fusion.first", fusion.w_x), **under("fusion.second", fusion.w_y),
        "fusion.weight": weight,
    }  # fmt: skip


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize(("heads", "batch_norm"), [(1, False), (2, False), (4, True)])
def test_finalmlp(heads: int, batch_norm: bool, bags: str) -> None:
    other = theirs(
        "FinalMLP", use_fs=False, num_heads=heads, mlp1_hidden_units=HIDDEN,
        mlp2_hidden_units=HIDDEN2, mlp1_batch_norm=batch_norm,
    )  # fmt: skip
    options = {
        "hidden": HIDDEN, "hidden2": HIDDEN2, "heads": heads, "batch_norm": batch_norm,
    }  # fmt: skip
    equal(ours("finalmlp", options, other, finalmlp_state(other, heads)), other, bags)


CONTEXTS: list[tuple[list[str], list[str]]] = [([], []), (["C2"], []), (["C1", "C3"], ["C2"])]


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize(("context", "context2"), CONTEXTS)
def test_finalmlp_with_selection(context: list[str], context2: list[str], bags: str) -> None:
    """Their model makes its selection and does not call it: here it stands before the streams. Its
    contexts have tables of their own, which get the vectors that ours reads."""
    other = theirs(
        "FinalMLP", num_heads=2, mlp1_hidden_units=HIDDEN, mlp2_hidden_units=HIDDEN2,
        fs_hidden_units=[3], fs1_context=context, fs2_context=context2,
    )  # fmt: skip
    selection, state = other.fs_module, finalmlp_state(other, 2)
    for number, prefix in enumerate(("select", "select2"), start=1):
        gate = getattr(selection, f"fs{number}_gate").mlp
        state |= under(f"{prefix}.gate", gate)
        if (context, context2)[number - 1]:
            own = getattr(selection, f"fs{number}_ctx_emb").embedding_layer.embedding_layers
            for key, table in own.items():
                table.load_state_dict(
                    other.embedding_layer.embedding_layer.embedding_layers[key].state_dict()
                )
        else:
            state[f"{prefix}.constant"] = getattr(selection, f"fs{number}_ctx_bias")
    fields = inputs(bags).fields
    for stream, which in ((other.mlp1, 0), (other.mlp2, 1)):
        stream.register_forward_pre_hook(
            lambda _, given, which=which: (selection(fields, given[0])[which],)
        )
    options = {
        "hidden": HIDDEN, "hidden2": HIDDEN2, "heads": 2, "selection": True,
        "selection_hidden": (3,), "context": context, "context2": context2,
    }  # fmt: skip
    equal(ours("finalmlp", options, other, state), other, bags)


def crosses_state(crossnet: Any, mixture: bool) -> dict[str, Tensor]:
    if not mixture:
        pairs = [(n, layer) for n, layer in enumerate(crossnet.cross_layers)]
        kernels = {f"cross.kernels.{n}": layer.weight for n, layer in pairs}
        return kernels | {f"cross.bias.{n}": layer.bias.unsqueeze(1) for n, layer in pairs}
    found = under("cross.gates", crossnet.gating)
    for n in range(2):
        found[f"cross.V_kernels.{n}"] = crossnet.V_list[n].transpose(1, 2)
        found[f"cross.C_kernels.{n}"] = crossnet.C_list[n]
        found[f"cross.U_kernels.{n}"] = crossnet.U_list[n]
        found[f"cross.bias.{n}"] = crossnet.bias[n]
    return found


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("structure", ["crossnet_only", "stacked", "parallel", "stacked_parallel"])
def test_dcnv2(structure: str, mixture: bool, bags: str) -> None:
    other = theirs(
        "DCNv2", model_structure=structure, use_low_rank_mixture=mixture, low_rank=3, num_experts=2,
        num_cross_layers=2, stacked_dnn_hidden_units=HIDDEN, parallel_dnn_hidden_units=HIDDEN,
    )  # fmt: skip
    state = crosses_state(other.crossnet, mixture) | under("top", other.fc)
    for part in ("stacked", "parallel"):
        if part in structure:
            state |= under(part, getattr(other, f"{part}_dnn").mlp)
    options = {
        "structure": structure, "kind": "mixture" if mixture else "full", "rank": 3,
        "num_experts": 2, "cross_layers": 2,
        "hidden": () if structure == "crossnet_only" else HIDDEN,
    }  # fmt: skip
    equal(ours("dcnv2", options, other, state), other, bags)
