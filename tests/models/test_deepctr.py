"""Whole models against DeepCTR-Torch's with its weights, with bags of one and of several ids.

Theirs have no constant in the linear part but one at the end, and some have a linear part where the
paper has none: it is left empty.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactrec.benchmarks.foreign import foreign
from tests.models.support import DIM, SIZES, bags_of, batch, build

models, inputs = foreign("deepctr_torch.models"), foreign("deepctr_torch.inputs")
LONGEST = 3
HIDDEN = (6, 5)


def columns(bags: str) -> list[Any]:
    """A column for every feature; id 0 pads bags of several ids, so ids are one higher there."""
    if bags == "single":
        return [inputs.SparseFeat(key, rows, embedding_dim=DIM) for key, rows in SIZES.items()]
    return [
        inputs.VarLenSparseFeat(
            inputs.SparseFeat(key, rows + 1, embedding_dim=DIM), maxlen=LONGEST, combiner="sum"
        )
        for key, rows in SIZES.items()
    ]


def matrix(batch_size: int, bags: str) -> Tensor:
    """The same ids as `batch` has, as DeepCTR-Torch wants them: one float column for each."""
    if bags == "single":
        lists = bags_of(batch_size, 1)
        return torch.tensor([[feature[row][0] for feature in lists] for row in range(batch_size)])
    lists = bags_of(batch_size, LONGEST)
    padded = [
        [
            i
            for feature in lists
            for i in [*(i + 1 for i in feature[row]), *[0] * (LONGEST - len(feature[row]))]
        ]
        for row in range(batch_size)
    ]
    return torch.tensor(padded)


Layers = Mapping[str, Tensor]


def deep(w: Layers, name: str, last: str, take: slice = slice(None)) -> dict[str, Tensor]:
    """Their tower and the part of their last layer that belongs to it, under our names."""
    found = {}
    for number in range(len(HIDDEN)):
        for part in ("weight", "bias"):
            found[f"{name}.{2 * number}.{part}"] = w[f"dnn.linears.{number}.{part}"]
    if last:
        found[f"{name}.{2 * len(HIDDEN)}.weight"] = w[f"{last}.weight"][:, take]
        found[f"{name}.{2 * len(HIDDEN)}.bias"] = w["out.bias"]
    return found


def top(w: Layers) -> dict[str, Tensor]:
    return {"top.weight": w["dnn_linear.weight"], "top.bias": w["out.bias"]}


def no_bias(w: Layers) -> dict[str, Tensor]:
    return {"linear.bias": torch.zeros(1)}


def of_wide(w: Layers) -> dict[str, Tensor]:
    return {**deep(w, "deep", "dnn_linear"), **no_bias(w)}


def of_xdeepfm(w: Layers) -> dict[str, Tensor]:
    found = {"cin.top.weight": w["cin_linear.weight"], "cin.top.bias": torch.zeros(1)}
    for number in range(2):
        found[f"cin.layers.{number}.weight"] = w[f"cin.conv1ds.{number}.weight"].squeeze(2)
        found[f"cin.layers.{number}.bias"] = w[f"cin.conv1ds.{number}.bias"]
    return {**found, **of_wide(w)}


def of_autoint(w: Layers) -> dict[str, Tensor]:
    width = len(SIZES) * DIM
    found = {
        "top.weight": w["dnn_linear.weight"][:, :width],
        "top.bias": torch.zeros(1),
        **deep(w, "deep", "dnn_linear", slice(width, None)),
    }
    names = {"query": "W_Query", "key": "W_key", "value": "W_Value", "residual": "W_Res"}
    for number in range(2):
        for ours, theirs in names.items():
            found[f"layers.{number}.{ours}.weight"] = w[f"int_layers.{number}.{theirs}"].T
    return found


def of_fibinet(w: Layers) -> dict[str, Tensor]:
    pairs = len(SIZES) * (len(SIZES) - 1) // 2
    matrices = torch.stack([w[f"Bilinear.bilinear.{p}.weight"].T for p in range(pairs)])
    found = {
        "excitation.squeeze.weight": w["SE.excitation.0.weight"],
        "excitation.excite.weight": w["SE.excitation.2.weight"],
        "pairs.weight": matrices,
        "weighted_pairs.weight": matrices,
        **deep(w, "deep", "dnn_linear"),
    }
    weighted, plain = found["deep.0.weight"].tensor_split(2, dim=1)  # theirs has them swapped
    return {**found, "deep.0.weight": torch.cat((plain, weighted), dim=1)}


def of_dcn(w: Layers) -> dict[str, Tensor]:
    found = {**deep(w, "deep", ""), **top(w)}
    for number in range(2):
        found[f"cross.kernels.{number}"] = w["crossnet.kernels"][number]
        found[f"cross.bias.{number}"] = w["crossnet.bias"][number]
    return found


def of_dcnv2(w: Layers) -> dict[str, Tensor]:
    return {key.replace("deep.", "parallel."): value for key, value in of_dcn(w).items()}


def of_mix(w: Layers) -> dict[str, Tensor]:
    found = {**deep(w, "parallel", ""), **top(w)}
    for number in range(2):
        found[f"cross.bias.{number}"] = w["crossnet.bias"][number]
        found[f"cross.U_kernels.{number}"] = w["crossnet.U_list"][number]
        found[f"cross.V_kernels.{number}"] = w["crossnet.V_list"][number].transpose(1, 2)
        found[f"cross.C_kernels.{number}"] = w["crossnet.C_list"][number]
    for expert in range(2):
        found[f"cross.gates.{expert}.weight"] = w[f"crossnet.gating.{expert}.weight"]
    return found


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Layers], Any], bool]] = {
    "WDL": ("wide_deep", {}, {}, of_wide, True),
    "DeepFM": ("deepfm", {}, {}, of_wide, True),
    "xDeepFM": (
        "xdeepfm", {"cin": (4, 3), "cin_activation": "relu", "split_half": True},
        {"cin_layer_size": (4, 3)}, of_xdeepfm, True,
    ),
    "AutoInt": (
        "autoint_plus", {"heads": 2, "head_dim": DIM // 2, "layers": 2, "wide": True,
        "hidden": HIDDEN}, {"att_layer_num": 2}, of_autoint, True,
    ),
    "FiBiNET": ("fibinet", {"share_bilinear": True, "reduction": 2}, {"reduction_ratio": 2},
        of_fibinet, True),
    "PNN": ("ipnn", {}, {}, lambda w: deep(w, "deep", "dnn_linear"), False),
    "DCN": ("dcn", {"cross_layers": 2}, {}, of_dcn, False),
    "DCN-matrix": (
        "dcnv2", {"cross_layers": 2}, {"cross_parameterization": "matrix"}, of_dcnv2, False,
    ),
    "DCNMix": (
        "dcnv2", {"cross_layers": 2, "kind": "mixture", "rank": 3, "num_experts": 2},
        {"low_rank": 3, "num_experts": 2}, of_mix, False,
    ),
}  # fmt: skip
"""Their name -> our name, our options, theirs, weights under our names, has a linear part."""


@pytest.mark.parametrize("bags", ["single", "multi"])
@pytest.mark.parametrize("theirs", CASES)
def test_logits_equal_deepctr(theirs: str, bags: str) -> None:
    name, options, extra, weights, linear = CASES[theirs]
    given = columns(bags)
    made = getattr(models, theirs.split("-")[0])
    both = () if theirs == "PNN" else (given if linear else [],)
    other: nn.Module = made(
        *both, given, dnn_hidden_units=HIDDEN, task="regression", **extra
    ).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(0.1, 0.4, generator=generator)
    ours = build(name, 0, **{"hidden": HIDDEN, **options}).eval()
    w = other.state_dict()
    state = weights(w)
    for key in SIZES:
        shift = 0 if bags == "single" else 1
        state[f"embeddings.embedding_bags.t_{key}.weight"] = w[f"embedding_dict.{key}.weight"][
            shift:
        ]
        if linear:
            first = w[f"linear_model.embedding_dict.{key}.weight"][shift:]
            state[f"embeddings.embedding_bags.t_{key}_linear.weight"] = first
    ours.load_state_dict(state)
    dense, kjt, _ = batch(6, 0, 1 if bags == "single" else LONGEST)
    expected = other(matrix(6, bags).float()).squeeze(1)
    assert bool(expected.detach().std() > 1e-2)
    torch.testing.assert_close(ours(dense, kjt), expected, atol=1e-5, rtol=1e-5)
