"""Running a protocol: what is refused, what is marked, and what stands beside the figures."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import compactrec.benchmarks.protocol_run as protocol_run
from compactrec.benchmarks.compare import CompareRequest
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.protocol_data import data_folder, marks_of
from compactrec.benchmarks.protocol_file import ProtocolFile, load_protocol
from compactrec.benchmarks.protocol_run import ProtocolRequest, changes_of, note_of, run_protocol
from compactrec.benchmarks.published import published_lines
from compactrec.benchmarks.report import html_page, write_report
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.study import CompareFile
from compactrec.benchmarks.summary import Summary
from compactrec.benchmarks.tuning import Tuning
from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from tests.benchmarks.fake_runs import fake_result
from tests.benchmarks.made_files import made_criteo

QUIET = Console(quiet=True)


class Recorder:
    """A runner that writes a fake result."""

    def __init__(self) -> None:
        self.configs: list[TrainConfig] = []

    def __call__(self, config: TrainConfig) -> Result:
        self.configs.append(config)
        assert config.method is not None
        return fake_result(
            config.out, config.method, config.budget_bytes, config.seed, 0.4, num_rows=300
        )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_criteo(tmp_path_factory.mktemp("raw") / "train.txt")


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder by the rules of dlrm-kaggle."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare([raw], "criteo", out, PrepareOptions(protocol="dlrm-kaggle"))
    return out


def run(
    protocol: ProtocolFile, files: Path, out: Path, **asked: object
) -> tuple[list[TrainConfig], Summary]:
    runner = Recorder()
    request = ProtocolRequest.model_validate(
        {"files": {"train": [files]}, "out": out, "num_seeds": 2, **asked}
    )
    folders = run_protocol(protocol, request, runner=runner, console=QUIET)
    return runner.configs, write_report(folders[:1], folders[0]).summary


def test_the_whole_protocol_is_run_from_raw_files(raw: Path, tmp_path: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    configs, summary = run(protocol, raw, tmp_path)
    assert {c.seed for c in configs} == {0, 1}
    assert {(c.batch_size, c.dense_optimizer, c.model, c.method) for c in configs} == {
        (128, "sgd", "dlrm", "full")
    }
    assert Manifest.load(tmp_path / "data").protocol == "dlrm-kaggle"
    note = summary.protocol
    assert note is not None
    assert note.changes == ()
    assert note.marks[0] == "a sample: 350 of 45,840,617 rows"
    assert note.marks[1].endswith("ids instead of 33,762,577")
    lines = {(line.metric, line.published): line for line in published_lines(summary)}
    assert set(lines) == {("accuracy", p) for p in (0.79, 0.789, 0.781)} | {("logloss", 0.452)}
    full = summary.full
    assert full is not None
    cells = lines["logloss", 0.452].cells
    assert cells[3:6] == (
        f"{full.test['logloss']:.4f}", "0.4520", f"{full.test['logloss'] - 0.452:+.4f}",
    )  # fmt: skip


def test_budgets_of_figures_are_shown_where_ours_were_not_run(raw: Path, tmp_path: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    figures = protocol.figures[0]
    cell = figures.cells[0].model_copy(update={"method": "hash", "budget": "25054380B"})
    figures = figures.model_copy(update={"cells": (cell,)})
    _, summary = run(protocol.model_copy(update={"figures": (figures,)}), raw, tmp_path)
    assert {line.cells[:2] for line in published_lines(summary)} == {("hash", "25.1 MB")}
    assert {line.cells[3] for line in published_lines(summary)} == {"not run"}


def test_figures_are_printed_with_source_and_caveat_everywhere(raw: Path, tmp_path: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    _, summary = run(protocol, raw, tmp_path)
    from compactrec.benchmarks.show import terminal_table

    console = Console(record=True, width=200, file=io.StringIO())
    console.print(terminal_table(summary))
    texts = {
        "markdown": (tmp_path / "dlrm" / "report.md").read_text(),
        "page": html_page(summary),
        "terminal": re.sub(r"\s+", " ", console.export_text()),
        "json": (tmp_path / "dlrm" / "summary.json").read_text(),
    }
    for where, text in texts.items():
        assert "0.79" in text, where
        for figures in protocol.figures:
            for part in (figures.source, figures.provenance, figures.caveat):
                assert part in text.replace("&#39;", "'"), (where, part)
            for cell in figures.cells:
                assert (cell.note or "") in text, (where, cell)
        assert "a sample: 350 of 45,840,617 rows" in text, where
        assert protocol.caveats[0] in text, where


def test_a_change_is_refused_and_with_leave_it_is_listed(prepared: Path, tmp_path: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    changes = {"batch_size": 4096, "dense_optimizer": "adam", "top": [64, 1]}
    words = (
        "protocol 'dlrm-kaggle' fixes what was asked for otherwise: batch_size 4096 instead of "
        r"128; dense_optimizer adam instead of sgd; top \[64, 1\] instead of \[512, 256, 1\].*"
        "give --allow-changes"
    )
    with pytest.raises(ValueError, match=words):
        run(protocol, prepared, tmp_path, changes=changes)
    assert not (tmp_path / "dlrm").exists()
    _, summary = run(protocol, prepared, tmp_path, changes=changes, allow_changes=True)
    assert summary.protocol is not None
    assert summary.protocol.deviations[0] == "not comparable: batch_size 4096 instead of 128"
    assert "not comparable: batch_size 4096" in (tmp_path / "dlrm" / "report.md").read_text()


@pytest.mark.parametrize(
    "changes", [{"table_eps": 1e-3}, {"epochs": 2}, {"dim": 32}, {"decay_mode": "dense_coupled"}]
)
def test_defaults_that_the_file_does_not_name_are_fixed_too(
    prepared: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    protocol = load_protocol("dlrm-kaggle")
    (name,) = changes
    if name == "decay_mode":  # does nothing without a decay, so it changes nothing
        run(protocol, prepared, tmp_path, changes=changes)
        return
    with pytest.raises(ValueError, match=f"otherwise: {name} .* instead of"):
        run(protocol, prepared, tmp_path, changes=changes)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("patience", 3, "3 instead of 2"),
        ("patience", None, "none instead of 2"),
        (
            "schedule",
            {"plateau_factor": 0.5},
            ".*'plateau_factor': 0.5.* instead of .*'plateau_factor': 0.1",
        ),
        ("monitor", "auc", "none instead of auc_minus_logloss"),
        ("table_decay", 1e-6, "1e-06 instead of 1e-05"),
        ("table_decay", 0.0, "none instead of 1e-05"),
        ("decay_mode", "dense_decoupled", "dense_decoupled instead of dense_coupled"),
        ("max_grad_norm", 5.0, "5 instead of 10"),
        ("dense_weight_decay", 1e-5, "1e-05 instead of 0"),
        ("embedding_decay", 1e-5, "1e-05 instead of 0"),
        ("evals_per_epoch", 2, "2 instead of 1"),
        ("eval_every_steps", 10, "10 instead of none"),
        ("accumulate_steps", 2, "2 instead of none"),
        ("dense_dtype", "bfloat16", "bfloat16 instead of none"),
        ("dense_learning_rate", 0.01, "0.01 instead of 0.001"),
        ("table_learning_rate", 0.01, "0.01 instead of 0.001"),
        ("table_optimizer", "adagrad", "adagrad instead of adam"),
        ("init_std", 0.01, "0.01 instead of 0.0001"),
        ("init_std", "method", "none instead of 0.0001"),
        ("dense_eps", 1e-5, "1e-05 instead of none"),
        ("score_test", False, "False instead of True"),
    ],
)
def test_every_field_of_training_is_fixed(
    tmp_path: Path, field: str, value: object, words: str
) -> None:
    protocol = load_protocol("bars-criteo-x4-001")
    request = ProtocolRequest(files={}, out=tmp_path, changes={field: value})
    (change,) = changes_of(protocol, "fm", request)
    assert re.match(f"{field} {words}", change), change


def test_methods_budgets_and_seeds_are_those_of_the_protocol_or_those_asked_for(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CompareRequest] = []
    monkeypatch.setattr(protocol_run, "compare", lambda asked, base, **rest: seen.append(asked))
    own = {"methods": ("uniform",), "budgets": ("28kB", "30kB"), "seeds": 4}
    protocol = load_protocol("dlrm-kaggle").model_copy(update=own)
    for asked in ({}, {"methods": ("rare",), "budgets": ("1/2",), "num_seeds": 2}):
        request = ProtocolRequest.model_validate(
            {"files": {"train": [prepared]}, "out": tmp_path, **asked}
        )
        run_protocol(protocol, request)
    assert [(r.methods, r.budgets, r.num_seeds) for r in seen] == [
        (("uniform",), ("28kB", "30kB"), 4), (("rare",), ("1/2",), 2),
    ]  # fmt: skip


@pytest.mark.parametrize(("num_seeds", "mark"), [(1, "1 seed"), (3, "3 seeds")])
def test_fewer_seeds_than_figures_are_means_of_are_marked(
    prepared: Path, num_seeds: int, mark: str
) -> None:
    manifest = Manifest.load(prepared)
    protocol = load_protocol("unified-criteo")
    marks = note_of(protocol, "dcnv2", [], manifest, num_seeds).marks
    assert f"{mark} instead of 5" in marks
    assert not any("seed" in m for m in note_of(protocol, "dcnv2", [], manifest, 5).marks)
    silent = load_protocol("bars-criteo-x4-001")  # which says nothing of seeds
    assert not any("seed" in m for m in note_of(silent, "fm", [], manifest, 1).marks)


def test_a_note_of_a_single_figure_is_part_of_its_caveat(prepared: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    group, cell = next(iter(protocol.published("dlrm")))
    assert cell.note == "The accuracy is just under it."
    figure = note_of(protocol, "dlrm", [], Manifest.load(prepared), 3).figures[0]
    assert figure.caveat == f"{group.caveat} {cell.note}"


def test_tuning_is_a_change(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 settings tried on validation rows instead of"):
        run(load_protocol("dlrm-kaggle"), prepared, tmp_path, tuning=Tuning(num_trials=2))


def test_where_it_runs_and_what_is_compared_is_free(prepared: Path, tmp_path: Path) -> None:
    changes = {"engine": "eager", "num_threads": 1, "threshold": 10, "eval_batch_size": 50}
    configs, summary = run(
        load_protocol("dlrm-kaggle"), prepared, tmp_path, changes=changes,
        methods=("uniform",), budgets=("1/2",), num_seeds=1,
    )  # fmt: skip
    assert {"full", "uniform"} <= {str(c.method) for c in configs}
    assert summary.protocol is not None
    assert summary.protocol.changes == ()


def test_a_folder_of_another_preparation_is_refused_with_the_command(
    raw: Path, tmp_path: Path
) -> None:
    prepare([raw], "criteo", tmp_path / "other", PrepareOptions())
    words = (
        "other was prepared by the rules of 'compactrec', and protocol 'dlrm-kaggle' needs those "
        "of 'dlrm-kaggle'.*'compactrec prepare criteo train.txt --protocol dlrm-kaggle --out FOLDER"
    )
    with pytest.raises(ValueError, match=words):
        run(load_protocol("dlrm-kaggle"), tmp_path / "other", tmp_path, allow_changes=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is neither a file nor a data folder"):
        run(load_protocol("dlrm-kaggle"), tmp_path / "empty", tmp_path)


def test_a_folder_with_other_columns_is_refused(prepared: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(prepared)
    schema = {**manifest.table_schema, "sparse": manifest.table_schema["sparse"][1:]}
    (tmp_path / "less").mkdir()
    manifest.model_copy(update={"table_schema": schema}).save(tmp_path / "less")
    with pytest.raises(ValueError, match="less was prepared with other columns than protocol"):
        run(load_protocol("dlrm-kaggle"), tmp_path / "less", tmp_path)


def test_data_is_prepared_once_and_not_taken_for_that_of_other_files(
    raw: Path, tmp_path: Path
) -> None:
    protocol = load_protocol("dlrm-kaggle")
    folder = data_folder(protocol, {"train": [raw]}, tmp_path)
    made = (folder / "manifest.json").stat().st_mtime_ns
    assert data_folder(protocol, {"train": [raw]}, tmp_path) == folder == tmp_path / "data"
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    other = made_criteo(tmp_path / "raw" / "train.txt", 420)
    words = r"data was prepared from other files than .*train\.txt"
    with pytest.raises(ValueError, match=words):
        data_folder(protocol, {"train": [other]}, tmp_path)
    content = raw.read_bytes()
    flipped = {ord("0"): b"1", ord("1"): b"0"}[content[0]]
    other.write_bytes(flipped + content[1:])  # as long, and one label is another
    with pytest.raises(ValueError, match=words):
        data_folder(protocol, {"train": [other]}, tmp_path)
    other.write_bytes(content)  # the same file elsewhere
    assert data_folder(protocol, {"train": [other]}, tmp_path) == folder
    with pytest.raises(ValueError, match=r"no file .*nowhere\.txt"):
        data_folder(protocol, {"train": [tmp_path / "nowhere.txt"]}, tmp_path)


@pytest.mark.parametrize(
    ("rows", "num_ids", "marks"),
    [
        ({"train": 300, "validation": 25, "test": 25}, None, []),
        ({"train": 299, "validation": 25, "test": 26}, None, []),
        (
            {"train": 290, "validation": 30, "test": 30}, 7,
            [
                "a vocabulary of 30 ids instead of 7",
                "another split: train 300 rows instead of 290, validation 25 rows instead of 30, "
                "test 25 rows instead of 30",
            ],
        ),
        ({"train": 400, "validation": 25, "test": 25}, 30, ["a sample: 350 of 450 rows"]),
        ({"train": 30, "validation": 5, "test": 5}, 30, ["other data: 350 rows instead of 40"]),
        ({}, 30, ["whether these are all rows cannot be checked: their number is not known here"]),
    ],
)  # fmt: skip
def test_marks_of_the_data(
    prepared: Path, rows: dict[str, int], num_ids: int | None, marks: list[str]
) -> None:
    manifest = Manifest.load(prepared)
    feature = manifest.sparse[0].model_copy(update={"num_ids": 30})
    manifest = manifest.model_copy(update={"sparse": (feature,)})
    data = load_protocol("dlrm-kaggle").data
    data = data.model_copy(update={"rows": rows, "num_ids": num_ids})
    assert sorted(marks_of(data, manifest)) == sorted(marks)


def test_malformed_rows_are_marked(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    counters = manifest.counters.model_copy(update={"malformed_rows": 1234})
    marks = list(marks_of(load_protocol("dlrm-kaggle").data, manifest))
    assert not any("malformed" in mark for mark in marks)
    manifest = manifest.model_copy(update={"counters": counters})
    added = set(marks_of(load_protocol("dlrm-kaggle").data, manifest)) - set(marks)
    assert added == {"1,234 malformed rows were left out"}


def test_tokens_modulo_a_number_are_marked(raw: Path, prepared: Path, tmp_path: Path) -> None:
    protocol = load_protocol("dlrm-kaggle")
    prepare([raw], "criteo", tmp_path / "less", PrepareOptions(
        protocol="dlrm-kaggle", max_ind_range=10_000_000,
    ))  # fmt: skip
    mark = "tokens were taken modulo 10,000,000 (--max-ind-range)"
    _, summary = run(protocol, tmp_path / "less", tmp_path)
    assert summary.protocol is not None
    assert mark in summary.protocol.marks
    assert mark not in marks_of(protocol.data, Manifest.load(prepared))


def test_a_random_split_is_marked_where_the_published_one_is_in_files(
    raw: Path, tmp_path: Path
) -> None:
    protocol = load_protocol("bars-criteo-x4-001")
    mark = "a random split of our own: the published one is in files, one for each split"
    folder = data_folder(protocol, {"train": [raw]}, tmp_path)
    assert mark in marks_of(protocol.data, Manifest.load(folder))
    parts = {s: [made_criteo(tmp_path / f"{s}.txt", 90, i)] for i, s in enumerate(
        ("train", "validation", "test")
    )}  # fmt: skip
    folder = data_folder(protocol, parts, tmp_path / "apart")
    assert mark not in marks_of(protocol.data, Manifest.load(folder))


def test_several_models_have_a_folder_each(raw: Path, tmp_path: Path) -> None:
    protocol = load_protocol("bars-criteo-x4-001")
    request = ProtocolRequest(
        files={"train": (raw,)}, out=tmp_path, models=("dcnv2", "fm"), num_seeds=1
    )
    folders = run_protocol(protocol, request, runner=Recorder(), console=QUIET)
    assert [folder.name for folder in folders] == ["dcnv2", "fm"]
    notes = [CompareFile.load(folder).protocol for folder in folders]
    assert [note and note.model for note in notes] == ["dcnv2", "fm"]
    assert [[f.metrics["auc"] for f in note.figures] for note in notes if note] == [
        [0.814514], [0.8086],
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"is about lr, fm.*got model 'gdcn'"):
        run_protocol(protocol, request.model_copy(update={"models": ("gdcn",)}))
