"""What a step is: several batches, and gradients cut to a norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.loop import grouped
from compactrec.benchmarks.train import train
from compactrec.data.loader import BatchLoader
from compactrec.models.dlrm import DLRM
from tests.benchmarks.folder import ROWS
from tests.benchmarks.test_optimizers import batch, build, step, weights
from tests.benchmarks.test_train import small


def test_a_model_that_gives_no_logit_per_example_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DLRM.forward
    monkeypatch.setattr(DLRM, "forward", lambda *given: real(*given).unsqueeze(1))
    message = r"model 'dlrm' gave logits of shape \(64, 1\) for 64 examples; .* give \(64,\)"
    with pytest.raises(ValueError, match=message):
        train(small(data, tmp_path / "run", epochs=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"table_optimizer": "adam", "table_learning_rate": 0.01, "embedding_decay": 0.1},
        {"table_optimizer": "adagrad", "table_decay": 0.01, "max_grad_norm": 0.05},
    ],
    ids=lambda changes: changes["table_optimizer"],
)
def test_small_batches_to_a_step_train_as_large_ones(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    eager = {"engine": "eager", "epochs": 1, **changes}
    large = train(small(data, tmp_path / "large", **eager))
    pieces = {"batch_size": 16, "accumulate_steps": 4, **eager}
    summed = train(small(data, tmp_path / "summed", **pieces))
    assert ROWS["train"] % 64 not in (0, 16, 32, 48)  # the last step and its last batch are short
    assert summed.num_steps == large.num_steps
    for ours, theirs in zip(summed.history, large.history, strict=True):
        assert ours.step == theirs.step
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.validation.logloss == pytest.approx(theirs.validation.logloss, rel=1e-4)


def test_the_loader_stands_behind_each_group(data: Path) -> None:
    loader = BatchLoader(data, "train", 100)
    assert len(loader) % 4
    groups = grouped(loader, 4)
    sizes = [len(next(groups))]
    state = loader.state_dict()
    assert state["next_batch"] == 4
    rest = [len(group) for group in groups]
    loader.load_state_dict(state)
    assert [len(group) for group in grouped(loader, 4)] == rest
    assert sum(sizes + rest) == len(loader)
    groups = grouped(loader, 4)
    last = [loader.state_dict() for _ in groups][-1]
    assert last["next_batch"] == len(loader)  # the epoch's end is the loop's to declare


def literal(model: nn.Module, decay: float, norm: float, num_steps: int) -> None:
    """As BARS trains: L2 of whole tables in the loss, one norm over all gradients, dense Adam."""
    optimizer = torch.optim.Adam(
        [
            {"params": [p for n, p in model.named_parameters() if "embedding_bags" not in n]},
            {"params": [p for n, p in model.named_parameters() if "embedding_bags" in n]},
        ],
        lr=0.1,
    )
    tables = optimizer.param_groups[1]["params"]
    for number in range(1, num_steps + 1):
        data = batch(number)
        loss = binary_cross_entropy_with_logits(model(data.dense, data.kjt()), data.labels)
        (loss + decay / 2 * sum(w.square().sum() for w in tables)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        optimizer.zero_grad()


def test_clipping_is_that_of_one_norm_over_dense_and_tables() -> None:
    changes: dict[str, Any] = {
        "table_optimizer": "adam", "decay_mode": "dense_coupled", "table_decay": 0.3,
    }  # fmt: skip
    ours, optimizers = build("eager", max_grad_norm=0.2, **changes)
    theirs, _ = build("eager", **changes)
    loose, loose_optimizers = build("eager", **changes)
    assert all(torch.equal(t, weights(theirs)[k]) for k, t in weights(ours).items())
    for number in range(1, 6):
        step(ours, optimizers, number)
        step(loose, loose_optimizers, number)
    literal(theirs, decay=0.3, norm=0.2, num_steps=5)
    end, unclipped = weights(theirs), weights(loose)
    for key, tensor in weights(ours).items():
        torch.testing.assert_close(tensor, end[key], rtol=1e-4, atol=1e-5, msg=key)
    assert any((weights(ours)[k] - t).abs().max() > 0.01 for k, t in unclipped.items())


@pytest.mark.parametrize("engine", ["fused", "sharded"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_grad_norm": 10}, r"max_grad_norm needs the gradients of all weights .* leave max_g"),
        ({"accumulate_steps": 4}, r"accumulate_steps 4 needs .*; use engine 'eager', or a batch"),
    ],
)
def test_engines_that_update_within_backward_refuse(
    engine: str, changes: dict[str, Any], message: str
) -> None:
    values = {"data": Path(), "out": Path(), "method": "full", "engine": engine, **changes}
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate(values)
