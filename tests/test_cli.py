"""The command line: what it prints, what it writes, its exit codes, and errors in words."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compactrec import __version__, cli
from compactrec.benchmarks import demo as demo_settings
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.protocol_file import load_protocol, protocol_names
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search_result import SearchResult
from compactrec.benchmarks.study import CompareFile
from compactrec.embeddings import get_method, method_names
from compactrec.embeddings.search import get_search, search_names
from compactrec.models import get_model, model_names
from tests.benchmarks.fake_runs import Recorder, fake_data, fake_result
from tests.benchmarks.folder import write_folder
from tests.benchmarks.made_files import made_criteo
from tests.cases import SOME, needs_hash

COMMANDS = (
    "methods", "models", "protocols", "prepare", "plan", "train", "search", "tune", "compare",
    "report", "demo",
)  # fmt: skip
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fake_data(tmp_path / "data")


def call(capsys: Captured, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(cli.__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": source, **environment}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=env, timeout=120, check=False
    )


# -- the frame -----------------------------------------------------------------------------------


def test_help_lists_every_command(capsys: Captured) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert re.findall(r"^  ([a-z]+)  ", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: Captured, command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"Usage: compactrec {command}" in out


def test_version(capsys: Captured) -> None:
    assert call(capsys, "--version")[:2] == (0, f"compactrec {__version__}\n")


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "matplotlib", "scipy", "polars", "pyarrow", "torchrec")
    program = (
        "import sys; from compactrec.cli import main; code = main(['compare', '--help']); "
        f"sys.exit(code or [m for m in {heavy} if m in sys.modules] or 0)"
    )
    run = python("-c", program)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("package", "words", "message"),
    [
        ("typer", ["methods"], "needs 'typer', which is not installed; .*'.[study]'"),
        ("rich", ["methods"], "needs 'rich', which is not installed; .*'.[study]'"),
        ("torchrec", ["train", "--data", "x", "--out", "y", "--plan", "z"], "torchrec"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    package: str, words: list[str], message: str
) -> None:
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from compactrec.cli import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    run = python("-c", program)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert re.search(message.replace("[", r"\["), run.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plann"], "No such command 'plann'"),
        (["plan", "--method", SOME, "--budget", "1/4"], "Missing option '--data'"),
        (
            ["compare", "--data", "x", "--budget", "1/4", "--seeds", "0"],
            "Invalid value for '--seeds'",
        ),
        (["report", "--wrong"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_usage_and_exits_with_2(
    capsys: Captured, words: list[str], message: str
) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2
    assert message in err
    assert "Usage:" in err


def test_errors_are_words_and_debug_shows_the_traceback(capsys: Captured) -> None:
    words = ("plan", "--data", "nowhere", "--method", SOME, "--budget", "1/4")
    code, _, err = call(capsys, *words)
    assert code == 1
    assert err == (
        "error: nowhere is not a data folder: it has no manifest.json; make one with "
        "'compactrec prepare'\n"
    )
    with pytest.raises(ValueError, match="nowhere is not a data folder"):
        cli.main([*words, "--debug"])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("compactrec.benchmarks.show.methods_table", broken)
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["methods"])


def test_an_interrupt_ends_without_a_traceback(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compactrec.benchmarks.show.methods_table", interrupted)
    code, _, err = call(capsys, "methods")
    assert code == 130
    assert "the same command goes on" in err


def test_several_wrong_fields_are_all_named(capsys: Captured, tmp_path: Path, data: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("epoch = 3\nbatch_size = 0\n")
    words = ("--data", data, "--out", tmp_path / "o", "--method", "full", "--config", config)
    code, _, err = call(capsys, "train", *words)
    assert code == 1
    assert err == (
        f"error: {config}: epoch: there is no such field; nearest is 'epochs'; "
        "batch_size: Input should be greater than or equal to 1, got 0\n"
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("botom = [8]", (), "{file}: botom: there is no such field; nearest is 'bottom'"),
        ("[schedule]\nstar = 1", (), "{file}: schedule.star: there is no such field; there are "),
        (
            '[sharding.tables.C1]\nkind = "row_wise"\nplase = 1',
            (),
            "{file}: sharding.tables.C1.plase: there is no such field; nearest is 'place'",
        ),
        (
            "dim = 0",
            ("--table-lr", "-1"),
            "--table-lr: Input should be greater than 0, got -1.0; ",
        ),
        (
            "dim = 0",
            ("--dim", "4", "--engine", "slow"),
            "--engine: Input should be 'eager',",
        ),
        ("batch_size = 2", ("--protocol", "dlrm-kaggle"), "batch_size 2 instead of 128"),
        ("batch_sise = 2", ("--protocol", "dlrm-kaggle"), "{file}: batch_sise: there is no such"),
        ("botom = [8]", ("--protocol", "dlrm-kaggle"), "{file}: botom: there is no such field"),
        (
            "",
            ("--protocol", "dlrm-kaggle", "--set", "batch_size=2"),
            "batch_size 2 instead of 128",
        ),
        ("wide = true", ("--protocol", "dlrm-kaggle"), "wide: there is no such field; there are "),
    ],
)
def test_what_is_wrong_is_named_as_it_was_given(
    capsys: Captured, tmp_path: Path, text: str, options: tuple[str, ...], message: str
) -> None:
    """By the file and its key, or by the option."""
    file = tmp_path / "run.toml"
    file.write_text(text)
    words = ("--data", made_criteo(tmp_path / "train.txt"), "--out", tmp_path / "o")
    budget = () if "--protocol" in options else ("--budget", "1/4")
    code, _, err = call(capsys, "compare", *words, "--config", file, *budget, *options)
    assert code == 1
    assert message.format(file=file) in err, err


def test_a_config_file_that_cannot_be_read_says_what_it_is(
    capsys: Captured, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "latin.toml").write_bytes('model = "fm"  # f\xfcr'.encode("latin-1"))
    texts = {
        tmp_path / "nope.toml": "cannot be read (No such file or directory); give the path of a "
        "TOML file with fields of the training config, such as batch_size = 2048",
        tmp_path: "cannot be read (Is a directory); give the path of a TOML file with",
        tmp_path / "latin.toml": "is not valid TOML: 'utf-8' codec",
    }
    for file, text in texts.items():
        words = ("--data", data, "--out", tmp_path / "o", "--method", "full", "--config", file)
        code, _, err = call(capsys, "train", *words)
        assert code == 1
        assert f"{file} {text}" in " ".join(err.split()), err


# -- methods, plan -------------------------------------------------------------------------------


@needs_hash
def test_methods_shows_what_the_registry_holds(capsys: Captured) -> None:
    code, out, _ = call(capsys, "methods")
    assert code == 0
    for name in method_names():
        method = get_method(name)
        assert f" {name} " in out
        assert method.title in out
        for option in method.options.model_fields:
            assert f"{option} = " in out
    for name in search_names():
        search = get_search(name)
        assert f" {name} " in out
        assert search.title in out
        for option in search.options.model_fields:
            assert f"{option} = " in out
    assert "sign = boolean [false]" in out
    assert "hash = mix | mod [mix]" in out


def test_models_shows_what_the_registry_holds(capsys: Captured) -> None:
    code, out, _ = call(capsys, "models")
    assert code == 0
    for name in model_names():
        model = get_model(name)
        assert f" {name} " in out
        assert model.title in out
        for option in model.config.model_fields:
            assert f"{option} = " in out


def test_a_plan_is_made_for_what_a_model_reads(
    capsys: Captured, tmp_path: Path, data: Path
) -> None:
    from compactrec.embeddings import Plan

    path = tmp_path / "plan.json"
    (tmp_path / "wide.toml").write_text("wide = true\n")
    words = ("--data", data, "--method", SOME, "--budget", "1/2", "-o", path)
    read = []
    for more in ((), ("--model", "autoint", "--config", tmp_path / "wide.toml")):
        assert call(capsys, "plan", *words, *more)[0] == 0
        read.append({feature.name for feature in Plan.load(path).features})
    assert read[1] == read[0] | {f"{name}_linear" for name in read[0]}


@needs_hash
def test_plan_writes_a_plan_and_shows_its_bytes(
    capsys: Captured, tmp_path: Path, data: Path
) -> None:
    from compactrec.embeddings import Plan, size

    path = tmp_path / "new" / "plan.json"
    words = ("--data", data, "--method", "hash:sign=true", "--budget", "1/4", "-o", path)
    code, out, _ = call(capsys, "plan", *words)
    assert code == 0
    plan = Plan.load(path)
    assert size(plan).serving_bytes <= 5940 * 16 * 4 / 4 + 1000
    assert {g.config.method for g in plan.groups} == {"hash", "full"}
    for feature in plan.features:
        assert feature.name in out
    rows = size(plan).groups[-1].num_rows
    assert f"{rows:,} x 16" in out
    assert "4x" in out


@needs_hash
@pytest.mark.parametrize(
    ("method", "budget", "message"),
    [
        ("hashing", "1/4", r"unknown method 'hashing': there are .*full.*hash"),
        ("hash", "64", r"budget '64' has no unit"),
        ("hash", "2x", r"at most 1"),
        ("hash", "100B", r"hash: .*raise the budget"),
        ("hash:sing=1", "1/4", r"hash: option sing"),
    ],
)
def test_plan_errors(capsys: Captured, data: Path, method: str, budget: str, message: str) -> None:
    code, _, err = call(capsys, "plan", "--data", data, "--method", method, "--budget", budget)
    assert code == 1
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rank-memory", "16GB"), "--rank-memory 16GB is the memory of each of --ranks"),
        (("--ranks", "2", "--rank-memory", "1/4"), r"--rank-memory is what one process .*'1/4'"),
        (
            ("--ranks", "2", "--rank-memory", "1kB"),
            r"largest 't_\w+' with [\d,]+, .* rank_memory_bytes 1000 \(--rank-memory\).*start mo",
        ),
    ],
)
def test_what_does_not_fit_is_not_saved(
    capsys: Captured, tmp_path: Path, data: Path, more: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "plan.json"
    words = ("--data", data, "--method", SOME, "--budget", "1/2", "-o", path)
    code, _, err = call(capsys, "plan", *words, *more)
    assert code == 1
    assert re.search(message, err)
    assert not path.exists()


def test_a_plan_that_fits_the_ranks_is_saved(capsys: Captured, tmp_path: Path, data: Path) -> None:
    path = tmp_path / "plan.json"
    words = ("--data", data, "--method", SOME, "--budget", "1/2", "-o", path)
    limits = ("--ranks", "2", "--rank-memory", "500kB")  # of 760 kB with Adagrad's state
    code, out, err = call(capsys, "plan", *words, *limits)
    assert code == 0, err
    assert "2 rank(s)" in out
    assert "Tables alone: their weights" in " ".join(out.split())
    assert path.exists()


# -- train, compare, report ----------------------------------------------------------------------


def test_what_train_is_told_about_tables(capsys: Captured, tmp_path: Path, data: Path) -> None:
    words = ("train", "--data", data, "--out", tmp_path / "run")
    assert "give either --plan FILE, or --method NAME" in call(capsys, *words, "--budget", "1/4")[2]
    assert "needs a budget (--budget" in call(capsys, *words, "--method", SOME)[2]
    gone = tmp_path / "gone.json"
    assert f"--plan {gone} is not a file; give a plan as" in call(capsys, *words, "--plan", gone)[2]
    plan = (*words, "--plan", tmp_path / "p.json")
    assert "a plan file has its size already" in call(capsys, *plan, "--budget", "1/4")[2]
    assert "give either --plan FILE" in call(capsys, *plan, "--method", SOME)[2]
    file = tmp_path / "a.toml"
    file.write_text('method = "hash"\nbudget_bytes = 1000\n')
    told = call(capsys, *words, "--config", file)[2]
    assert f"{file} sets budget_bytes, method, which a command line says" in told


def test_the_name_of_a_model_is_enough_to_train(capsys: Captured, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--data", write_folder(tmp_path / "data"), "--out", out)
    code, _, err = call(capsys, "train", *words, "--model", "autoint")
    assert code == 0, err
    result = json.loads((out / "result.json").read_text())
    assert (result["config"]["model"], result["config"]["method"]) == ("autoint", "full")
    code, shown, err = call(capsys, "train", *words, "--model", "autoint")
    assert code == 0, err
    assert f"{out} was finished already: nothing was trained." in " ".join(shown.split())


@needs_hash
@pytest.mark.parametrize(("budget", "told"), [("1GB", True), ("1/2", False)])
def test_a_budget_above_the_full_tables_is_told(
    capsys: Captured, tmp_path: Path, data: Path, budget: str, told: bool
) -> None:
    words = ("--data", data, "--method", "hash", "--budget", budget, "-o", tmp_path / "plan.json")
    code, shown, _ = call(capsys, "plan", *words)
    assert code == 0
    text = "no more than the budget of 1 GB: hash saves nothing here."
    assert (text in " ".join(shown.split())) == told


class Stopped(Exception):
    """Raised instead of training; holds what the training would have got."""


TRAINING = (
    "--model", "dlrm", "--dim", "8", "--epochs", "2", "--batch-size", "64", "--table-lr", "0.5",
    "--dense-lr", "0.25", "--table-optimizer", "sgd", "--device", "cpu", "--threads", "1",
)  # fmt: skip
ASKED = {
    "model": "dlrm", "dim": 8, "epochs": 2, "batch_size": 64, "table_learning_rate": 0.5,
    "dense_learning_rate": 0.25, "table_optimizer": "sgd", "device": "cpu", "num_threads": 1,
}  # fmt: skip


def stop(*given: object, **_: object) -> None:
    raise Stopped(*given)


@pytest.mark.parametrize(
    ("target", "words"),
    [("train.train", ("train", "--method", "full")), ("compare.compare", ("compare",))],
)
def test_training_options_win_over_the_file_and_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, target: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(f"compactrec.benchmarks.{target}", stop)
    file = tmp_path / "run.toml"
    file.write_text("dim = 4\nthreshold = 7\n")
    places = ("--data", str(data), "--out", str(tmp_path / "o"), "--config", str(file))
    budget = () if words[0] == "train" else ("--budget", "1/4")
    with pytest.raises(Stopped) as caught:
        cli.main([*words, *places, *budget, *TRAINING])
    config = caught.value.args[-1].model_dump()
    assert {name: config[name] for name in ASKED} == ASKED
    assert config["threshold"] == 7
    assert (config["data"], config["out"]) == (data, tmp_path / "o")
    with pytest.raises(Stopped) as caught:
        cli.main([*words, *places, *budget])
    left = caught.value.args[-1]
    assert (left.dim, left.epochs, left.model) == (4, 1, "dlrm")


def test_lists_of_methods_may_hold_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    monkeypatch.setattr("compactrec.benchmarks.compare.compare", stop)
    words = ("--data", str(data), "--out", str(tmp_path), "--budget", "1/4, 25%", "--budget", "1MB")
    with pytest.raises(Stopped) as caught:
        cli.main(["compare", *words, "--methods", "a:dims=[8,[2,1]]:sign=true, hash,,b"])
    request = caught.value.args[0]
    assert request.methods == ("a:dims=[8,[2,1]]:sign=true", "hash", "b")
    assert request.budgets == ("1/4", "25%", "1MB")


def test_protocols_are_listed_with_their_models(capsys: Captured) -> None:
    code, out, _ = call(capsys, "protocols")
    assert code == 0
    for name in protocol_names():
        assert re.search(rf"^ *{re.escape(name)} ", out, re.MULTILINE), name
    assert "The DLRM reference on Criteo Kaggle" in out


def test_a_protocol_is_shown_with_all_that_it_fixes(capsys: Captured) -> None:
    protocol = load_protocol("optembed-kdd12")
    code, out, _ = call(capsys, "protocols", protocol.name)
    assert code == 0
    shown = " ".join(out.split())
    for text in (protocol.title, *protocol.sources, *protocol.models, "threshold_learning_rate"):
        assert " ".join(text.split()) in shown
    code, _, err = call(capsys, "protocols", "kdd12")
    assert code == 1
    assert "no protocol 'kdd12'; there are" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dropout", 0.1), "--dropout: give it with --set dropout=VALUE"),
        (("--lr", 0.1), "--lr: here it is table_learning_rate and dense_learning_rate; see --help"),
        (("--nothing", 1), ""),
        (
            ("--set", "model=deepfm", "--set", "heads=2"),
            "heads: .* it is an option of autoint, aut",
        ),
    ],
)
def test_fields_given_as_options_are_told_how(
    capsys: Captured, words: tuple[object, ...], message: str
) -> None:
    code, _, err = call(capsys, "train", "--data", "x", "--out", "y", *words)
    assert code == (1 if words[0] == "--set" else 2)
    assert re.search(message, err)
    assert message or err.strip().splitlines()[-1].startswith("Error: No such option: --nothing")


def test_compare_under_a_protocol(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(config: TrainConfig, **_: object) -> Result:
        return fake_result(config.out, "full", None, config.seed, 0.4, num_rows=300)

    monkeypatch.setattr("compactrec.benchmarks.train.train", fake)
    raw, out = made_criteo(tmp_path / "train.txt"), tmp_path / "run"
    words = ("compare", "--protocol", "dlrm-kaggle", "--data", raw, "--out", out, "--seeds", 1)
    code, _, err = call(capsys, *words, "--batch-size", 64)
    assert code == 1
    assert "batch_size 64 instead of 128" in err
    assert "--allow-changes" in err
    code, printed, err = call(capsys, *words, "--batch-size", 64, "--allow-changes")
    assert code == 0, err
    assert "not comparable: batch_size 64 instead of 128" in printed
    assert "a sample: 350 of 45,840,617 rows" in printed
    assert "read by eye off the plot" in printed
    summary = json.loads((out / "dlrm" / "summary.json").read_text())
    assert summary["protocol"]["name"] == "dlrm-kaggle"
    code, _, err = call(capsys, *words[:2], "kaggle", *words[3:])
    assert code == 1
    assert "no protocol 'kaggle'; there are" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --budget, such as 1/4 or 64MB, or a --protocol that has its own"),
        (("--budget", "1/4", "--data", "b"), "several --data.*go with --protocol"),
        (("--budget", "1/4", "--test-file", "b"), "--test-file.*go with --protocol"),
        (("--budget", "1/4", "--allow-changes"), "--allow-changes go with --protocol"),
    ],
)
def test_what_only_a_protocol_takes(
    capsys: Captured, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, _, err = call(capsys, "compare", "--data", tmp_path, *words)
    assert code == 1
    assert re.search(message, err)


def test_tune_then_compare(
    capsys: Captured, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a training that trains nothing."""
    runner = Recorder()
    monkeypatch.setattr("compactrec.benchmarks.train.train", runner)
    space = tmp_path / "space.toml"
    space.write_text("table_learning_rate = { choices = [0.01, 0.02, 0.9] }\n")
    shared = ("--data", data, "--methods", SOME, "--budget", "1/4")
    words = ("tune", *shared, "--trials", 3, "--space", space, "--out", tmp_path / "tune")
    code, text, err = call(capsys, *words)
    assert code == 0, err
    assert "3 trials each, sampler sobol" in text
    assert re.search(rf"^ *{SOME} +1/4 +0\.\d{{4}} +0\.\d{{4}} +3 ", text, re.MULTILINE)
    tuned = tmp_path / "tune" / "tune.json"
    assert text.endswith(f"written: {tuned}\n")
    trained = len(runner.configs)
    code, _, err = call(capsys, *words)
    assert code == 0, err
    assert len(runner.configs) == trained == 3 * len(json.loads(tuned.read_text())["cells"])

    out = tmp_path / "compare"
    code, text, err = call(capsys, "compare", *shared, "--seeds", 2, "--tuned", tuned, "--out", out)
    assert code == 0, err
    assert "3 trials each" not in text
    rows = json.loads((out / "summary.json").read_text())["rows"]
    cells = json.loads(tuned.read_text())["cells"]
    chosen = {(c["method"], c["budget_bytes"]): (c["trial"], c["settings"]) for c in cells}
    found = {(r["method"], r["budget_bytes"]): (r["trial"], r["settings"]) for r in rows}
    assert found == chosen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--space", "s.toml"), "--space is for tuning, and nothing is tuned; give --trials with"),
        (("--sampler", "tpe", "--trials", 1), "--sampler is for tuning, and nothing is tuned"),
        (("--trials", 2, "--sampler", "grid"), "sampler: Input should be 'sobol' or 'tpe', got"),
        (
            ("--trials", 2, "--space", "gone.toml"),
            "space gone.toml cannot be read (No such file or directory); give the path of a TOML",
        ),
        (
            ("--tuned", "gone.json"),
            "gone.json cannot be read (No such file or directory); give the",
        ),
        (
            ("--tuned", "."),
            ". cannot be read (Is a directory); give the tune.json that 'compactrec",
        ),
        (("--trials", 2, "--tuned", "t.json"), "t.json has the settings already, and 2 trials"),
        (
            ("--protocol", "dlrm-kaggle", "--tuned", "t.json"),
            "--tuned t.json holds settings of one",
        ),
    ],
)
def test_tuning_options_that_do_not_go_together(
    capsys: Captured, data: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    shared = ("--data", data, "--budget", "1/4", "--out", tmp_path / "out")
    code, _, err = call(capsys, "compare", *shared, *words)
    assert code == 1
    assert message in err


def test_compare_then_report_end_to_end(capsys: Captured, tmp_path: Path) -> None:
    """Real training, as small as it can be."""
    data, out = write_folder(tmp_path / "clicks"), tmp_path / "runs"
    config = tmp_path / "small.toml"
    config.write_text("bottom = [8]\ntop = [8, 1]\nthreshold = 0\nnum_threads = 1\n")
    words = (
        "compare", "--data", data, "--methods", SOME, "--budget", "1/2", "--seeds", 2,
        "--out", out, "--config", config, "--dim", 8, "--batch-size", 128,
    )  # fmt: skip
    code, printed, err = call(capsys, *words)
    assert code == 0, err
    assert "Test AUC" in printed
    for name in ("compare.json", "report.html", "report.md", "report.png", "summary.json"):
        assert (out / name).is_file()
        assert name == "compare.json" or str(out / name) in printed
    made = {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}
    summary = json.loads((out / "summary.json").read_text())
    assert [r["seeds"] for r in summary["rows"]] == [[0, 1]] * len(summary["rows"])
    assert summary["config"]["dim"] == 8

    code, again, _ = call(capsys, *words)
    assert code == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("result.json")} == made
    assert "samples" in again

    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    code, _, _ = call(capsys, "report", out, "--out", tmp_path / "r", "--readme", readme)
    assert code == 0
    assert (tmp_path / "r" / "report.html").is_file()
    assert f"| {SOME} (baseline) | 1/2 |" in readme.read_text()


def test_a_failed_run_is_an_exit_code_of_1_and_a_report(
    capsys: Captured, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_train(config: TrainConfig) -> Result:
        assert config.method is not None
        if config.method == SOME:
            raise ValueError("the loss is [red]NaN[/red]")
        return fake_result(config.out, config.method, config.budget_bytes, config.seed, 1.0)

    monkeypatch.setattr("compactrec.benchmarks.train.train", fake_train)
    out = tmp_path / "runs"
    words = ("compare", "--data", data, "--methods", SOME, "--budget", "1/4,1/8", "--seeds", 1)
    code, printed, err = call(capsys, *words, "--out", out)
    assert code == 1
    assert "2 run(s) failed" in err
    assert f"{SOME} at 1/4, seed 0: failed: the loss is [red]NaN[/red]" in printed
    assert f"No result for {SOME} at 1/4 of full" in printed
    assert CompareFile.load(out).num_failed == 2


def test_report_of_nothing(capsys: Captured, tmp_path: Path) -> None:
    code, _, err = call(capsys, "report", tmp_path)
    assert code == 1
    assert "run 'compactrec compare' or 'compactrec train' first" in err


# -- prepare, demo -------------------------------------------------------------------------------


def _criteo(path: Path, num_rows: int = 420) -> Path:
    lines = []
    for i in range(num_rows):
        dense = [str((i * 7 + j) % 50) for j in range(13)]
        sparse = [f"{(i * (j + 3)) % (5 + 40 * j):08x}" for j in range(26)]
        lines.append("\t".join([str(int(i % 3 == 0)), *dense, *sparse]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prepare_makes_a_folder_and_says_what_is_in_it(capsys: Captured, tmp_path: Path) -> None:
    raw, out = _criteo(tmp_path / "train.txt"), tmp_path / "data"
    words = ("prepare", "criteo", raw, "--out", out, "--test", "100", "--validation", "1/10")
    code, printed, err = call(capsys, *words)
    assert code == 0, err
    assert re.search(r"train +278 ", printed)
    assert re.search(r"validation +42 ", printed)
    assert re.search(r"test +100 ", printed)
    code, _, err = call(capsys, *words)
    assert code == 1
    assert "is a data folder already; choose another folder, or overwrite it (--overwrite" in err
    assert call(capsys, *words, "--overwrite")[0] == 0


def test_prepare_takes_files_per_split(capsys: Captured, tmp_path: Path) -> None:
    raws = [_criteo(tmp_path / f"{name}.txt") for name in "abcd"]
    words = ["prepare", "criteo", raws[0], "--out", tmp_path / "data"]
    words += ["--validation-file", raws[1], "--test-file", raws[2], "--test-file", raws[3]]
    code, printed, err = call(capsys, *words)
    assert code == 0, err
    assert [int(n) for n in re.findall(r"(?:train|validation|test) +(\d+) ", printed)] == [
        420,
        420,
        840,
    ]


def test_prepare_names_file_and_line_of_a_bad_row(capsys: Captured, tmp_path: Path) -> None:
    raw = _criteo(tmp_path / "train.txt")
    lines = raw.read_text().splitlines()
    lines[6] = lines[6].rsplit("\t", 1)[0]
    raw.write_text("\n".join(lines))
    code, _, err = call(capsys, "prepare", "criteo", raw, "--out", tmp_path / "data")
    assert code == 1
    assert re.search(r"train\.txt.*7", err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("from_file", [False, True])
def test_demo_runs_every_method_and_goes_on(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_file: bool
) -> None:
    """All of the demo but the training."""
    calls: list[TrainConfig] = []

    def fake_train(config: TrainConfig) -> Result:
        assert config.method is not None
        calls.append(config)
        noise = 0.3 if config.budget_bytes is None else 1.0
        return fake_result(config.out, config.method, config.budget_bytes, config.seed, noise)

    monkeypatch.setattr("compactrec.benchmarks.train.train", fake_train)
    monkeypatch.setattr("compactrec.benchmarks.demo.NUM_ROWS", 20_000)
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--jobs", "1"]
    if from_file:
        words += ["--data", str(_criteo(tmp_path / "train.txt", 2100)), "--max-rows", "2000"]
    code, printed, err = call(capsys, *words)
    assert code == 0, err
    methods = {c.method for c in calls}
    assert methods == set(method_names())
    assert {c.batch_size for c in calls} == {demo_settings.BATCH_SIZE}
    assert {c.table_learning_rate for c in calls} == {demo_settings.TABLE_RATE}
    assert "report.png" in printed
    (folder,) = out.glob("train-2000-????????" if from_file else "synthetic")
    rows = json.loads((folder / "summary.json").read_text())["data"]["num_rows"]
    assert sum(rows.values()) == (2000 if from_file else 20_000)
    num_calls = len(calls)
    code, _, _ = call(capsys, *words)
    assert code == 0
    assert len(calls) == num_calls
    assert not list(out.glob("*.txt"))


def test_demo_prepares_a_file_of_the_same_name_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(request: object, base: object, **_: object) -> None:
        raise InterruptedError

    def run(raw: Path) -> dict[Path, int]:
        with pytest.raises(InterruptedError):
            demo_settings.run_demo(tmp_path / "demo", raw, max_rows=200)
        found = sorted((tmp_path / "demo").glob("data-train-200-*/manifest.json"))
        return {path: path.stat().st_mtime_ns for path in found}

    monkeypatch.setattr(demo_settings, "compare", stop)
    for folder in "ab":
        (tmp_path / folder).mkdir()
    one, other = (_criteo(tmp_path / folder / "train.txt") for folder in "ab")
    other.write_bytes(gzip.compress(other.read_bytes()))  # without the suffix, too
    first = run(one)
    assert run(one) == first
    assert len(run(other)) == 2
    os.utime(one, (1, 1))
    assert len(run(one)) == 3
    with pytest.raises(ValueError, match=r"no file .*missing"):
        demo_settings.run_demo(tmp_path / "demo", tmp_path / "missing")


def test_a_search_ends_in_a_plan_that_trains_from_its_start(
    capsys: Captured, tmp_path: Path
) -> None:
    """The command that `search` prints is the one that trains what it found."""

    data = write_folder(tmp_path / "data")
    shape = tmp_path / "shape.toml"
    shape.write_text("bottom = [16]\ntop = [16, 1]\ndim = 8\nbatch_size = 64\nquiet = true\n")
    shared = ("--data", data, "--config", shape, "--threads", 1)
    plan, out = tmp_path / "plan.json", tmp_path / "found"
    words = ("--method", "magnitude:train.threshold=20", "--budget", "6kB", "--out", out)
    code, text, err = call(capsys, "search", *shared, *words, "-o", plan)
    assert code == 0, err
    assert "which is few" in text
    assert "Ids kept" in text
    assert "--epochs 0" in text
    assert (out / "plans" / "6000.png").is_file()
    start = tmp_path / "plan.start.safetensors"
    train = ("train", *shared, "--plan", plan, "--epochs", 0)
    code, _, err = call(capsys, *train, "--start", start, "--out", tmp_path / "a")
    assert code == 0, err
    code, _, err = call(capsys, *train, "--start", shape, "--out", tmp_path / "b")
    assert code == 1
    assert "is not a whole safetensors file" in err
    code, _, err = call(capsys, *train, "--out", tmp_path / "c")
    assert code == 1
    assert "epochs is 0 and there is no start" in err
    for words, message in (
        (("search", *shared, "--method", "full", "--budget", "6kB"), "'full' is a method"),
        (("search", *shared, "--method", "pep,dnis", "--budget", "6kB"), "one search at a time"),
        (("plan", "--data", data, "--method", "pep", "--budget", "6kB"), "'pep' is a search"),
        (("report", out), "no plan of theirs was trained"),
    ):
        code, _, err = call(capsys, *words)
        assert code == 1
        assert message in err


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("dnis", "bottom = [16]\ntop = [16, 1]\n"),
        ("dnis:retrain=prune_then_masked_finetune", "bottom = [16]\ntop = [16, 1]\n"),
        ("optembed", 'model = "deepfm"\nhidden = [16]\n'),
    ],
)
def test_the_printed_command_trains_what_was_found(
    capsys: Captured, tmp_path: Path, method: str, shape: str
) -> None:
    """Word by word, but for the folder of the run; of a model that is not the default one."""
    data, out = write_folder(tmp_path / "data"), tmp_path / "found"
    (tmp_path / "shape.toml").write_text(shape)
    words_of_shape = ("--config", tmp_path / "shape.toml", "--dim", 12)
    method = f"{method}:train.threshold=20"
    words = ("--method", method, "--budget", "12kB", "--out", out, *words_of_shape)
    code, text, err = call(capsys, "search", "--data", data, *words, "--threads", 1)
    assert code == 0, err
    (line,) = re.findall(r"^train it: compactrec (train .*)$", text, re.MULTILINE)
    printed = shlex.split(line)
    assert printed[-2:] == ["--out", "runs/searched-12000"]
    run = tmp_path / "run"
    code, _, err = call(capsys, *printed[:-1], run)
    assert code == 0, err
    found, result = SearchResult.load(out).found[0], Result.load(run)
    assert result.bytes.serving_bytes == found.serving_bytes <= 12_000
    assert result.plan == json.loads((out / str(found.plan)).read_text())
    assert found.start is not None
    assert result.start_sha256 is not None
    assert result.num_steps == (0 if found.epochs == 0 else 1)
