"""A snapshot of other optimizers is refused by name, and what was there stays."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compactrec.embeddings import CheckpointError
from tests.benchmarks.snapshots import put_back, save
from tests.benchmarks.test_optimizers import build, step


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        (
            {"engine": "fused"},
            {"engine": "fused", "table_optimizer": "rowwise_adagrad"},
            r"t_C1__id\.weight is updated by adagrad there and rowwise_adagrad here",
        ),
        (
            {"engine": "eager", "dense_optimizer": "adam"},
            {"engine": "eager", "dense_optimizer": "adagrad"},
            r"\.weight is updated by Adam there and Adagrad here",
        ),
    ],
)
def test_another_optimizer_is_refused_by_name(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], text: str
) -> None:
    torch.manual_seed(0)
    model, optimizers = build(**there)
    step(model, optimizers, 1)
    save(tmp_path / "c", model, optimizers)
    other, other_optimizers = build(**here)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"is of another optimizer: .*{text}"):
        put_back(tmp_path / "c", other, other_optimizers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    same, same_optimizers = build(**there)
    put_back(tmp_path / "c", same, same_optimizers)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in same.state_dict().items())
