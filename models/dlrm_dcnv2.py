"""DLRM-DCNv2, the model of MLPerf: a bottom perceptron, low-rank crosses, a top perceptron.

mlcommons/training, recommendation_v2; torchrec's ``DLRM_DCN``. ``x0 = [bottom(dense); v_1; ...;
v_F]``, ``x_{l+1} = x0 * (W_l (V_l x_l) + b_l) + x_l``, ``logit = top(x_L)``. The defaults are
MLPerf's but for the rank, which is 512 there at a width of 3456. A table without dense columns
has ``x0`` of the vectors. Widths may differ; ``bottom(dense)`` has the widest, D.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.blocks import perceptron
from compactrec.models.crosses import crosses
from compactrec.models.inputs import Outputs, check_dense, check_num_dense, flat_by_key
from compactrec.models.registry import Model, ModelConfig, register_model
from compactrec.models.towers import Widths

__all__ = ["DLRMDCNv2", "DLRMDCNv2Config"]

torch.fx.wrap("flat_by_key")  # in this module too, for input pipelines that trace the model
torch.fx.wrap("check_dense")


class DLRMDCNv2Config(ModelConfig):
    """Hyper-parameters."""

    bottom: Widths = (512, 256)
    """Hidden widths of the bottom perceptron; a last layer of width D is added."""
    top: Widths = (1024, 1024, 512, 256)
    """Hidden widths of the top perceptron; a last layer of width 1 is added."""
    cross_layers: int = Field(default=3, ge=1)
    rank: int = Field(default=64, ge=1)


class DLRMDCNv2(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: DLRMDCNv2Config | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or DLRMDCNv2Config()
        outputs = Outputs(embeddings, "dlrm_dcnv2")
        dim = outputs.widest
        self.embeddings, self.keys = embeddings, outputs.keys
        self.num_dense = check_num_dense(num_dense)
        self.bottom: nn.Module | None = None
        if num_dense:
            self.bottom = perceptron(
                num_dense, (*config.bottom, dim), relu_at_end=True, device=device
            )
        width = sum(outputs.widths.values()) + (dim if self.bottom is not None else 0)
        self.cross = crosses("low_rank", width, config.cross_layers, config.rank, device=device)
        self.top = perceptron(width, (*config.top, 1), relu_at_end=False, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        x0 = flat_by_key(self.embeddings(features), self.keys)
        dense = check_dense(dense, self.num_dense)
        if self.bottom is not None:
            x0 = torch.cat((self.bottom(dense), x0), dim=1)
        logits: Tensor = self.top(self.cross(x0))
        return logits.squeeze(1)


register_model(
    Model(
        name="dlrm_dcnv2",
        config=DLRMDCNv2Config,
        module=DLRMDCNv2,
        title="DLRM with low-rank crosses (MLPerf)",
        paper="mlcommons/training recommendation_v2, after arXiv 1906.00091 and 2008.13535",
        formula="top(x_L),  x0 = [bottom(dense); v_1; ...; v_F]",
    )
)
