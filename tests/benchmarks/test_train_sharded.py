"""The training script on two processes gives what it gives on one; errors end all, in one voice."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.pipeline import InputPipeline
from compactrec.benchmarks.result import MODEL_NAME, PLAN_NAME, PREDICTIONS_NAME, Result
from compactrec.benchmarks.sharded_loop import loss_of_part
from compactrec.benchmarks.train import train
from compactrec.data.batch import KjtBatch
from compactrec.embeddings.rewrite import Rewrite
from tests.benchmarks.folder import ROWS, write_folder
from tests.cases import SOME
from tests.ports import free_port
from tests.run_code import command, run_ranks

# Adam divides rounding by rounding where a gradient is nearly 0: SGD and a large eps compare.
SETTINGS: dict[str, Any] = {
    "method": SOME, "budget_bytes": 3_000, "threshold": 10, 
    "model_options": {"bottom": (16,), "top": (16, 1)},
    "batch_size": 128, "eval_batch_size": 500, "epochs": 2, "evals_per_epoch": 2, "quiet": True,
    "dense_optimizer": "sgd", "dense_learning_rate": 0.05, "table_eps": 1e-3,
    "embedding_decay": 1e-3, "num_threads": 1,
    "schedule": {"warmup_steps": 8, "decay_start_step": 10, "num_decay_steps": 20},
}  # fmt: skip
TOML = """
batch_size = 128
eval_batch_size = 500
epochs = 2
evals_per_epoch = 2
model_options = {bottom = [16], top = [16, 1]}
threshold = 10
dense_optimizer = "sgd"
dense_learning_rate = 0.05
table_eps = 1e-3
embedding_decay = 1e-3
num_threads = 1
checkpoint_every_steps = 5
pipeline = true
[schedule]
warmup_steps = 8
decay_start_step = 10
num_decay_steps = 20
[sharding.tables]
"t_C1__.*" = "row_wise"
"t_C2__.*" = "data_parallel"
"t_C3__.*" = "table_wise"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unsharded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the others are compared with."""
    out = tmp_path_factory.mktemp("unsharded")
    train(config_of(folder, out))
    return out


def config_of(folder: Path, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({**SETTINGS, "data": folder, "out": out, **changes})


def torchrun(
    folder: Path, out: Path, toml: str, *words: str, module: str = "compactrec"
) -> "subprocess.CompletedProcess[str]":
    """The command in two processes."""
    launch = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", module,
    ]  # fmt: skip
    return subprocess.run(
        launch + _words(folder, out, toml, *words), capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": "src"},
    )  # fmt: skip


def go_on(folder: Path, out: Path, toml: str, *words: str, size: int) -> None:
    """The command in so many processes, two of which saved, to its end. It says from where it goes
    on, and counts no samples of theirs where there are other ones."""
    saved = json.loads((out / "checkpoint" / "checkpoint.json").read_text())["step"]
    code = command(_words(folder, out, toml, *words))
    ended = run_ranks(code, folder, 240, size)
    assert [status for status, _, _ in ended] == [0] * size, ended
    moved = "" if size == 2 else ", which 2 processes saved and 1 take up"
    text = f"goes on from step {saved}, in {out / 'checkpoint'}{moved}\n"
    assert [text in shown for _, shown, _ in ended] == [True] + [False] * (size - 1), ended
    result = Result.load(out)
    assert result.total_seconds is None
    assert result.num_processes == size
    before = 0 if size == 2 else ROWS["train"] + 128  # in ten steps
    counted = result.samples_per_second * result.train_seconds
    assert (saved, counted) == (10, pytest.approx(2 * ROWS["train"] - before))


def _words(folder: Path, out: Path, toml: str, *words: str) -> list[str]:
    config = out.with_suffix(".toml")
    config.write_text(toml)
    given = ["--data", folder, "--out", out, "--config", config, "--engine", "sharded", *words]
    return ["train", *map(str, given)]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses, metrics, predictions and selected weights are equal to rounding."""
    first, second = Result.load(one), Result.load(other)
    assert first.best_step == second.best_step
    assert first.num_steps == second.num_steps
    for ours, theirs in zip(first.history, second.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)
        assert ours.validation.logloss == pytest.approx(theirs.validation.logloss, abs=1e-5)
    for name in (MODEL_NAME, PREDICTIONS_NAME):
        expected = load_file(one / name)
        found = load_file(other / name)
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("cuts", [(3, 2), (1, 1, 3), (5,)], ids=str)
def test_the_mean_over_processes_is_the_loss_of_the_batch(cuts: tuple[int, ...]) -> None:
    """Parts are unequal where processes do not divide the examples."""
    logits, labels = torch.linspace(-2, 3, 5), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    penalties = torch.tensor([4.0, 1.0, 9.0, 25.0, 16.0])  # of each example
    losses, shown = [], []
    rows = zip(logits.split(cuts), labels.split(cuts), penalties.split(cuts), strict=True)
    for part, of_part, penalty in rows:
        kjt = KeyedJaggedTensor(["a"], torch.arange(len(part)), lengths=torch.ones(len(part)).int())
        batch = KjtBatch(torch.zeros(len(part), 2), kjt, of_part, num_rows=5)
        loss, entropy = loss_of_part(part, batch, penalty.mean(), len(cuts))
        losses.append(loss)
        shown.append(entropy)
    expected = binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(torch.stack(shown).mean(), expected)
    torch.testing.assert_close(torch.stack(losses).mean(), expected + penalties.mean())


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_train_what_one_does_and_go_on_after_a_kill(
    folder: Path, tmp_path: Path, unsharded: Path
) -> None:
    words = ("--plan", str(unsharded / PLAN_NAME), "--threads", "1")
    in_background = "checkpoint_asynchronous = true\n" + TOML
    done = torchrun(folder, tmp_path / "two", in_background, *words)
    assert done.returncode == 0, done.stderr
    assert_same_run(unsharded, tmp_path / "two")
    assert done.stdout.count("serving bytes") == 1  # one process shows the result
    assert "Warning" not in done.stderr, done.stderr  # torch's, of what only torchrec can change

    killed = torchrun(folder, tmp_path / "on", TOML, *words, module="tests.benchmarks.dying_train")
    assert killed.returncode != 0
    assert "-SIGKILL" in killed.stderr or "Signal 9" in killed.stderr, killed.stderr
    shutil.copytree(tmp_path / "on", tmp_path / "alone")
    assert (tmp_path / "on" / "checkpoint" / "checkpoint.json").is_file()
    go_on(folder, tmp_path / "on", TOML, *words, size=2)
    first, second = (
        load_file(tmp_path / "two" / MODEL_NAME),
        load_file(tmp_path / "on" / MODEL_NAME),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)  # to the last bit
    go_on(folder, tmp_path / "alone", TOML, *words, size=1)
    assert_same_run(unsharded, tmp_path / "alone")


def test_ids_are_rewritten_in_the_thread_of_the_loader(
    folder: Path, tmp_path: Path, unsharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process without torchrun; the model itself rewrites where it only predicts."""
    seen: list[tuple[str, bool]] = []
    forward = Rewrite.forward

    def watched(rewrite: Rewrite, *given: Any, **options: Any) -> Any:
        seen.append((threading.current_thread().name, rewrite.training))
        return forward(rewrite, *given, **options)

    monkeypatch.setattr(Rewrite, "forward", watched)
    train(config_of(folder, tmp_path, engine="sharded", rewrite_in_loader=True))
    assert_same_run(unsharded, tmp_path)
    assert not torch.distributed.is_initialized()
    in_loader = [name for name, _ in seen if name.startswith("compactrec-ahead")]
    assert len(in_loader) == Result.load(tmp_path).num_steps
    here = {is_training for name, is_training in seen if name not in in_loader}
    assert here == {False}, "a step rewrote ids by itself"


def test_the_pipeline_takes_tables_and_rewrite_ahead(
    folder: Path, tmp_path: Path, unsharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelined: list[int] = []
    step = InputPipeline.step

    def watched(pipeline: InputPipeline, batches: Any) -> Tensor | None:
        shown = step(pipeline, batches)
        pipelined.append(pipeline.num_pipelined)
        return shown

    monkeypatch.setattr(InputPipeline, "step", watched)
    train(config_of(folder, tmp_path, engine="sharded", pipeline=True))
    assert_same_run(unsharded, tmp_path)
    assert pipelined == [2] * Result.load(tmp_path).num_steps


@pytest.mark.slow
@pytest.mark.dist
def test_an_error_of_all_processes_is_said_once(folder: Path, tmp_path: Path) -> None:
    toml = TOML.replace("t_C1__.*", "t_no")
    done = torchrun(folder, tmp_path / "run", toml, "--method", "full")
    assert done.returncode != 0
    text = "sharding: ['t_no'] match no table"
    assert done.stderr.count(text) == 1, done.stderr
    assert "Traceback" not in done.stderr.split("ChildFailedError")[0].split(text)[0]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"table_decay": 0.1}, "engine 'sharded' has no weight decay of tables, got 0.1"),
        ({"table_optimizer": "adam"}, "engine 'sharded' has no 'adam'"),
        ({"pipeline": True, "rewrite_in_loader": True}, "leave one of them out"),
        ({"engine": "fused", "pipeline": True}, "pipeline is for engine 'sharded'"),
        ({"sharding": {"tables": {"(": "row_wise"}}}, "'\\(' is not a regular expression"),
        ({"sharding": {"default": {"kind": "row_wise", "place": 1}}}, "kind is 'row_wise'"),
        (
            {"sharding": {"default": {"kind": "table_wise", "cache_load_factor": 0.5}}},
            "cache_load_factor 0.5 is for kernel 'fused_uvm_caching'",
        ),
    ],
)
def test_settings_that_do_not_go_together(
    folder: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        config_of(folder, tmp_path / "run", **{"engine": "sharded", **changes})


def test_torchrun_needs_the_sharded_engine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes, but engine 'fused' is for"):
        train(config_of(folder, tmp_path / "run"))


def test_where_things_are_does_not_name_a_run(folder: Path, tmp_path: Path) -> None:
    plain = config_of(folder, tmp_path, engine="sharded").resolved()
    other = config_of(folder, tmp_path, engine="sharded", pipeline=True).resolved()
    assert plain == other
