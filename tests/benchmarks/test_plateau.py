"""Rates that are reduced where validation stands still, as BARS does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compactrec.benchmarks import train as train_module
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.metrics import Metrics
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.schedule import LearningRateSchedule
from compactrec.benchmarks.train import train
from tests.benchmarks.test_optimizers import batch, build, weights
from tests.benchmarks.test_train import FILES, interrupted, metrics, small, untimed

PLATEAU = {"plateau_factor": 0.1}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"data": "d", "out": "o", "method": "full", **changes})


def judged(values: list[Metrics], made: TrainConfig) -> list[tuple[bool, int, bool]]:
    """Of each validation: whether it is the best, reductions so far, whether the run stops."""
    history = History()
    found = []
    for value in values:
        best = history.add_evaluation(value, made)
        found.append((best, history.num_reductions, history.stopped))
    return found


def test_a_validation_must_be_better_by_the_delta_for_rates_and_for_patience() -> None:
    aucs = [metrics(auc) for auc in (0.6, 0.6 + 5e-7, 0.62, 0.62 + 2e-6, 0.61, 0.6)]
    assert judged(aucs, config(schedule=PLATEAU, patience=2)) == [
        (True, 0, False), (False, 1, False), (True, 1, False), (True, 1, False),
        (False, 2, False), (False, 3, True),
    ]  # fmt: skip
    # Without a plateau's factor the smallest gain is one, and a tie is none.
    assert [best for best, _, _ in judged(aucs, config(patience=2))] == [True] * 4 + [False] * 2
    ties = judged([metrics(0.6)] * 3, config(patience=2))
    assert ties == [(True, 0, False), (False, 0, False), (False, 0, True)]
    wide = config(schedule={**PLATEAU, "plateau_min_delta": 0.5})
    assert [n for _, n, _ in judged(aucs, wide)] == [0, 1, 2, 3, 4, 5]


def test_the_log_loss_can_be_part_of_what_is_judged() -> None:
    values = [
        metrics(auc).model_copy(update={"logloss": loss})
        for auc, loss in ((0.7, 0.5), (0.71, 0.6), (0.69, 0.4))
    ]
    by_auc, by_both = (
        [best for best, _, _ in judged(values, config(monitor=name))]
        for name in ("auc", "auc_minus_logloss")
    )
    assert by_auc == [True, True, False]
    assert by_both == [True, False, True]


def test_a_rate_is_a_function_of_base_step_and_reductions() -> None:
    schedule = LearningRateSchedule(warmup_steps=4, plateau_factor=0.1)
    found = [schedule.rate(0.01, step, n) for step, n in ((2, 0), (2, 1), (9, 0), (9, 2))]
    assert found == pytest.approx([0.005, 0.0005, 0.01, 0.0001])
    assert schedule.rate(0.01, 9, 40) == 1e-6  # the floor
    assert schedule.rate(1e-8, 9, 2) == 1e-8  # which raises nothing
    assert LearningRateSchedule(warmup_steps=4).rate(0.01, 9, 2) == 0.01
    with pytest.raises(ValueError, match=r"plateau_min_delta 0\.01 does nothing without platea"):
        LearningRateSchedule(plateau_min_delta=0.01)


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_dense_weights_and_tables_are_reduced_alike(engine: str) -> None:
    sgd: dict[str, Any] = {"table_optimizer": "sgd", "dense_optimizer": "sgd"}
    reduced, optimizers = build(engine, schedule=PLATEAU, **sgd)
    slow, slow_optimizers = build(
        engine, dense_learning_rate=0.1 * 0.1**2, table_learning_rate=0.1 * 0.1**2, **sgd
    )
    start = weights(reduced)
    for model, mine, reductions in ((reduced, optimizers, 2), (slow, slow_optimizers, 0)):
        mine.set_rates(1, reductions)
        data = batch(1)
        mine.zero_grad()
        model(data.dense, data.kjt()).sum().backward()
        mine.step()
    end = weights(slow)
    for key, tensor in weights(reduced).items():
        torch.testing.assert_close(tensor, end[key], rtol=0, atol=1e-6)
        assert (tensor - start[key]).abs().max() > 1e-5, key


def test_a_resumed_run_has_the_reductions_of_the_whole_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[int, int]] = []
    real = Optimizers.set_rates

    def spying(self: Optimizers, step: int, num_reductions: int = 0) -> None:
        rates.append((step, num_reductions))
        real(self, step, num_reductions)

    monkeypatch.setattr(Optimizers, "set_rates", spying)
    schedule = {"plateau_factor": 0.5, "plateau_min_delta": 0.9}  # no validation is better so
    changes = {"schedule": schedule, "epochs": 1, "patience": 3}
    whole = train(small(data, tmp_path / "whole", **changes))
    assert rates == [(s, (s > 9) + (s > 14)) for s in range(1, 19)]  # validated at 5, 9, 14, 18
    assert (whole.num_steps, whole.best_step) == (18, 5)
    assert whole.config["schedule"]["plateau_factor"] == 0.5
    config = small(data, tmp_path / "run", checkpoint_every_steps=11, **changes)
    interrupted(config, 13, monkeypatch)
    rates.clear()
    assert untimed(train(config)) == untimed(whole)
    assert rates == [(s, 1 + (s > 14)) for s in range(12, 19)]
    for file in FILES - {"result.json"}:
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert train_module.Result.load(tmp_path / "run").config == whole.config
