"""A run that a signal ends saves its last step, says so, and goes on to the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compactrec.benchmarks.interrupt import noted_signals
from compactrec.benchmarks.processes import Processes
from compactrec.benchmarks.result import MODEL_NAME, Result
from tests.benchmarks.folder import write_folder
from tests.ports import free_port
from tests.run_code import command, run_code, run_ranks

TOML = """
batch_size = 64
eval_batch_size = 500
epochs = 2
model_options = {bottom = [16], top = [16, 1]}
dense_optimizer = "adam"
num_threads = 1
"""
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the settings of a run."""
    made = write_folder(tmp_path_factory.mktemp("data"))
    (made / "run.toml").write_text(TOML)
    return made


def _words(folder: Path, out: Path, engine: str) -> list[str]:
    words = ["train", "--data", str(folder), "--out", str(out), "--method", "full"]
    return [*words, "--config", str(folder / "run.toml"), "--engine", engine]


def run_alone(folder: Path, out: Path, signalled: str = "") -> tuple[int | None, str]:
    """The command's exit code and what it shows; ``signalled`` holds signal, step and rank."""
    code = (
        f"import os, sys\nos.environ['SIGNALLED'] = {signalled!r}\n"
        f"sys.argv[1:] = {_words(folder, out, 'fused')!r}\n"
        f"from tests.benchmarks.signalled_train import run\nsys.exit(run())"
    )
    status, shown, errors = run_code(code, folder, 240)
    return status, shown + errors


def run_both(folder: Path, out: Path) -> None:
    """The command in two processes, to its end."""
    ended = run_ranks(command(_words(folder, out, "sharded")), folder, 240)
    assert [status for status, _, _ in ended] == [0, 0], ended


def torchrun(folder: Path, out: Path, signalled: str) -> "subprocess.CompletedProcess[str]":
    """The command in two processes, where one gets a signal."""
    words = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-port", str(free_port()), "-m", "tests.benchmarks.signalled_train"]
    return subprocess.run(
        words + _words(folder, out, "sharded"), capture_output=True, text=True, timeout=240,
        check=False, env=os.environ | {"PYTHONPATH": "src", "SIGNALLED": signalled},
    )  # fmt: skip


def assert_same_model(one: Path, other: Path) -> None:
    """The selected weights of two runs, to the last bit; the second was taken up again."""
    first, second = load_file(one / MODEL_NAME), load_file(other / MODEL_NAME)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert Result.load(other).total_seconds is None


@pytest.mark.slow
def test_a_run_that_a_signal_ends_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    assert run_alone(folder, tmp_path / "whole")[0] == 0
    steps = ((signal.SIGINT, 13), (signal.SIGTERM, 18), (signal.SIGINT, 29))
    for number, step in steps:  # 18 is the last one of an epoch
        status, errors = run_alone(folder, tmp_path / "on", f"{int(number)} {step} 0")
        assert status == 128 + number, errors
        assert (
            f"stopped by {number.name} after step {step}, which is saved in "
            f"{tmp_path / 'on' / 'checkpoint'}; the same command goes on from there"
        ) in errors
        assert "Traceback" not in errors
    status, shown = run_alone(folder, tmp_path / "on")
    assert status == 0, shown
    assert f"goes on from step 29, in {tmp_path / 'on' / 'checkpoint'}\n" in shown
    assert_same_model(tmp_path / "whole", tmp_path / "on")


@pytest.mark.slow
@pytest.mark.dist
def test_all_processes_end_when_one_gets_the_signal(folder: Path, tmp_path: Path) -> None:
    run_both(folder, tmp_path / "whole")
    ended = torchrun(folder, tmp_path / "on", f"{int(signal.SIGTERM)} 13 1")
    assert ended.returncode != 0
    assert ended.stderr.count("stopped by SIGTERM after step 16, which is saved in") == 1
    assert "exitcode  : 143" in ended.stderr
    run_both(folder, tmp_path / "on")
    assert_same_model(tmp_path / "whole", tmp_path / "on")


ENDED = """
import multiprocessing, os, signal, time
from compactrec.benchmarks.runs import run_all

class Shown:
    def running(self, names):
        if len(names) == 2:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

dict(run_all({"a": 300.0, "b": 300.0}, time.sleep, 2, Shown(), lambda config: None))
"""


def test_sigterm_ends_runs_that_have_processes_of_their_own(tmp_path: Path) -> None:
    status, shown, errors = run_code(ENDED, tmp_path, 120)
    assert status == 128 + signal.SIGTERM, errors
    children = [Path("/proc") / pid for pid in shown.split()]
    assert len(children) == 2
    end = time.monotonic() + 20
    while any(child.exists() for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(child.exists() for child in children)


@SIGNALS
def test_a_signal_is_noted_once_and_handlers_come_back(number: signal.Signals) -> None:
    def own(number: int, frame: object) -> None:
        raise KeyError(number)

    old = signal.signal(number, own)
    try:
        with noted_signals(True) as interrupt:
            signal.raise_signal(number)
            assert interrupt.agreed(Processes()) == number
            with pytest.raises(KeyError):
                signal.raise_signal(number)
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, old)


@SIGNALS
def test_under_torchrun_a_repeated_signal_is_one(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    old = signal.signal(number, signal.SIG_DFL)  # a job in the background has SIGINT ignored
    try:
        with noted_signals(True) as interrupt:
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert interrupt.agreed(Processes()) == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, old)


@SIGNALS
def test_what_is_ignored_or_not_wanted_stays_as_it_is(number: signal.Signals) -> None:
    old = signal.signal(number, signal.SIG_IGN)
    try:
        with noted_signals(True) as interrupt:
            signal.raise_signal(number)
            assert interrupt.agreed(Processes()) == 0
        signal.signal(number, old)
        with noted_signals(False):
            assert signal.getsignal(number) is old
    finally:
        signal.signal(number, old)
