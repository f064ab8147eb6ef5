"""Click models in plain loops over one example, in float64, from their papers' equations.

Every function takes an :class:`Example` and the module's weights by their state-dict names.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.dlrm_reference import interact

__all__ = ["REFERENCES", "Array", "Example"]

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Example:
    """What a model sees of one row."""

    dense: Array
    vectors: Mapping[str, Array]
    """The pooled vector of every feature."""
    linear: Mapping[str, float]
    """The pooled first-order weight of every feature, where the model has them."""


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def layer_norm(x: Array, w: Weights, name: str, eps: float) -> Array:
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + eps)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: Weights, name: str) -> Array:
    out = w[f"{name}.weight"] @ x
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def mlp(x: Array, w: Weights, name: str, *, end: bool = False) -> Array:
    """The linear layers under `name` in the order of their numbers; `end`: ReLU after the last."""
    numbers = sorted(
        {int(key.removeprefix(f"{name}.").split(".")[0]) for key in w if key.startswith(f"{name}.")}
    )
    for number in numbers:
        x = linear(x, w, f"{name}.{number}")
        if end or number != numbers[-1]:
            x = relu(x)
    return x


def perceptron(x: Array, w: Weights, name: str, *, end: bool) -> Array:
    """The same for torchrec's MLP, whose layers have other names."""
    inner = {
        k.replace("._mlp.", ".").replace("._linear.", "."): v
        for k, v in w.items()
        if k.startswith(f"{name}.")
    }
    return mlp(x, inner, name, end=end)


def first_order(e: Example, w: Weights) -> float:
    total = sum(e.linear.values())
    for j, value in enumerate(e.dense):
        total += value * w["linear.dense_weights"][j]
    return float(total + (w["linear.bias"][0] if "linear.bias" in w else 0.0))


def fields(e: Example, w: Weights) -> list[Array]:
    numbers = [value * w["fields.dense_vectors"][j] for j, value in enumerate(e.dense)]
    return [*numbers, *e.vectors.values()]


def flat(e: Example) -> Array:
    return np.concatenate([e.dense, *e.vectors.values()])


def pairs_sum(vectors: list[Array]) -> float:
    return float(sum(a @ b for a, b in combinations(vectors, 2)))


def lr(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    total = sum(float(vector[0]) for vector in e.vectors.values())
    return first_order(e, w) + total


def fm(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    return first_order(e, w) + pairs_sum(fields(e, w))


def fnn(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    return float(mlp(flat(e), w, "deep")[0])


def ipnn(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    vectors = fields(e, w)
    dots = [float(a @ b) for a, b in combinations(vectors, 2)]
    return float(mlp(np.concatenate([*vectors, dots]), w, "deep")[0])


def wide_deep(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    return first_order(e, w) + fnn(e, w, o)


def deepfm(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    return fm(e, w, o) + float(mlp(np.concatenate(fields(e, w)), w, "deep")[0])


def dcn(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    x0 = flat(e)
    x = x0
    for layer in range(o["cross_layers"]):
        x = x0 * float(x @ w[f"cross.kernels.{layer}"][:, 0]) + w[f"cross.bias.{layer}"][:, 0] + x
    deep = mlp(x0, w, "deep", end=True) if o["hidden"] else np.zeros(0)
    return float(linear(np.concatenate([x, deep]), w, "top")[0])


def cross_v2(x0: Array, w: Weights, o: Mapping[str, Any]) -> Array:
    x = x0
    for layer in range(o["cross_layers"]):
        bias = w[f"cross.bias.{layer}"].reshape(-1)
        if o["kind"] == "full":
            x = x0 * (w[f"cross.kernels.{layer}"] @ x + bias) + x
        elif o["kind"] == "low_rank":
            inner = w[f"cross.V_kernels.{layer}"] @ x
            x = x0 * (w[f"cross.W_kernels.{layer}"] @ inner + bias) + x
        else:
            experts = range(o["num_experts"])
            gates = softmax(np.array([(w[f"cross.gates.{k}.weight"] @ x)[0] for k in experts]))
            total = np.zeros_like(x)
            for k in experts:
                inner = np.tanh(w[f"cross.V_kernels.{layer}"][k] @ x)
                inner = np.tanh(w[f"cross.C_kernels.{layer}"][k] @ inner)
                total += gates[k] * x0 * (w[f"cross.U_kernels.{layer}"][k] @ inner + bias)
            x = total + x
    return x


def dcnv2(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    x0 = flat(e)
    crossed = cross_v2(x0, w, o)
    parts = {
        "crossnet_only": lambda: [crossed],
        "stacked": lambda: [mlp(crossed, w, "stacked", end=True)],
        "parallel": lambda: [crossed, mlp(x0, w, "parallel", end=True)],
        "stacked_parallel": lambda: [
            mlp(crossed, w, "stacked", end=True), mlp(x0, w, "parallel", end=True),
        ],
    }[o["structure"]]()  # fmt: skip
    return float(linear(np.concatenate(parts), w, "top")[0])


def dlrm(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    first = perceptron(e.dense, w, "bottom", end=True) if len(e.dense) else w["constant"]
    vectors = [first, *e.vectors.values()]
    if o["interaction"] == "cat":
        return float(perceptron(np.concatenate(vectors), w, "top", end=False)[0])
    shift = 0 if o["interaction_itself"] else 1
    n = len(vectors)
    dots = [float(vectors[i] @ vectors[j]) for i in range(n) for j in range(i + shift, n)]
    assert len(dots) == len(interact(vectors, "dot", o["interaction_itself"])) - len(first)
    return float(perceptron(np.concatenate([first, dots]), w, "top", end=False)[0])


def dlrm_dcnv2(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    first = perceptron(e.dense, w, "bottom", end=True) if len(e.dense) else np.zeros(0)
    x0 = np.concatenate([first, *e.vectors.values()])
    crossed = cross_v2(x0, w, {**o, "kind": "low_rank"})
    return float(perceptron(crossed, w, "top", end=False)[0])


def xdeepfm(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    base = fields(e, w)
    maps, pooled = base, []
    for number, size in enumerate(o["cin"]):
        weight = w[f"cin.layers.{number}.weight"].reshape(size, len(maps), len(base))
        bias = w[f"cin.layers.{number}.bias"]
        made = []
        for h in range(size):
            total = np.full_like(base[0], bias[h])
            for i, left in enumerate(maps):
                for j, right in enumerate(base):
                    total = total + weight[h, i, j] * left * right
            made.append(relu(total) if o["cin_activation"] == "relu" else total)
        maps = given = made
        if o["split_half"] and number + 1 < len(o["cin"]):
            maps, given = made[: size // 2], made[size // 2 :]
        pooled += [float(vector.sum()) for vector in given]
    cin = linear(np.array(pooled), w, "cin.top")[0]
    return first_order(e, w) + float(cin + mlp(np.concatenate(base), w, "deep")[0])


def attend(x: list[Array], w: Weights, name: str, o: Mapping[str, Any]) -> list[Array]:
    official, d = o["flavor"] == "official_tf", o["head_dim"]

    def project(part: str, vector: Array) -> Array:
        if f"{name}.{part}.weight" not in w:
            return vector
        out = linear(vector, w, f"{name}.{part}")
        return relu(out) if official else out

    out = []
    for m in range(len(x)):
        joined: list[float] = []
        for h in range(o["heads"]):
            lanes = slice(h * d, (h + 1) * d)
            query = project("query", x[m])[lanes]
            scores = np.array([query @ project("key", other)[lanes] for other in x])
            attention = softmax(scores / math.sqrt(d) if official else scores)
            mixed = sum(a * project("value", v)[lanes] for a, v in zip(attention, x, strict=True))
            joined += list(mixed)
        found = relu(np.array(joined) + project("residual", x[m]))
        out.append(layer_norm(found, w, f"{name}.norm", 1e-8) if official else found)
    return out


def autoint(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    x = fields(e, w)
    for number in range(o["layers"]):
        x = attend(x, w, f"layers.{number}", o)
    logit = float(linear(np.concatenate(x), w, "top")[0])
    if o["hidden"]:
        logit += float(mlp(np.concatenate(fields(e, w)), w, "deep")[0])
    return logit + (first_order(e, w) if o["wide"] else 0.0)


def bilinear(vectors: list[Array], weight: Array, kind: str) -> list[Array]:
    found = []
    for pair, (i, j) in enumerate(combinations(range(len(vectors)), 2)):
        matrix = weight[{"all": 0, "each": i, "interaction": pair}[kind]]
        found.append((vectors[i] @ matrix) * vectors[j])
    return found


def fibinet(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    vectors = fields(e, w)
    squeezed = np.array([vector.mean() for vector in vectors])
    inner = relu(w["excitation.squeeze.weight"] @ squeezed)
    scales = relu(w["excitation.excite.weight"] @ inner)
    weighted = [a * v for a, v in zip(scales, vectors, strict=True)]
    second = "pairs" if o["share_bilinear"] else "weighted_pairs"
    pairs = bilinear(vectors, w["pairs.weight"], o["bilinear"])
    pairs += bilinear(weighted, w[f"{second}.weight"], o["bilinear"])
    return first_order(e, w) + float(mlp(np.concatenate(pairs), w, "deep")[0])


def masknet(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    vectors = fields(e, w)
    x0 = np.concatenate(vectors)
    start = x0
    if o["embedding_norm"]:
        normed = [layer_norm(v, w, f"norms.{f}", 1e-5) for f, v in enumerate(vectors)]
        start = np.concatenate(normed)

    def block(number: int, hidden: Array) -> Array:
        mask = linear(relu(linear(x0, w, f"blocks.{number}.mask.0")), w, f"blocks.{number}.mask.2")
        out = linear(mask * hidden, w, f"blocks.{number}.hidden.0")
        if o["block_norm"]:
            out = layer_norm(out, w, f"blocks.{number}.hidden.1", 1e-5)
        return relu(out)

    if o["kind"] == "serial":
        for number in range(len(o["blocks"])):
            start = block(number, start)
        return float(linear(start, w, "top")[0])
    outputs = [block(number, start) for number in range(len(o["blocks"]))]
    return float(mlp(np.concatenate(outputs), w, "top")[0])


def finalmlp(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    def stream(select: str, tower: str, context: list[str]) -> Array:
        x = flat(e)
        if o["selection"]:
            seen = w.get(f"{select}.constant", np.zeros((1, 0)))[0]
            if context:
                seen = np.concatenate([e.vectors[key] for key in context])
            x = x * 2 * sigmoid(mlp(seen, w, f"{select}.gate"))
        return mlp(x, w, tower, end=True)

    u = stream("select", "stream", o["context"])
    v = stream("select2", "stream2", o["context2"])
    logit = float(linear(u, w, "fusion.first")[0] + linear(v, w, "fusion.second")[0])
    width, width2 = len(u) // o["heads"], len(v) // o["heads"]
    for h in range(o["heads"]):
        left, right = u[h * width : (h + 1) * width], v[h * width2 : (h + 1) * width2]
        logit += float(left @ w["fusion.weight"][h] @ right)
    return logit


def gdcn(e: Example, w: Weights, o: Mapping[str, Any]) -> float:
    x0 = flat(e)
    x = x0
    for layer in range(o["cross_layers"]):
        gate = sigmoid(w[f"cross.gates.{layer}.weight"] @ x)
        x = x0 * linear(x, w, f"cross.crosses.{layer}") * gate + x
    if o["structure"] == "stacked":
        return float(linear(mlp(x, w, "deep", end=True), w, "top")[0])
    deep = mlp(x0, w, "deep", end=True)
    return float(linear(np.concatenate([x, deep]), w, "top")[0])


REFERENCES: dict[str, Callable[[Example, Weights, Mapping[str, Any]], float]] = {
    "lr": lr, "fm": fm, "fnn": fnn, "ipnn": ipnn, "wide_deep": wide_deep, "deepfm": deepfm,
    "dcn": dcn, "dcnv2": dcnv2, "dlrm": dlrm, "dlrm_dcnv2": dlrm_dcnv2, "xdeepfm": xdeepfm,
    "autoint": autoint, "autoint_plus": autoint, "fibinet": fibinet, "masknet": masknet,
    "finalmlp": finalmlp, "gdcn": gdcn,
}  # fmt: skip
