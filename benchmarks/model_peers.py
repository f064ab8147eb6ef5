"""Models of other projects for ``bench_models``, with their own training step and Adam.

Both without weight decay and gradient clipping beyond what their step has, and without their
loaders. Of FuxiCTR's models its distribution installs those for long sequences, which read another
input than clicks of one id by field: the models here are put together from its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.benchmarks.foreign import foreign
from compactrec.benchmarks.turns import Step
from compactrec.data.batch import Batch
from compactrec.embeddings import Feature

__all__ = [
    "CIN",
    "DEEPCTR",
    "FUXICTR",
    "HIDDEN",
    "deepctr_model",
    "deepctr_step",
    "fuxictr_model",
    "fuxictr_step",
]

HIDDEN = (400, 400, 400)
CIN = (16, 16, 16)
"""Wider ones, at batch 4096, take more memory in the peers than a small machine has."""

DEEPCTR: Mapping[str, tuple[str, bool, dict[str, Any]]] = {
    "ipnn": ("PNN", False, {}),
    "wide_deep": ("WDL", True, {"l2_reg_linear": 0}),
    "deepfm": ("DeepFM", True, {"l2_reg_linear": 0}),
    "dcn": ("DCN", False, {"cross_num": 3, "l2_reg_cross": 0, "l2_reg_linear": 0}),
    "dcnv2": (
        "DCN", False,
        {"cross_num": 3, "cross_parameterization": "matrix", "l2_reg_cross": 0, "l2_reg_linear": 0},
    ),
    "xdeepfm": (
        "xDeepFM", True,
        {
            "cin_layer_size": CIN, "cin_split_half": False, "cin_activation": "linear",
            "l2_reg_linear": 0,
        },
    ),
    "autoint_plus": ("AutoInt", True, {"att_layer_num": 3, "att_head_num": 2}),
    "fibinet": ("FiBiNET", True, {"bilinear_type": "interaction", "l2_reg_linear": 0}),
}  # fmt: skip
"""Our name -> theirs, whether it has a first-order part, and its options."""


def deepctr_model(model: str, features: Sequence[Feature]) -> Any:
    """One of DeepCTR-Torch's models, of ids ``(B, F)`` as float32."""
    name, is_linear, options = DEEPCTR[model]
    inputs, models = foreign("deepctr_torch.inputs"), foreign("deepctr_torch.models")
    columns = [
        inputs.SparseFeat(f.name, vocabulary_size=f.num_ids, embedding_dim=f.dim) for f in features
    ]
    linear = () if name == "PNN" else (columns if is_linear else [],)
    made: Any = getattr(models, name)(
        *linear, columns, dnn_hidden_units=HIDDEN, l2_reg_embedding=0, device="cpu", **options
    )
    made.compile("adam", "binary_crossentropy")
    return made


def deepctr_step(made: Any) -> Step:
    """Train as its ``fit`` does."""

    def step(batch: Batch) -> float:
        ids = batch.values.view(len(batch.keys), -1).T.float()
        predicted = made(torch.cat([ids, batch.dense], dim=1)).squeeze(-1)
        made.optim.zero_grad()
        loss = made.loss_func(predicted, batch.labels, reduction="sum")
        total = loss + made.get_regularization_loss() + made.aux_loss
        total.sum().backward()
        made.optim.step()
        return float(loss.item()) / batch.batch_size

    return step


Forward = Callable[[dict[str, Tensor], Tensor], Tensor]
"""From ids by name and vectors ``(B, F, D)`` to logits ``(B, 1)``."""


class _Parts:
    """FuxiCTR's layers for some features; those asked for become modules of ``owner``."""

    def __init__(self, owner: nn.Module, feature_map: Any, num_fields: int, dim: int) -> None:
        self._owner, self.feature_map, self.num_fields = owner, feature_map, num_fields
        self.dim, self.width = dim, num_fields * dim
        self.layers = foreign("fuxictr.pytorch.layers")

    def add(self, name: str, layer: nn.Module) -> Any:
        """Make ``layer`` a module of the model."""
        self._owner.add_module(name, layer)
        return layer

    def deep(self, width: int, output: int | None = 1) -> Any:
        """A tower."""
        return self.add("deep", self.layers.MLP_Block(width, list(HIDDEN), output_dim=output))

    def wide(self) -> Any:
        """The first-order part."""
        return self.add("wide", self.layers.LogisticRegression(self.feature_map))


def _lr(parts: _Parts) -> Forward:
    wide = parts.wide()
    return lambda ids, vectors: wide(ids)


def _fm(parts: _Parts) -> Forward:
    return parts.add("fm", parts.layers.FactorizationMachine(parts.feature_map))


def _fnn(parts: _Parts) -> Forward:
    deep = parts.deep(parts.width)
    return lambda ids, vectors: deep(vectors.flatten(1))


def _ipnn(parts: _Parts) -> Forward:
    n = parts.num_fields
    dots = parts.add("dots", parts.layers.InnerProductInteraction(n, output="inner_product"))
    deep = parts.deep(parts.width + n * (n - 1) // 2)
    return lambda ids, vectors: deep(torch.cat([vectors.flatten(1), dots(vectors)], dim=1))


def _wide_deep(parts: _Parts) -> Forward:
    wide, deep = parts.wide(), parts.deep(parts.width)
    return lambda ids, vectors: wide(ids) + deep(vectors.flatten(1))


def _deepfm(parts: _Parts) -> Forward:
    fm, deep = _fm(parts), parts.deep(parts.width)
    return lambda ids, vectors: fm(ids, vectors) + deep(vectors.flatten(1))


def _crossed(parts: _Parts, kind: str) -> Forward:
    cross = parts.add("cross", getattr(parts.layers, kind)(parts.width, 3))
    deep = parts.deep(parts.width, output=None)
    top = parts.add("top", nn.Linear(parts.width + HIDDEN[-1], 1))

    def forward(ids: dict[str, Tensor], vectors: Tensor) -> Tensor:
        flat = vectors.flatten(1)
        out: Tensor = top(torch.cat([cross(flat), deep(flat)], dim=1))
        return out

    return forward


def _xdeepfm(parts: _Parts) -> Forward:
    layer = parts.layers.CompressedInteractionNet(parts.num_fields, list(CIN))
    cin, wide, deep = parts.add("cin", layer), parts.wide(), parts.deep(parts.width)
    return lambda ids, vectors: cin(vectors) + wide(ids) + deep(vectors.flatten(1))


def _fibinet(parts: _Parts) -> Forward:
    n = parts.num_fields
    excite = parts.add("excite", parts.layers.SqueezeExcitation(n, 3))
    pairs = parts.add("pairs", parts.layers.BilinearInteractionV2(n, parts.dim))
    wide, deep = parts.wide(), parts.deep(n * (n - 1) * parts.dim)

    def forward(ids: dict[str, Tensor], vectors: Tensor) -> Tensor:
        both = torch.cat([pairs(vectors), pairs(excite(vectors))], dim=1)
        out: Tensor = wide(ids) + deep(both.flatten(1))
        return out

    return forward


FUXICTR: Mapping[str, Callable[[_Parts], Forward]] = {
    "lr": _lr,
    "fm": _fm,
    "fnn": _fnn,
    "ipnn": _ipnn,
    "wide_deep": _wide_deep,
    "deepfm": _deepfm,
    "dcn": lambda parts: _crossed(parts, "CrossNet"),
    "dcnv2": lambda parts: _crossed(parts, "CrossNetV2"),
    "xdeepfm": _xdeepfm,
    "fibinet": _fibinet,
}
"""Our name -> what puts theirs together."""


def fuxictr_model(model: str, features: Sequence[Feature]) -> Any:
    """FuxiCTR's layers over its base model."""
    feature_map = foreign("fuxictr.features").FeatureMap("bench", ".")
    feature_map.labels = ["label"]
    for f in features:
        feature_map.features[f.name] = {
            "type": "categorical", "vocab_size": f.num_ids, "source": "",
        }  # fmt: skip
    feature_map.num_fields = len(features)
    names, dim = [f.name for f in features], features[0].dim
    base: type[nn.Module] = foreign("fuxictr.pytorch.models").BaseModel
    layers = foreign("fuxictr.pytorch.layers")

    class Assembled(base):  # type: ignore[misc, valid-type]  # a class of theirs, known at run time
        def __init__(self) -> None:
            super().__init__(feature_map, metrics=["AUC"], model_root=".", verbose=0)
            self._max_gradient_norm = 10.0
            if model != "lr":
                self.embedding_layer = layers.FeatureEmbedding(feature_map, dim)
            self.logits = FUXICTR[model](_Parts(self, feature_map, len(names), dim))
            self.compile("adam", "binary_crossentropy", 1e-3)

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            ids = {name: inputs[name] for name in names}
            vectors = torch.empty(0) if model == "lr" else self.embedding_layer(ids)
            return {"y_pred": self.output_activation(self.logits(ids, vectors))}

    return Assembled()


def fuxictr_step(made: Any) -> Step:
    """Its own train step."""

    def step(batch: Batch) -> float:
        inputs = dict(zip(batch.keys, batch.values.view(len(batch.keys), -1), strict=True))
        return float(made.train_step({**inputs, "label": batch.labels}).item())

    return step
