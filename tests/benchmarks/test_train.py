"""The training loop: what it selects, when it stops, what it reads, and that it can be resumed."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from compactrec.benchmarks import train as train_module
from compactrec.benchmarks.choices import changed
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.environment import (
    describe_environment,
    peak_rss_bytes,
    reset_peak_rss,
)
from compactrec.benchmarks.history import History
from compactrec.benchmarks.metrics import Metrics, evaluate
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.train import TrainingCollapsed, TrainingDiverged, train
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest, Split
from compactrec.embeddings import Plan, full_plan, make_plan
from compactrec.embeddings.checkpointing import CheckpointError
from compactrec.locks import locked
from tests.benchmarks.folder import ROWS, write_folder
from tests.cases import SOME

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH = -(-ROWS["train"] // 64)
FILES = {"model.safetensors", "plan.json", "result.json", "test_predictions.safetensors"}
TIMED = (
    "samples_per_second", "train_seconds", "total_seconds", "peak_rss_bytes", "environment",
)  # fmt: skip


def small(data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": data, "out": out, "method": "full", "dim": 8, "bottom": (16,), "top": (16, 1),
        "batch_size": 64, "epochs": 2, "eval_batch_size": 256, "num_threads": 1, "quiet": True,
        "dense_learning_rate": 0.005, "table_learning_rate": 0.1,
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


def untimed(result: Result) -> dict[str, Any]:
    return result.model_dump(exclude=set(TIMED))


def metrics(auc: float) -> Metrics:
    return evaluate([0.0, 1.0], [0, 1]).model_copy(update={"auc": auc})


class Spy(BatchLoader):
    """Notes what is read, in order: `train` and `validation` batches, `test` batches."""

    seen: list[str]
    made: list[str]

    def __init__(self, folder: Path, split: str, *arguments: Any, **options: Any) -> None:
        super().__init__(folder, split, *arguments, **options)
        self.name = split
        Spy.made.append(split)

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            Spy.seen.append(self.name)
            yield batch


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    Spy.seen, Spy.made = [], []
    monkeypatch.setattr(train_module, "BatchLoader", Spy)
    return Spy


def test_learns_and_writes_everything_down(data: Path, tmp_path: Path) -> None:
    config = small(data, tmp_path / "run")
    result = train(config)
    assert {path.name for path in config.out.iterdir()} == FILES
    assert Result.load(config.out) == result
    assert result.tested.auc > 0.7
    assert result.validation.auc > 0.7
    assert result.num_steps == 2 * STEPS_PER_EPOCH
    assert [e.step for e in result.history] == [5, 9, 14, 18, 23, 27, 32, 36]
    assert result.best_step == max(result.history, key=lambda e: e.validation.auc).step
    assert result.bytes.table_bytes == 4 * 8 * (40 + 7 + 250)
    assert result.bytes.full_serving_bytes == result.bytes.serving_bytes
    assert result.data.manifest_sha256 == Manifest.load(data).sha256()
    assert Plan.load(config.out / "plan.json").to_json() == result.plan
    assert result.environment["num_threads"] == 1
    assert str(data) not in (config.out / "result.json").read_text()
    saved = load_file(str(config.out / "test_predictions.safetensors"))
    assert saved["logits"].dtype == saved["labels"].dtype == np.float32
    assert evaluate(saved["logits"], saved["labels"]) == result.test


def test_a_trial_leaves_the_test_split_closed(data: Path, tmp_path: Path, spy: type[Spy]) -> None:
    result = train(small(data, tmp_path / "run", score_test=False, epochs=1))
    assert "test" not in spy.made
    assert result.test is None
    assert not (tmp_path / "run" / "test_predictions.safetensors").exists()
    with pytest.raises(ValueError, match="did not score the test split"):
        _ = result.tested
    whole = train(small(data, tmp_path / "whole", epochs=1))
    assert whole.validation == result.validation


def test_a_folder_that_another_run_writes_is_refused(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="another run is writing"):
        train(small(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_embedding_decay_shrinks_what_is_looked_up(data: Path, tmp_path: Path) -> None:
    norms = []
    for decay in (0.0, 1.0):
        train(small(data, tmp_path / f"{decay}", epochs=1, embedding_decay=decay))
        state = load_file(str(tmp_path / f"{decay}" / "model.safetensors"))
        norms.append(sum(np.square(v).sum() for k, v in state.items() if "embedding_bags" in k))
    assert norms[1] < 0.9 * norms[0]


def test_predictions_are_those_of_the_saved_model_in_file_order(data: Path, tmp_path: Path) -> None:
    config = small(data, tmp_path / "run")
    train(config)
    model, _ = build_model(config, Plan.load(config.out / "plan.json"), num_dense=2)
    weights = load_file(str(config.out / "model.safetensors"))
    model.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
    (batch,) = BatchLoader(data, "test", ROWS["test"], shuffle=False)
    with torch.no_grad():
        logits = model(batch.dense, batch.kjt())
    saved = load_file(str(config.out / "test_predictions.safetensors"))
    np.testing.assert_array_equal(saved["labels"], batch.labels.numpy())
    np.testing.assert_allclose(saved["logits"], logits.numpy(), atol=1e-6)


def test_the_test_split_is_read_once_after_training(
    data: Path, tmp_path: Path, spy: type[Spy]
) -> None:
    train(small(data, tmp_path / "run"))
    assert spy.made == ["train", "validation", "test"]
    num_test = -(-ROWS["test"] // 256)
    assert spy.seen[-num_test:] == ["test"] * num_test
    assert "test" not in spy.seen[:-num_test]
    assert spy.seen.count("train") == 2 * STEPS_PER_EPOCH


def test_a_finished_run_is_not_repeated(data: Path, tmp_path: Path, spy: type[Spy]) -> None:
    config = small(data, tmp_path / "run")
    first = train(config)
    spy.made.clear()
    assert train(config) == first
    assert spy.made == []
    with pytest.raises(ValueError, match=r"result of another run: config\.seed is 0 there and 1"):
        train(small(data, tmp_path / "run", seed=1))
    features = BatchLoader(data, "train", 8).features(8)
    make_plan(SOME, features, 3_000, threshold=50).save(tmp_path / "plan.json")
    with pytest.raises(
        ValueError, match=r"result of another run: .*plan\.groups\.2\.config\.method is 'full' th"
    ):
        train(small(data, tmp_path / "run", plan=tmp_path / "plan.json"))
    other = write_folder(tmp_path / "other", constant=True)
    with pytest.raises(ValueError, match=r"result of another run: data is '\w{64}' there and"):
        train(small(other, tmp_path / "run"))


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(
    data: Path, tmp_path: Path
) -> None:
    results = [
        train(small(data, tmp_path / name, seed=seed))
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    ]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert untimed(results[0]) == untimed(results[1])
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert results[0].test != results[2].test


def test_selects_by_validation_and_stops_when_patience_is_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    real = train_module.predict

    def spying(model: torch.nn.Module, *arguments: Any) -> Any:
        weights.append({k: t.clone() for k, t in model.state_dict().items()})
        return real(model, *arguments)

    # Four validations, then the test; the second validation is the best, the fourth ties with it.
    aucs = iter([0.6, 0.7, 0.65, 0.7, 0.9])
    monkeypatch.setattr(train_module, "predict", spying)
    monkeypatch.setattr(train_module, "evaluate", lambda *_: metrics(next(aucs)))
    result = train(small(data, tmp_path / "run", patience=2))
    assert len(weights) == 5
    for key, tensor in weights[-1].items():
        assert torch.equal(tensor, weights[1][key])
    assert any(not torch.equal(t, weights[3][k]) for k, t in weights[1].items())
    assert (result.best_step, result.num_steps) == (9, 18)
    assert (result.validation.auc, result.tested.auc) == (0.7, 0.9)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"evals_per_epoch": 1}, [10, 20]),
        ({"evals_per_epoch": 3}, [4, 7, 10, 14, 17, 20]),
        ({"evals_per_epoch": 99}, list(range(1, 21))),
        ({"eval_every_steps": 8}, [8, 16, 20]),
        ({"eval_every_steps": 100}, [20]),
    ],
)
def test_validation_steps(tmp_path: Path, changes: dict[str, int], steps: list[int]) -> None:
    config = small(tmp_path, tmp_path, **changes)
    found = [s for s in range(1, 21) if History(step=s).is_evaluation_step(config, 10)]
    assert found == steps


def test_speed_counts_training_steps_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_module.predict

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return real(*arguments)

    monkeypatch.setattr(train_module, "predict", slow)
    started = time.perf_counter()
    result = train(small(data, tmp_path / "run", epochs=1, evals_per_epoch=9))
    seconds = time.perf_counter() - started
    assert result.train_seconds < seconds - 9 * 0.2
    assert result.samples_per_second == pytest.approx(ROWS["train"] / result.train_seconds)


def test_quiet_prints_nothing_and_the_bar_shows_the_figures(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(small(data, tmp_path / "a", epochs=1))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    train(small(data, tmp_path / "b", epochs=1, quiet=False))
    shown = " ".join(capfd.readouterr().out.split())
    assert "18/18" in shown
    assert "loss" in shown


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_loss_that_is_not_finite_stops_the_run(
    data: Path, tmp_path: Path, spy: type[Spy], engine: str
) -> None:
    config = small(
        data, tmp_path / "run", engine=engine, table_optimizer="sgd", table_learning_rate=1e30
    )
    with pytest.raises(
        TrainingDiverged,
        match=r"loss is (nan|inf) at step \d+ .* 0.005 \(adam\) .* 1e\+30 \(sgd\): try lower",
    ):
        train(config)
    assert "test" not in spy.made
    assert not (tmp_path / "run/result.json").exists()


def test_a_prediction_that_is_not_finite_stops_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = (np.array([0.0, np.nan], np.float32), np.array([0.0, 1.0], np.float32))
    monkeypatch.setattr(train_module, "predict", lambda *_: bad)
    with pytest.raises(TrainingDiverged, match="validation prediction is not finite at step 5"):
        train(small(data, tmp_path / "run"))


@pytest.mark.parametrize(("changes", "num_evals"), [({}, 4), ({"evals_per_epoch": 1}, 2)])
def test_chance_auc_stops_the_run(
    tmp_path: Path, spy: type[Spy], changes: dict[str, int], num_evals: int
) -> None:
    data = write_folder(tmp_path / "data", constant=True)
    message = rf"AUC is 0\.5000, that of chance, after {num_evals} evaluations, at step 18|36"
    with pytest.raises(TrainingCollapsed, match=message):
        train(small(data, tmp_path / "run", **changes))
    assert "test" not in spy.made
    assert not (tmp_path / "run/result.json").exists()


def test_an_auc_that_leaves_chance_in_time_is_no_collapse(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aucs = iter([0.5, 0.4995, 0.5005, 0.52, 0.5, 0.53, 0.5, 0.5, 0.9])
    monkeypatch.setattr(train_module, "evaluate", lambda *_: metrics(next(aucs)))
    assert train(small(data, tmp_path / "run")).validation.auc == 0.53


def test_a_table_without_dense_columns(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", dense=())
    assert train(small(data, tmp_path / "run")).tested.auc > 0.7


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_split_is_found_before_training(
    data: Path, tmp_path: Path, spy: type[Spy], split: str
) -> None:
    manifest = Manifest.load(data)
    empty = manifest.model_copy(update={"splits": {**manifest.splits, split: Split(num_rows=0)}})
    empty.save(tmp_path)
    with pytest.raises(ValueError, match=f"has no {split} rows; prepare it with all three"):
        train(small(tmp_path, tmp_path / "run"))
    assert spy.made == []


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_changed_byte_of_the_data_is_found_before_training(
    data: Path, tmp_path: Path, spy: type[Spy], split: str
) -> None:
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    (path,) = Manifest.load(data).shard_paths(changed, split)
    content = bytearray(path.read_bytes())
    content[len(content) * 4 // 7] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{split}.*has changed since it was prepared"):
        train(small(changed, tmp_path / "run"))
    assert spy.made == []
    if split == "test":  # a trial does not look at it
        train(small(changed, tmp_path / "trial", score_test=False, epochs=1))


def test_as_a_script(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        f'data = "{data}"', f'out = "{tmp_path / "run"}"', 'method = "full"', "dim = 4",
        "bottom = [8]", "top = [8, 1]", "batch_size = 256", "quiet = true",
    )  # fmt: skip
    (tmp_path / "run.toml").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "run.toml")])
    train_module.main()
    shown = json.loads(capsys.readouterr().out)
    assert shown["test"]["auc"] == Result.load(tmp_path / "run").tested.auc
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit, match=r"usage: .* run\.toml"):
        train_module.main()


def test_the_environment_names_what_ran() -> None:
    found = describe_environment(num_threads=3)
    assert found["num_threads"] == 3
    assert found["torch"] == torch.__version__
    assert all(found[name] for name in ("python", "torchrec", "fbgemm", "cpu"))
    reset_peak_rss()
    before = peak_rss_bytes()
    block = np.ones(30_000_000, np.uint8)
    assert peak_rss_bytes() >= before + 20_000_000
    assert block.any()


def test_a_plan_file_is_used_as_it_is(data: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(data)
    features = BatchLoader(data, "train", 8).features(4)
    plan = make_plan(SOME, features, 3_000, counts=manifest.counts(data), threshold=50)
    plan.save(tmp_path / "plan.json")
    base = small(data, tmp_path / "run")
    base.model_fields_set.remove("dim")
    result = train(changed(base, plan=tmp_path / "plan.json", method=None))
    assert result.plan == plan.to_json()
    assert "dim" not in result.config, "a width that the plan does not have"
    assert result.method == SOME
    assert result.budget_bytes is None
    assert result.bytes.serving_bytes <= 3_000


def test_a_width_that_contradicts_the_plan_is_refused(data: Path, tmp_path: Path) -> None:
    features = BatchLoader(data, "train", 8).features(4)
    full_plan(features).save(tmp_path / "plan.json")
    config = small(data, tmp_path / "run", plan=tmp_path / "plan.json", method=None, dim=8)
    message = (
        f"{tmp_path / 'plan.json'} gives 'C1' vectors of width 4, but dim 8 asks for 8; leave dim "
        f"(--dim) out, or make a plan of that width"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(config)
    started = changed(config, dim=4, init_std=0.02)
    message = (
        f"{tmp_path / 'plan.json'} starts 'C1' with init_std method, but 0.02 is asked for; leave "
        f"init_std out, or make a plan with it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(started)
    given = {"data": data, "out": tmp_path / "as it is", "plan": tmp_path / "plan.json"}
    own = TrainConfig.model_validate({**given, "model": "fnn", "hidden": [4], "quiet": True})
    assert own.init_std != "method"
    assert "init_std" not in train(own).config, "what a model states gives way to the plan"


def test_a_method_at_a_budget(data: Path, tmp_path: Path) -> None:
    config = small(data, tmp_path / "run", method=SOME, budget_bytes=5_000, threshold=50)
    result = train(config)
    assert (result.method, result.budget_bytes) == (SOME, 5_000)
    assert 4_000 < result.bytes.serving_bytes <= 5_000
    assert (result.bytes.full_serving_bytes or 0) >= 4 * 8 * (40 + 7 + 250)


def test_a_plan_for_other_features_is_refused(data: Path, tmp_path: Path) -> None:
    features = BatchLoader(data, "train", 8).features(4)
    make_plan("full", features[:2], 10**6).save(tmp_path / "less.json")
    with pytest.raises(ValueError, match="the plan has no feature 'C3', which the data has"):
        train(small(data, tmp_path / "run", plan=tmp_path / "less.json"))
    other = [features[0].model_copy(update={"num_ids": 41}), *features[1:]]
    make_plan("full", other, 10**6).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match="the plan was made for other features: 'C1'"):
        train(small(data, tmp_path / "run", plan=tmp_path / "other.json"))


# -- resuming ------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "adagrad": {
        "epochs": 4,
        "schedule": {"warmup_steps": 10, "decay_start_step": 20, "num_decay_steps": 20},
    },
    "rowwise": {
        "table_optimizer": "rowwise_adagrad",
        "dense_optimizer": "adagrad",
        "checkpoint_asynchronous": True,
    },
    "eager": {
        "engine": "eager",
        "dense_optimizer": "sgd",
        "dense_learning_rate": 0.1,
        "batch_size": 16,
        "accumulate_steps": 4,
        "max_grad_norm": 0.1,
        "schedule": {"plateau_factor": 0.5, "plateau_min_delta": 0.02},
    },
}


SAVING = [
    ("with half a tensor file", 1), ("before a rename", 2), ("after a rename", 2),
    ("after a rename", 3), ("before clearing up", 1), ("after a validation", 0),
]  # fmt: skip
AT_THE_END = [("before the result", 0), ("after the result", 0)]


def kills(seed: int) -> list[tuple[str, int]]:
    """Steps at random, kinds of moments of a save, and the end."""
    rng = np.random.default_rng(seed)
    places = ["after a step", "before the dense update"]
    found = [(places[i % 2], int(rng.integers(2, 6))) for i in range(3)]
    saving = SAVING if seed == 0 else SAVING[:1]
    return [*found, *(saving[i] for i in rng.permutation(len(saving))), *AT_THE_END[seed % 2 :]]


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs that were killed again and again, then ended."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = [
        (small(data, folder / name, **RUNS[name], checkpoint_every_steps=3), kills(seed))
        for seed, name in enumerate(RUNS)
    ]
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "tests.benchmarks.kill_runner",
            json.dumps([(config.model_dump(mode="json"), where) for config, where in jobs]),
        ],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": "src"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("killed")  # one worker makes what they look at
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_anywhere_ends_like_one_that_was_not(
    data: Path, tmp_path: Path, killed: Path, name: str
) -> None:
    whole = small(data, tmp_path / "whole", **RUNS[name])
    result = train(whole)
    assert untimed(Result.load(killed / name)) == untimed(result)
    assert {path.name for path in (killed / name).iterdir()} == FILES
    for file in FILES - {"result.json"}:
        assert (killed / name / file).read_bytes() == (whole.out / file).read_bytes()


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = History.count

    def count(self: History, loss: float, batch_size: int) -> None:
        real(self, loss, batch_size)
        if self.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(History, "count", count)


def interrupted(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def test_going_on_skips_what_was_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spy: type[Spy]
) -> None:
    config = small(data, tmp_path / "run", checkpoint_every_steps=7)
    interrupted(config, 30, monkeypatch)
    spy.seen.clear()
    train(config)
    assert spy.seen.count("train") == 36 - 28


@pytest.mark.parametrize("every", [18, 36])
def test_going_on_from_the_end_of_an_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    config = small(data, tmp_path / "run", checkpoint_every_steps=every)
    with monkeypatch.context() as patch:
        if every == 36:
            patch.setattr(train_module, "_finish", lambda *_: (_ for _ in ()).throw(MemoryError))
        else:
            stop_at(19, patch)
        with pytest.raises((KeyboardInterrupt, MemoryError)):
            train(config)
    result = train(config)
    assert untimed(result) == untimed(train(small(data, tmp_path / "whole")))


def test_another_config_plan_or_damage_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    config = small(data, out, checkpoint_every_steps=7)
    interrupted(config, 8, monkeypatch)
    with pytest.raises(CheckpointError, match=r"run: config\.batch_size is 64 there and 32"):
        train(small(data, out, batch_size=32))
    features = BatchLoader(data, "train", 8).features(8)
    make_plan(SOME, features, 3_000, threshold=50).save(tmp_path / "plan.json")
    with pytest.raises(
        CheckpointError, match=r"another run: .*plan\.groups\.2\.config\.method is 'full' th"
    ):
        train(small(data, out, plan=tmp_path / "plan.json"))
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "library_versions", lambda: {"torch": "9.9"})
        with pytest.raises(CheckpointError, match=r"versions\.torch is .* there and '9\.9'"):
            train(config)
    (file,) = (out / "checkpoint").glob("step-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is damaged: its checksum differs"):
        train(config)


def test_where_checkpoints_are_made_does_not_matter(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(data, tmp_path / "a", checkpoint_every_steps=7)
    interrupted(config, 8, monkeypatch)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = small(data, tmp_path / "b", checkpoint_every_seconds=1e-6, quiet=False)
    assert train(moved).num_steps == 36
