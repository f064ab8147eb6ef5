"""MaskNet: blocks whose input is multiplied by a mask made of the whole example.

Wang, She, Zhang, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by
Instance-Guided Mask", DLP-KDD 2021, arXiv 2102.07619. A block is ``out = relu(LN(W (M(x0) *
V)))``, ``M(x0) = W_2 relu(W_1 x0 + b_1) + b_2``, the inner width ``ratio * dim(V)``.

* parallel: every block has ``V = LN(v_f) for every f``; ``logit = MLP([out_1; ...; out_n])``;
* serial: each block has the output of the one before as V; ``logit = w . out_n + b``.

Dense column ``j`` is a field with the vector ``x_j w_j``. Widths may differ; ``w_j`` has the
widest.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.inputs import Outputs, SideBySideFields
from compactrec.models.masks import MaskBlock
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, Widths, affine, tower

__all__ = ["MaskNet", "MaskNetConfig"]


class MaskNetConfig(TowerConfig):
    """Hyper-parameters; ``hidden`` and ``batch_norm`` are of the parallel kind's tower."""

    kind: Literal["parallel", "serial"] = "parallel"
    blocks: Widths = Field(default=(500, 500), min_length=1)
    """Output width of each block."""
    ratio: float = Field(default=0.1, gt=0)
    """Inner width of a mask beside the width of what it multiplies."""
    embedding_norm: bool = False
    """Layer norm of each field's vector, whose width must be 2 or more."""
    block_norm: bool = False
    """Layer norm within the blocks, before ReLU."""


class MaskNet(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: MaskNetConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or MaskNetConfig()
        self.embeddings = embeddings
        outputs = Outputs(embeddings, "masknet")
        self.fields = SideBySideFields(outputs, num_dense, device)
        width, normed = self.fields.width, self.fields.widths if config.embedding_norm else []
        if 1 in normed:
            narrow = [key for key, dim in outputs.widths.items() if dim == 1]
            raise ValueError(
                f"masknet: embedding_norm makes a vector of width 1 zero, and {narrow} have width "
                f"1; give them a dim of 2 or more, or leave embedding_norm off"
            )
        self.norms = nn.ModuleList(nn.LayerNorm(dim, device=device) for dim in normed)
        self.serial = config.kind == "serial"
        inputs = (width, *config.blocks[:-1]) if self.serial else [width] * len(config.blocks)
        self.blocks = nn.ModuleList(
            MaskBlock(
                width, num_inputs, num_outputs, max(1, int(config.ratio * num_inputs)),
                dropout=config.dropout, norm=config.block_norm, device=device,
            )
            for num_inputs, num_outputs in zip(inputs, config.blocks, strict=True)
        )  # fmt: skip
        self.top: nn.Module = affine(config.blocks[-1], 1, device=device)
        if not self.serial:
            self.top = tower(
                sum(config.blocks), config.hidden, 1, dropout=config.dropout,
                batch_norm=config.batch_norm, device=device,
            )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        x0 = self.fields(dense, self.embeddings(features))
        hidden = x0
        if len(self.norms):
            vectors = x0.split(self.fields.widths, dim=1)
            each = [norm(vectors[f]) for f, norm in enumerate(self.norms)]
            hidden = torch.cat(each, dim=1)
        if self.serial:
            for block in self.blocks:
                hidden = block(x0, hidden)
        else:
            hidden = torch.cat([block(x0, hidden) for block in self.blocks], dim=1)
        logits: Tensor = self.top(hidden)
        return logits.squeeze(1)


register_model(
    Model(
        name="masknet",
        config=MaskNetConfig,
        module=MaskNet,
        title="MaskNet",
        paper="Wang et al., DLP-KDD 2021, arXiv 2102.07619",
        formula="MLP([out_1; ...; out_n]),  out = relu(LN(W (M(x0) * V)))",
        training=SMALL_START,
    )
)
