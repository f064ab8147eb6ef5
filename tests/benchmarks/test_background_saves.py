"""Checkpoints that training does not wait for: the same weights, and no failure goes unsaid."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from compactrec.benchmarks import train as train_module
from compactrec.benchmarks.interrupt import Interrupt
from compactrec.benchmarks.train import RunInterrupted, train
from compactrec.embeddings import checkpointing
from compactrec.embeddings.checkpointing import CheckpointError
from tests.benchmarks.folder import write_folder
from tests.benchmarks.test_train import interrupted, small, untimed

STEPS = 36


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """File and thread of everything that is written into checkpoints."""
    found: list[tuple[str, str]] = []
    write = checkpointing.write_tensors

    def watched(path: Path, tensors: Any) -> tuple[str, int]:
        found.append((path.name.split("-")[0], threading.current_thread().name))
        return write(path, tensors)

    monkeypatch.setattr(checkpointing, "write_tensors", watched)
    return found


def test_a_run_goes_on_from_a_save_in_the_background_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, str]]
) -> None:
    config = small(
        data, tmp_path / "run", checkpoint_every_steps=7, checkpoint_asynchronous=True,
        dense_optimizer="sgd",
    )  # fmt: skip
    interrupted(config, 30, monkeypatch)
    assert {thread for kind, thread in written if kind == "step"} == {"checkpoint"}
    assert [kind for kind, _ in written].count("step") == 4
    written.clear()
    result = train(config)
    assert [kind for kind, _ in written].count("step") == 1, "it went on from step 28"
    whole = small(data, tmp_path / "whole", dense_optimizer="sgd")
    assert untimed(result) == untimed(train(whole))
    first, second = ((c.out / "model.safetensors").read_bytes() for c in (config, whole))
    assert first == second


@pytest.mark.parametrize("every", [7, STEPS])
def test_a_save_in_the_background_that_fails_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """At the next save or validation; and before the test where it was the last one."""
    write = checkpointing.write_tensors

    def full_disk(path: Path, tensors: Any) -> tuple[str, int]:
        if path.name.startswith("step"):
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    monkeypatch.setattr(checkpointing, "write_tensors", full_disk)
    out = tmp_path / "run"
    config = small(data, out, checkpoint_every_steps=every, checkpoint_asynchronous=True)
    with pytest.raises(CheckpointError, match=r"could not be written \(.* No space left"):
        train(config)
    assert not (out / "test_predictions.safetensors").exists()


def test_what_a_signal_asks_for_is_on_disk_before_the_run_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, str]]
) -> None:
    asked = iter([0] * 9 + [signal.SIGTERM])
    monkeypatch.setattr(Interrupt, "agreed", lambda *_: next(asked))
    said: list[list[str]] = []

    def raised(number: int, step: int, folder: Path) -> RunInterrupted:
        said.append([thread for kind, thread in written if kind == "step"])
        return RunInterrupted(number, step, folder)

    monkeypatch.setattr(train_module, "RunInterrupted", raised)
    config = small(data, tmp_path / "run", checkpoint_every_steps=7, checkpoint_asynchronous=True)
    with pytest.raises(RunInterrupted, match="stopped by SIGTERM after step 10, which is saved"):
        train(config)
    assert said == [["checkpoint", threading.main_thread().name]]
