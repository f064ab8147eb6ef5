"""What ``bench_training`` compares: a training step of every entrant, over the same batches.

All but DeepCTR-Torch's are the DLRM of the default config: 13 dense columns, 26 features, pairwise
dots. FuxiCTR's distribution has no DLRM, so its layers make one here. Other projects run with their
own step: forward, loss, ``backward`` and optimizer as in their ``fit``, without their loaders.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.foreign import foreign
from compactrec.benchmarks.model import build_model, click_model
from compactrec.benchmarks.model_peers import deepctr_step
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.precision import DenseDtype, has_bfloat16
from compactrec.benchmarks.turns import Step
from compactrec.data.batch import Batch
from compactrec.embeddings import Feature, Plan, full_plan, make_plan, method_names, size

__all__ = ["Constant", "Setting", "build", "entrants", "our_step"]

NUM_DENSE = 13

_OTHERS = ("deepctr_torch", "fuxictr")
_PLAIN = ("dense_part", "embedding_adam", "embedding_sparse_adam")
_BFLOAT16 = "_bfloat16"


@dataclass(frozen=True)
class Setting:
    """What all entrants have in common."""

    features: tuple[Feature, ...]
    batch: int
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256, 1)

    dense_dtype: DenseDtype = "float32"

    def config(self) -> TrainConfig:
        """The default config with these widths; no file in it is read."""
        return TrainConfig(
            data=Path("-"),
            out=Path("-"),
            method="full",
            dim=self.features[0].dim,
            model_options={"bottom": list(self.bottom), "top": list(self.top)},
            batch_size=self.batch,
            dense_dtype=self.dense_dtype,
        )


def entrants() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that can be built here, and those whose package is missing."""
    missing = tuple(name for name in _OTHERS if not importlib.util.find_spec(name))
    others = tuple(name for name in _OTHERS if name not in missing)
    half = ("dense_part", "full") if has_bfloat16("cpu") else ()
    return (*_PLAIN, *method_names(), *(n + _BFLOAT16 for n in half), *others), missing


def build(name: str, setting: Setting) -> tuple[Step, int]:
    """The step of an entrant and the bytes of its tables."""
    torch.manual_seed(0)
    if name.endswith(_BFLOAT16):
        return build(
            name.removesuffix(_BFLOAT16), dataclasses.replace(setting, dense_dtype="bfloat16")
        )
    full_bytes = size(full_plan(setting.features)).serving_bytes
    if name == "dense_part":
        return our_step(setting.config(), Constant(setting.features), NUM_DENSE), 0
    if name in ("embedding_adam", "embedding_sparse_adam"):
        tables = PlainEmbeddings(setting.features, sparse=name == "embedding_sparse_adam")
        return _plain(setting, tables), full_bytes
    if name == "deepctr_torch":
        return _deepctr(setting), full_bytes
    if name == "fuxictr":
        return _fuxictr(setting), full_bytes
    counts = {f.name: np.arange(f.num_ids or 1, 0, -1) for f in setting.features}
    plan = full_plan(setting.features)
    if name != "full":
        plan = make_plan(name, setting.features, full_bytes // 4, counts=counts)
    return our_step(setting.config(), plan, NUM_DENSE), size(plan).serving_bytes


class Constant(EmbeddingBagCollectionInterface):
    """The same vectors for every batch, without a gradient."""

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self._features = tuple(features)
        self._values = torch.empty(0)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """``(B, sum of dims)``, from memory."""
        dims = [feature.dim for feature in self._features]
        if self._values.shape[0] != features.stride():
            self._values = torch.randn(features.stride(), sum(dims)) * 0.01
        names = [feature.name for feature in self._features]
        return KeyedTensor(keys=names, length_per_key=dims, values=self._values)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """One per feature."""
        return [
            EmbeddingBagConfig(
                name=f.name,
                embedding_dim=f.dim,
                num_embeddings=f.num_ids or 1,
                feature_names=[f.name],
            )
            for f in self._features
        ]

    def is_weighted(self) -> bool:
        """False."""
        return False


class PlainEmbeddings(Constant):
    """One ``nn.Embedding`` per feature, for bags of one id."""

    def __init__(self, features: Sequence[Feature], *, sparse: bool) -> None:
        super().__init__(features)
        self.sparse = sparse
        self.tables = nn.ModuleList(
            nn.Embedding(f.num_ids or 1, f.dim, sparse=sparse) for f in features
        )
        for table, feature in zip(self.tables, features, strict=True):
            bound = math.sqrt(1 / (feature.num_ids or 1))
            nn.init.uniform_(table.weight, -bound, bound)  # type: ignore[arg-type]  # a Parameter

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """``(B, sum of dims)``, looked up table by table."""
        ids = features.values().view(len(self.tables), -1)
        vectors = [table(row) for table, row in zip(self.tables, ids, strict=True)]
        return KeyedTensor(
            keys=[f.name for f in self._features],
            length_per_key=[f.dim for f in self._features],
            values=torch.cat(vectors, dim=1),
        )


def our_step(config: TrainConfig, embeddings: Plan | Constant, num_dense: int) -> Step:
    """As ``train`` does it."""
    if isinstance(embeddings, Plan):
        model, collections = build_model(config, embeddings, num_dense)
    else:
        model, collections = click_model(config, embeddings, num_dense), ()
    optimizers = Optimizers(model, collections, config)
    steps = 0

    def step(batch: Batch) -> float:
        nonlocal steps
        steps += 1
        optimizers.set_rates(steps)
        loss = binary_cross_entropy_with_logits(model(batch.dense, batch.kjt()), batch.labels)
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
        return loss.item()

    return step


def _plain(setting: Setting, tables: PlainEmbeddings) -> Step:
    """Torch's own Adam over everything, or SparseAdam over the tables."""
    model = click_model(setting.config(), tables, NUM_DENSE)
    weights = list(tables.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("embeddings.")]
    optimizers: list[torch.optim.Optimizer] = (
        [torch.optim.Adam(others, lr=1e-3, fused=True), torch.optim.SparseAdam(weights, lr=1e-3)]
        if tables.sparse
        else [torch.optim.Adam([*others, *weights], lr=1e-3)]
    )

    def step(batch: Batch) -> float:
        loss = binary_cross_entropy_with_logits(model(batch.dense, batch.kjt()), batch.labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return step


def _deepctr(setting: Setting) -> Step:
    """DCN, the nearest that it has: it has no pairwise dots."""
    inputs = foreign("deepctr_torch.inputs")
    columns = [
        inputs.SparseFeat(f.name, vocabulary_size=f.num_ids, embedding_dim=f.dim)
        for f in setting.features
    ] + [inputs.DenseFeat(f"I{i + 1}", 1) for i in range(NUM_DENSE)]
    models = foreign("deepctr_torch.models")
    hidden = setting.top[:-1]
    model: Any = models.DCN(columns, columns, dnn_hidden_units=hidden, device="cpu")
    model.compile("adam", "binary_crossentropy")
    return deepctr_step(model)


def _fuxictr(setting: Setting) -> Step:
    """A DLRM of FuxiCTR's layers over its base model, with its train step and Adam."""
    torch_models = foreign("fuxictr.pytorch.models")
    layers = foreign("fuxictr.pytorch.layers")
    feature_map = foreign("fuxictr.features").FeatureMap("bench", ".")
    feature_map.labels = ["label"]
    for f in setting.features:
        feature_map.features[f.name] = {
            "type": "categorical",
            "vocab_size": f.num_ids,
            "source": "",
        }
    names, dim = [f.name for f in setting.features], setting.features[0].dim
    num_vectors = len(names) + 1
    base: type[nn.Module] = torch_models.BaseModel

    class Assembled(base):  # type: ignore[misc, valid-type]  # a class of theirs, known at run time
        def __init__(self) -> None:
            super().__init__(feature_map, metrics=["AUC"], model_root=".", verbose=0)
            self._max_gradient_norm = 10.0
            self.embedding_layer = layers.FeatureEmbedding(feature_map, dim)
            self.bottom = layers.MLP_Block(
                NUM_DENSE, list(setting.bottom), output_dim=dim, output_activation="ReLU"
            )
            self.dots = layers.InnerProductInteraction(num_vectors, output="inner_product")
            width = dim + num_vectors * (num_vectors - 1) // 2
            self.top = layers.MLP_Block(width, list(setting.top[:-1]), output_dim=1)
            self.compile("adam", "binary_crossentropy", 1e-3)

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            first = self.bottom(inputs["dense"])
            vectors = self.embedding_layer({name: inputs[name] for name in names})
            dots = self.dots(torch.cat([first.unsqueeze(1), vectors], dim=1))
            logits = self.top(torch.cat([first, dots], dim=1))
            return {"y_pred": self.output_activation(logits)}

    model: Any = Assembled()

    def step(batch: Batch) -> float:
        ids = batch.values.view(len(names), -1)
        inputs = dict(zip(names, ids, strict=True))
        inputs |= {"dense": batch.dense, "label": batch.labels}
        return float(model.train_step(inputs).item())

    return step
