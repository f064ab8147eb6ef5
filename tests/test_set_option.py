"""`--set NAME=VALUE`: what a `--config` file may give, over it, with the same checks."""

from pathlib import Path
from typing import Any

import pytest

from compactrec import cli
from compactrec.benchmarks.config import TrainConfig
from compactrec.options import TrainOptions
from tests.benchmarks.fake_runs import fake_data

FILE = (
    'model = "dcnv2"\nhidden = [8]\ndropout = 0.5\nbatch_size = 32\n[schedule]\nwarmup_steps = 3\n'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(FILE)
    return tmp_path / "run.toml"


def made(file: Path | None, *settings: str, **options: Any) -> TrainConfig:
    words = TrainOptions(config=file, settings=list(settings), **options)
    return words.train_config(Path("d"), Path("o"), 0)


def test_fields_and_options_of_the_model_win_over_the_file_and_that_over_defaults(
    file: Path,
) -> None:
    found = made(
        file, "batch_size = 64", "kind=low_rank", "hidden=[16, 4]", "schedule.plateau_factor=0.5",
        "device=cuda:0", 'table_optimizer="sgd"', dim=4,
    )  # fmt: skip
    assert (found.batch_size, found.device, found.table_optimizer) == (64, "cuda:0", "sgd")
    assert found.model_options == {"hidden": [16, 4], "dropout": 0.5, "kind": "low_rank"}
    assert (found.schedule.warmup_steps, found.schedule.plateau_factor) == (3, 0.5)
    assert (found.dim, found.epochs) == (4, 1)
    whole = made(file, "schedule={ plateau_factor = 0.5 }", "model=autoint_plus", "wide=true")
    assert whole.schedule.warmup_steps == 0
    assert (whole.model, whole.model_options["wide"]) == ("autoint_plus", True)
    file.write_text('model = "fnn"\n[model_options]\ndropout = 0.5\nhidden = [8]\n')
    assert made(file, "dropout=0.25").model_options == {"dropout": 0.25, "hidden": [8]}
    file.write_text('model = "fnn"\ndropout = 0.5\nhidden = [8]\n')
    changed = made(file, "model_options.dropout=0.25")
    assert changed.model_options == {"dropout": 0.25, "hidden": [8]}


WRONG = [
    ("dropoutt=0.2", "--set dropoutt: there is no such field; nearest (is|are) 'dropout'"),
    ("embedding_dim=8", "--set embedding_dim: there is no such field; here it is dim$"),
    ("schedule.star=1", "--set schedule.star: there is no such field; there are warmup_steps"),
    ("batch_size=0", "--set batch_size: Input should be greater than or equal to 1, got 0"),
    ("engine=slow", "--set engine: Input should be 'eager', .* got 'slow'"),
    ("batch_size.x=1", "--set batch_size: Input should be a valid integer"),
    ("dense_learning_rate=1", "gives dense_learning_rate, which --dense-lr says; leave --set d"),
    ("method=hash", "--set cannot give method; give --plan FILE, or --method NAME with --budget"),
    ("dropout", "--set dropout: give NAME=VALUE, such as --set dropout=0.2"),
    ("schedule..a=1", r"--set schedule\.\.a=1: give NAME=VALUE"),
    ("dropout=.1", r"--set dropout=.1: '\.1' is no value of TOML; give a number such as 0.1"),
    ("hidden=[a]", r"'\[a\]' is no value of TOML; .* a list such as \[64, 32\], or text in quo"),
    ("dropout=1\nepochs = 2", "is no value of TOML"),
    ("patience=2", "--set gives patience twice; give it once"),
    ("monitor.x=1", r"--set gives monitor\.x twice; give it once"),
]


@pytest.mark.parametrize("under_a_protocol", [False, True])
@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_wrong_is_told_as_of_a_file(
    file: Path, text: str, message: str, under_a_protocol: bool
) -> None:
    settings = ["patience=1", "monitor=auc", text]
    words = TrainOptions(config=file, settings=settings, dense_learning_rate=0.1)
    with pytest.raises(ValueError, match=message):
        words.given() if under_a_protocol else words.train_config(Path("d"), Path("o"), 0)


def test_a_number_for_a_list_is_told_so(file: Path) -> None:
    with pytest.raises(ValueError, match=r"option hidden: Input should be a valid list, got 400"):
        made(file, "hidden=400")


def test_a_wrong_line_of_the_file_stays_the_file_s(file: Path) -> None:
    file.write_text("[schedule]\nstar = 1\n")
    for words in ("schedule.plateau_factor=0.5", "epochs=2"):
        with pytest.raises(ValueError, match=rf"{file}: schedule\.star: there is no such field"):
            made(file, words)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("train.train", ("train",)),
        ("compare.compare", ("compare", "--budget", "1/4")),
        ("tune.tune", ("tune", "--budget", "1/4")),
        ("search.search", ("search", "--method", "magnitude")),
        ("choices.plan_for", ("plan", "--method", "hash", "--budget", "1/4")),
    ],
)
def test_every_command_that_trains_takes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str, words: tuple[str, ...]
) -> None:
    got: list[Any] = []

    def stop(*given: Any, **_: Any) -> None:
        got.extend(given)
        raise ValueError("stopped")

    monkeypatch.setattr(f"compactrec.benchmarks.{target}", stop)
    data = fake_data(tmp_path / "data")
    out = ("--data", str(data), "--out", str(tmp_path / "o"))
    assert cli.main([*words, *out, "--set", "eval_batch_size=7", "--set=hidden=[3]", "--model=fnn"])
    assert len(got) in (1, 2, 3), got
    configs = [c for c in got if hasattr(c, "train") or isinstance(c, TrainConfig)]
    found = getattr(configs[0], "train", configs[0])
    assert (found.eval_batch_size, found.model_options) == (7, {"hidden": [3]})


def test_a_search_has_epochs_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("search", "--data", str(tmp_path), "--method", "magnitude", "--set", "epochs=2")
    assert cli.main(words) == 1
    assert "leave epochs (--epochs, --set) out and set them as" in capsys.readouterr().err
    shown = TrainOptions(model="fnn", settings=["hidden=[3, 4]"]).model_words()
    assert shown == "--model fnn --set 'hidden=[3, 4]'"
