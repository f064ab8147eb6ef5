"""Models of other libraries, small, with a batch for each: as their documents build them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM, DLRM_DCN

from compactrec.benchmarks.foreign import foreign

__all__ = ["FOREIGN", "LABELS", "SIZES", "Foreign"]

BATCH = 32
SIZES = {"C1": 3000, "C2": 700, "C3": 40}
LABELS = (torch.arange(BATCH) % 3 == 0).float()


@dataclass(frozen=True)
class Foreign:
    """A model, its loss on one batch, and the sizes of its tables as ``compress`` names them."""

    make: Callable[[], nn.Module]
    error: Callable[[Any], Tensor]
    """Of its predictions."""
    sizes: dict[str, int]
    penalty: Callable[[Any], Tensor] = lambda model: torch.zeros(())
    """Of its weights: moves them even where no prediction depends on them."""
    max_bags: dict[str, int] | None = None

    def loss(self, model: nn.Module) -> Tensor:
        """What it is trained with."""
        return self.error(model) + self.penalty(model)


def _ids(name: str) -> Tensor:
    """The ids of a batch: both ends of the vocabulary and some between."""
    return (torch.arange(BATCH) * 37) % SIZES[name]


def _bce(predicted: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy(predicted.squeeze(-1), LABELS)


def _kjt() -> KeyedJaggedTensor:
    """C1 with bags of 0 to 2 ids, the others with one."""
    lengths = torch.arange(BATCH) % 3
    several = (torch.arange(int(lengths.sum())) * 89) % SIZES["C1"]
    values = [several, _ids("C2"), _ids("C3")]
    one = torch.ones(BATCH, dtype=torch.long)
    return KeyedJaggedTensor(list(SIZES), torch.cat(values), lengths=torch.cat([lengths, one, one]))


def _torchrec(kind: Callable[..., nn.Module], **arguments: Any) -> Foreign:
    def make() -> nn.Module:
        tables = [
            EmbeddingBagConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=k, feature_names=[n])
            for n, k in SIZES.items()
        ]
        return kind(EmbeddingBagCollection(tables), 4, [16, 8], [16, 1], **arguments)

    def error(model: Any) -> Tensor:
        dense = torch.linspace(-1, 1, BATCH * 4).view(BATCH, 4)
        return nn.functional.binary_cross_entropy_with_logits(
            model(dense, _kjt()).squeeze(-1), LABELS
        )

    return Foreign(make, error, dict(SIZES), max_bags={"C1": 2})


def _deepctr() -> Foreign:
    """DeepFM: a table of width 8 and one of width 1 for every column, and a sequence."""
    inputs = foreign("deepctr_torch.inputs")

    def make() -> nn.Module:
        sparse = [inputs.SparseFeat(n, SIZES[n], embedding_dim=8) for n in ("C1", "C2")]
        tags = inputs.SparseFeat("C3", SIZES["C3"], embedding_dim=8)
        columns = [*sparse, inputs.VarLenSparseFeat(tags, maxlen=3), inputs.DenseFeat("I1", 1)]
        made: nn.Module = foreign("deepctr_torch.models").DeepFM(
            columns, columns, dnn_hidden_units=(16,), l2_reg_embedding=1e-3, device="cpu"
        )
        return made

    def error(model: Any) -> Tensor:
        tags = torch.stack([_ids("C3"), _ids("C3") * 0, _ids("C3") // 2], dim=1)
        columns = [_ids("C1")[:, None], _ids("C2")[:, None], tags, LABELS[:, None] * 0.1]
        given = torch.cat([column.float() for column in columns], dim=1)
        return _bce(model(given))

    def penalty(model: Any) -> Tensor:
        found: Tensor = model.get_regularization_loss().sum()
        return found

    paths = ("embedding_dict", "linear_model/embedding_dict")
    sizes = {f"{path}/{n}": k for path in paths for n, k in SIZES.items()}
    return Foreign(make, error, sizes, penalty)


def _rechub() -> Foreign:
    """DSSM, two towers: the items that a user clicked read the table of the item."""
    features = foreign("torch_rechub.basic.features")

    def make() -> nn.Module:
        user = features.SparseFeature("C2", SIZES["C2"], embed_dim=8)
        item = features.SparseFeature("C1", SIZES["C1"], embed_dim=8)
        clicked = features.SequenceFeature(
            "clicked", SIZES["C1"], embed_dim=8, pooling="mean", shared_with="C1"
        )
        city = features.SparseFeature("C3", SIZES["C3"], embed_dim=8)
        made: nn.Module = foreign("torch_rechub.models.matching").DSSM(
            [user, clicked, city], [item], user_params={"dims": [8]}, item_params={"dims": [8]}
        )
        return made

    def error(model: Any) -> Tensor:
        given = {name: _ids(name) for name in SIZES}
        given["clicked"] = torch.stack([_ids("C1"), _ids("C1") // 2], dim=1)
        return _bce(model(given))

    return Foreign(make, error, {f"embedding/embed_dict/{n}": k for n, k in SIZES.items()})


def _fuxictr() -> Foreign:
    """A model made of FuxiCTR's base model and layers."""
    base: Any = foreign("fuxictr.pytorch.models").BaseModel
    layers = foreign("fuxictr.pytorch.layers")
    columns = foreign("fuxictr.features").FeatureMap("swap", ".")
    columns.labels = ["label"]
    for name, num_ids in SIZES.items():
        columns.features[name] = {"type": "categorical", "vocab_size": num_ids, "source": ""}

    class Deep(base):  # type: ignore[misc] # a class of theirs, known at run time
        def __init__(self) -> None:
            super().__init__(columns, metrics=["AUC"], model_root=".", verbose=0, gpu=-1)
            self.embedding_layer = layers.FeatureEmbedding(columns, 8)
            self.mlp = layers.MLP_Block(24, [16], output_dim=1, output_activation="Sigmoid")

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            vectors = self.embedding_layer(inputs, flatten_emb=True)
            predicted: Tensor = self.mlp(vectors)
            return predicted

    path = "embedding_layer/embedding_layer/embedding_layers"
    return Foreign(
        Deep,
        lambda model: _bce(model({name: _ids(name) for name in SIZES})),
        {f"{path}/{n}": k for n, k in SIZES.items()},
    )


class TwoTowers(nn.Module):
    """Two towers of this project's own making; the clicks and the item share a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(SIZES["C2"], 8)
        self.clicks = nn.EmbeddingBag(SIZES["C1"], 8, mode="mean", padding_idx=0)
        self.item = nn.Embedding(SIZES["C1"], 8, padding_idx=0)
        self.item.weight = self.clicks.weight
        self.user_tower, self.item_tower = nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, user: Tensor, clicks: Tensor, item: Tensor) -> Tensor:
        users = self.user_tower(torch.cat([self.user(user), self.clicks(clicks)], dim=1))
        return (users * self.item_tower(self.item(item))).sum(1).sigmoid()


def _two_towers() -> Foreign:
    def error(model: Any) -> Tensor:
        items = _ids("C1")
        return _bce(model(_ids("C2"), torch.stack([items // 2, items * 0], dim=1), items))

    return Foreign(TwoTowers, error, {"user": SIZES["C2"], "clicks": SIZES["C1"]})


FOREIGN: dict[str, Callable[[], Foreign]] = {
    "torchrec_dlrm": lambda: _torchrec(DLRM),
    "torchrec_dlrm_dcn": lambda: _torchrec(DLRM_DCN, dcn_num_layers=2, dcn_low_rank_dim=4),
    "deepctr_torch": _deepctr,
    "torch_rechub": _rechub,
    "fuxictr": _fuxictr,
    "two_towers": _two_towers,
}
