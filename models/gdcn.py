"""GDCN: crosses behind a gate.

Wang et al., "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", CIKM
2023, arXiv 2311.04635. ``x_{l+1} = x0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l``, ``L (2 N^2 +
N)`` parameters at width N.

* stacked: ``logit = MLP(x_L)``; parallel: ``logit = w . [x_L; MLP(x0)] + b``.

Widths may differ.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.crosses import GatedCross
from compactrec.models.inputs import FlatFields, Outputs
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, Widths, affine, tower

__all__ = ["GDCN", "GDCNConfig"]


class GDCNConfig(TowerConfig):
    """Hyper-parameters."""

    hidden: Widths = Field(default=(400, 400, 400), min_length=1)
    structure: Literal["parallel", "stacked"] = "parallel"
    cross_layers: int = Field(default=3, ge=1)


class GDCN(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: GDCNConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or GDCNConfig()
        self.embeddings = embeddings
        self.fields = FlatFields(Outputs(embeddings, "gdcn"), num_dense)
        width, last = self.fields.width, config.hidden[-1]
        self.parallel = config.structure == "parallel"
        self.cross = GatedCross(width, config.cross_layers, device=device)
        self.deep = tower(
            width, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm,
            device=device,
        )  # fmt: skip
        self.top = affine(width + last if self.parallel else last, 1, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        x0 = self.fields(dense, self.embeddings(features))
        crossed = self.cross(x0)
        if self.parallel:
            crossed = torch.cat((crossed, self.deep(x0)), dim=1)
        else:
            crossed = self.deep(crossed)
        logits: Tensor = self.top(crossed)
        return logits.squeeze(1)


register_model(
    Model(
        name="gdcn",
        config=GDCNConfig,
        module=GDCN,
        title="Gated Deep & Cross Network",
        paper="Wang et al., CIKM 2023, arXiv 2311.04635",
        formula="w . [x_L; MLP(x0)] + b,  x_{l+1} = x0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l",
        training=SMALL_START,
    )
)
