"""MLPerf's model against torchrec's with our weights."""

import copy
from typing import cast

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM_DCN
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from tests.models.support import BAGS, batch, build


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("bags", BAGS)
def test_logits_equal_torchrec_dlrm_dcn(bags: str) -> None:
    ours = build("dlrm_dcnv2", 3, seed=2)
    embeddings = cast(EmbeddingBagCollection, copy.deepcopy(ours.embeddings))
    theirs = DLRM_DCN(embeddings, 3, [6, 4], [7, 5, 1], dcn_num_layers=2, dcn_low_rank_dim=3)
    with torch.no_grad():
        for mine, other in (
            (ours.bottom, theirs.dense_arch), (ours.top, theirs.over_arch),
        ):  # fmt: skip
            for ours_one, theirs_one in zip(linears(mine), linears(other), strict=True):
                theirs_one.load_state_dict(ours_one.state_dict())
    theirs.inter_arch.crossnet.load_state_dict(ours.cross.state_dict())
    dense, kjt, _ = batch(6, 3, BAGS[bags])
    torch.testing.assert_close(ours(dense, kjt), theirs(dense, kjt).squeeze(1), atol=1e-5, rtol=0)
