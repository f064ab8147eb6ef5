"""What the commands refuse before they compute or write anything, and in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compactrec import cli
from compactrec.benchmarks import readiness
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.readiness import check_device
from compactrec.benchmarks.tune import TuneRequest, tune
from compactrec.benchmarks.tuning import Tuning
from compactrec.embeddings import Feature, full_plan, method_names
from tests.benchmarks.fake_runs import fake_data
from tests.cases import SOME

Refused = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fake_data(tmp_path / "data")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs a command that must be refused, with nothing trained; what it says."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was not refused")

    def run(*words: object) -> str:
        with monkeypatch.context() as patched:
            patched.setattr("compactrec.benchmarks.train.resolve_plan", never)
            patched.setattr("compactrec.benchmarks.compare.run_searches", never)
            patched.setattr("compactrec.benchmarks.tune.run_searches", never)
            patched.setattr("compactrec.benchmarks.search._start", never)
            capsys.readouterr()
            code = cli.main([str(word) for word in words])
        assert code == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        return said.removeprefix("error: ").rstrip("\n")

    return run


def commands(data: Path, out: Path) -> list[tuple[object, ...]]:
    """All that make runs."""
    places = ("--data", data, "--out", out)
    return [
        ("train", *places, "--method", "full"),
        ("compare", *places, "--methods", SOME, "--budget", "1/4"),
        ("tune", *places, "--methods", SOME, "--budget", "1/4"),
        ("search", *places, "--method", "magnitude", "--budget", "1/4"),
    ]


# -- devices -------------------------------------------------------------------------------------


def test_a_device_that_is_not_there(refused: Refused, tmp_path: Path, data: Path) -> None:
    *trainings, search = commands(data, tmp_path / "out")
    for words in trainings:
        assert refused(*words, "--device", "foo").startswith(
            "device (--device) is 'foo', and torch knows no such device; there is 'cpu'"
        )
    assert "a search runs on the CPU, got device 'foo'" in refused(*search, "--device", "foo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "built", "gpus", "message"),
    [
        ("cuda", False, 0, r"is built without CUDA .*'.\[gpu\]'.*; there is 'cpu': give one of"),
        ("cuda:1", True, 0, "torch finds no GPU on this machine; there is 'cpu': give one of"),
        ("cuda:2", True, 2, "there are not so many GPUs; there is 'cpu', 'cuda:0', 'cuda:1': give"),
        ("meta", True, 2, "computes on 'cpu' and 'cuda' alone, not on 'meta'; there is 'cpu', "),
        ("cuda:x", True, 2, "torch knows no such device"),
    ],
)
def test_devices_of_other_machines(
    monkeypatch: pytest.MonkeyPatch, device: str, built: bool, gpus: int, message: str
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=rf"device \(--device\) is '{device}', and .*{message}"):
        check_device(device)
    for there in ("cpu", *readiness._gpus(), *(["cuda"] if gpus else [])):
        check_device(there)


# -- places --------------------------------------------------------------------------------------


def test_a_run_does_not_go_into_a_data_folder(refused: Refused, data: Path) -> None:
    before = sorted(data.rglob("*"))
    for words in commands(data, data):
        assert refused(*words) == (
            f"out (--out) {data} is a data folder (it has a manifest.json), and preparing it again "
            f"would delete what is written there; give a folder of its own, such as runs/data"
        )
    assert sorted(data.rglob("*")) == before


def test_a_run_does_not_go_into_a_file(refused: Refused, tmp_path: Path, data: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text("1,2\n")
    for words in commands(data, file):
        assert refused(*words) == (
            f"out (--out) {file} is a file, and results go into a folder; give another name, such "
            f"as runs/clicks"
        )
    for words in commands(data, file / "a" / "run"):
        said = refused(*words)
        assert said.startswith(f"out (--out) {file}/a/run is below {file}, which is a file; give a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks.csv", "data"]


def test_a_protocol_does_not_go_into_a_data_folder(refused: Refused, data: Path) -> None:
    words = ("compare", "--protocol", "dlrm-kaggle", "--data", data, "--out", data)
    assert refused(*words).startswith(f"out (--out) {data} is a data folder")


def test_a_plan_does_not_become_a_folder(refused: Refused, tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    plan = ("plan", "--data", data, "--method", SOME, "--budget", "1/2", "-o")
    *_, search = commands(data, tmp_path / "out")
    a_file = "is a folder, and a file is written; give a name in it"
    assert refused(*plan, folder) == f"--out (-o) {folder} {a_file}"
    assert refused(*search, "-o", folder) == f"--plan (-o) {folder} {a_file}"
    below = data / "manifest.json" / "plan.json"
    assert refused(*plan, below).startswith(f"--out (-o) {below} is below {below.parent}, which is")
    picture = refused(*plan, tmp_path / "p.json", "--picture", tmp_path / "x.foo")
    assert picture.startswith(
        f"--picture {tmp_path / 'x.foo'} ends in '.foo', which is no kind of picture here; give a "
        f"name that ends in .png ("
    )
    assert "svg" in picture
    assert (
        refused(*plan, tmp_path / "p.json", "--picture", folder) == f"--picture {folder} {a_file}"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty"]


def test_a_start_that_is_not_there(refused: Refused, tmp_path: Path, data: Path) -> None:
    plan = tmp_path / "plan.json"
    words = ("--data", data, "--method", SOME, "--budget", "1/2", "-o", plan)
    assert cli.main([str(word) for word in ("plan", *words)]) == 0
    train = ("train", "--data", data, "--out", tmp_path / "run", "--plan", plan)
    assert refused(*train, "--start", tmp_path / "nope") == (
        f"start (--start) {tmp_path / 'nope'} is not a file; give a safetensors file with the "
        f"state dict of the model, as 'compactrec search' leaves it beside a plan"
    )


def test_a_plan_that_cannot_be_saved_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = full_plan((Feature(name="C1", num_ids=7, dim=4),))
    with pytest.raises(
        ValueError, match=r"is a folder, and a plan is a file; give a name, as plan"
    ):
        plan.save(tmp_path)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        plan.save(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


# -- comparisons ---------------------------------------------------------------------------------


def test_a_baseline_that_is_not_compared(refused: Refused, tmp_path: Path, data: Path) -> None:
    compare = commands(data, tmp_path / "out")[1]
    message = r"baseline \(--baseline\) 'foo' is not among the methods that are compared: full, "
    assert re.match(message + rf".*\b{SOME}\b.*; choose", refused(*compare, "--baseline", "foo"))
    protocol = ("compare", "--protocol", "avazu-x4", "--data", data, "--budget", "1/4")
    words = ("--methods", SOME, "--baseline", "foo", "--out", tmp_path / "out")
    assert re.match(message, refused(*protocol, *words))
    assert not (tmp_path / "out").exists()


def test_budgets_at_which_no_method_has_a_plan(tmp_path: Path, data: Path) -> None:
    base = TrainConfig(data=data, out=tmp_path / "out", method="full")

    def never(config: TrainConfig) -> None:
        raise AssertionError(f"{config.method} is trained")

    budgets = ("1B", "2B")
    asked = CompareRequest(methods=(SOME,), budgets=budgets)
    tuned = TuneRequest(methods=(SOME,), budgets=budgets, tuning=Tuning(num_trials=2))
    for run in (
        lambda: compare(asked, base, runner=never),  # type: ignore[arg-type]  # gives nothing back
        lambda: tune(tuned, base, runner=never),  # type: ignore[arg-type]  # gives nothing back
    ):
        with pytest.raises(
            ValueError, match=r"no method has a plan of 2 B, so full tables alo"
        ) as e:
            run()
        names = re.findall(r"(\w+) ([\d,]+) bytes", str(e.value))
        assert {name for name, _ in names} < set(method_names())
        sizes = [int(size.replace(",", "")) for _, size in names]
        assert sizes == sorted(sizes)
        assert str(e.value).endswith(". Raise the budget (--budget)")
    size = names[0][1]
    enough = CompareRequest(methods=(SOME,), budgets=(f"{size.replace(',', '')}B",))
    with pytest.raises(AssertionError, match=r"full is trained"):
        compare(enough, base, runner=never)  # type: ignore[arg-type]  # gives nothing back


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[sharding]\ndefault = "rowwise"',
            "{file}: sharding.default: must be 'planner' or one of the kinds 'table_wise', "
            "'row_wise', 'column_wise', 'table_row_wise', 'data_parallel', got 'rowwise'",
        ),
        (
            '[sharding.default]\nkind = "rowwise"',
            "{file}: sharding.default.kind: Input should be 'table_wise', 'row_wise', "
            "'column_wise', 'table_row_wise' or 'data_parallel', got 'rowwise'",
        ),
        (
            '[sharding.default]\nkind = "row_wise"\nplase = 1',
            "{file}: sharding.default.plase: there is no such field; nearest is 'place'",
        ),
    ],
)
def test_a_kind_of_sharding_that_there_is_not(
    refused: Refused, tmp_path: Path, data: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'engine = "sharded"\n{text}\n')
    train = commands(data, tmp_path / "out")[0]
    assert refused(*train, "--config", file) == message.format(file=file)


def test_a_vocabulary_that_is_not_whole(refused: Refused, tmp_path: Path, data: Path) -> None:
    file = data / "vocabulary" / "C0.parquet"
    words = ("--data", data, "--method", SOME, "--budget", "1/2", "-o", tmp_path / "plan.json")
    file.write_bytes(file.read_bytes()[:100])
    said = refused("plan", *words)
    assert said.startswith(f"{file} is not a whole vocabulary (")
    assert said.endswith("); prepare the data again")
    file.unlink()
    assert refused("plan", *words) == (
        f"{file} is missing; the manifest lists it, prepare the data again"
    )
