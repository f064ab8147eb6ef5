"""DCN-V2: crosses with a matrix, of full or of low rank, or a mixture of low-rank experts.

Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons", WWW 2021, arXiv
2008.13535. With ``x0`` the dense values and vectors side by side, N its width and ``*`` by
element:

* full: ``x_{l+1} = x0 * (W_l x_l + b_l) + x_l``, ``L (N^2 + N)`` parameters;
* low_rank: ``W_l = U_l V_l`` with rank r, ``L (2 N r + N)``;
* mixture: ``x_{l+1} = sum_e g_e(x_l) (x0 * (U_e tanh(C_e tanh(V_e x_l)) + b_l)) + x_l``, ``g`` a
  softmax over K experts with gates that all layers share, ``L (K (2 N r + r^2) + N) + K N``.

The cross parts are torchrec's. Widths may differ.
"""

from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.crosses import crosses
from compactrec.models.inputs import FlatFields, Outputs
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, affine, tower

__all__ = ["DCNv2", "DCNv2Config"]


class DCNv2Config(TowerConfig):
    """Hyper-parameters."""

    structure: Literal["parallel", "stacked", "stacked_parallel", "crossnet_only"] = "parallel"
    """What the last layer sees: ``[x_L; MLP(x0)]``, ``MLP(x_L)``, ``[MLP(x_L); MLP'(x0)]`` or
    ``x_L``."""
    kind: Literal["full", "low_rank", "mixture"] = "full"
    cross_layers: int = Field(default=3, ge=1)
    rank: int = Field(default=32, ge=1)
    """Of ``low_rank`` and ``mixture``."""
    num_experts: int = Field(default=4, ge=1)
    """Of ``mixture``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.hidden and self.structure != "crossnet_only":
            raise ValueError(
                f"structure {self.structure!r} needs hidden layers; give 'hidden', or structure "
                f"'crossnet_only'"
            )
        return self


class DCNv2(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: DCNv2Config | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or DCNv2Config()
        self.embeddings = embeddings
        self.fields = FlatFields(Outputs(embeddings, "dcnv2"), num_dense)
        width = self.fields.width
        self.cross = crosses(
            config.kind, width, config.cross_layers, config.rank, config.num_experts, device=device
        )
        deep = partial(
            tower, width, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm,
            device=device,
        )  # fmt: skip
        self.stacked = deep() if config.structure.startswith("stacked") else None
        self.parallel = deep() if config.structure.endswith("parallel") else None
        self.keeps_cross = self.stacked is None
        towers = (self.stacked is not None) + (self.parallel is not None)
        inputs = width * self.keeps_cross + (config.hidden[-1] * towers if towers else 0)
        self.top = affine(inputs, 1, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        x0 = self.fields(dense, self.embeddings(features))
        crossed = self.cross(x0)
        parts = [crossed] if self.keeps_cross else []
        if self.stacked is not None:
            parts.append(self.stacked(crossed))
        if self.parallel is not None:
            parts.append(self.parallel(x0))
        logits: Tensor = self.top(torch.cat(parts, dim=1))
        return logits.squeeze(1)


register_model(
    Model(
        name="dcnv2",
        config=DCNv2Config,
        module=DCNv2,
        title="DCN-V2",
        paper="Wang et al., WWW 2021, arXiv 2008.13535",
        formula="w . [x_L; MLP(x0)] + b,  x_{l+1} = x0 * (W_l x_l + b_l) + x_l",
        training=SMALL_START,
    )
)
