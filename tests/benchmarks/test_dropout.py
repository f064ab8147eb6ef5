"""Models that compute otherwise in training than in prediction: dropout and batch norm."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.loop import predict
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.train import train
from compactrec.data.loader import BatchLoader
from compactrec.embeddings import Plan
from tests.benchmarks.folder import ROWS


def test_predictions_are_without_dropout_and_training_goes_on_with_it(
    data: Path, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate(
        {
            "data": data, "out": tmp_path / "run", "method": "full", "dim": 8, "model": "fnn",
            "hidden": [16], "dropout": 0.5, "batch_norm": True, "batch_size": 64, "quiet": True,
            "eval_batch_size": 100, "num_threads": 1, "dense_learning_rate": 0.005,
        }
    )  # fmt: skip
    result = train(config)
    assert len(result.history) == 4
    assert result.best_step > result.history[0].step
    state = load_file(str(config.out / "model.safetensors"))
    counts = [int(t) for key, t in state.items() if key.endswith("num_batches_tracked")]
    assert counts == [result.best_step]  # a batch of training each; no batch of a validation

    model, _ = build_model(config, Plan.load(config.out / "plan.json"), num_dense=2)
    model.load_state_dict(state)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    (batch,) = BatchLoader(data, "test", ROWS["test"], shuffle=False)
    with torch.no_grad():
        drawn = model(batch.dense, batch.kjt()).numpy()
        model.load_state_dict(before)
        expected = model.eval()(batch.dense, batch.kjt()).numpy()
    model.train()
    logits, _ = predict(model, BatchLoader(data, "test", 100, shuffle=False), "cpu")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(drawn - expected).max() > 0.1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    saved = load_file(str(config.out / "test_predictions.safetensors"))
    np.testing.assert_allclose(saved["logits"].numpy(), expected, rtol=1e-4, atol=1e-5)
