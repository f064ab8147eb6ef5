"""Curves for TensorBoard: what is in them, and that a run does not depend on them."""

import importlib.util
import sys
from pathlib import Path

import pytest

from compactrec.benchmarks.board import Board
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.train import train
from tests.benchmarks.test_train import FILES, metrics, small

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is an extra of its own"
)


def config(out: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": "d", "out": out, "method": "full", **changes})


def run(board: Board, history: History, num_steps: int) -> None:
    """So many steps, whose loss is their number; one validation at the end."""
    for _ in range(num_steps):
        history.count(float(history.step + 1), 10)
        board.stepped(float(history.step))
    history.add_evaluation(metrics(0.75), config(Path()))
    board.validated()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@needs_tensorboard
def test_loss_rates_and_validations_are_written_and_a_resumed_run_takes_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = config(
        tmp_path, tensorboard=True, dense_learning_rate=0.5, table_learning_rate=0.25,
        schedule={"plateau_factor": 0.5},
    )  # fmt: skip
    history = History()
    with Board(made, history, is_writer=True) as board:
        run(board, history, 45)
    resumed = History(step=25, num_reductions=1)
    with Board(made, resumed, is_writer=True) as board:
        run(board, resumed, 35)
    found = curves(tmp_path / "tensorboard")
    assert found["train/loss"] == [(20, 10.5), (40, 33.0), (60, 50.5)]
    assert found["rate/dense"] == [(20, 0.5), (40, 0.25), (60, 0.25)]
    assert found["rate/tables"] == [(20, 0.25), (40, 0.125), (60, 0.125)]
    assert found["validation/auc"] == [(60, 0.75)]
    assert "validation/logloss" in found
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@needs_tensorboard
def test_a_run_is_the_same_with_curves(data: Path, tmp_path: Path) -> None:
    result = train(small(data, tmp_path / "run", epochs=1, tensorboard=True))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*FILES, "tensorboard"}
    auc = curves(tmp_path / "run" / "tensorboard")["validation/auc"]
    assert [step for step, _ in auc] == [e.step for e in result.history]
    assert [value for _, value in auc] == pytest.approx([e.validation.auc for e in result.history])
    assert result.config == small(data, tmp_path / "other", epochs=1).resolved()


def test_only_one_process_writes_and_only_where_asked(tmp_path: Path) -> None:
    for asked, first in ((True, False), (False, True)):
        history = History()
        with Board(config(tmp_path, tensorboard=asked), history, is_writer=first) as board:
            run(board, history, 20)
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"not installed: in .* \"pip install '\.\[tensorboard\]'"):
        Board(config(tmp_path, tensorboard=True), History(), is_writer=True)
