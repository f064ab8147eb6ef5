"""Bad input is named by file and line, or set aside on request; a folder is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest

from compactrec.benchmarks.result import MODEL_NAME, RESULT_NAME
from compactrec.benchmarks.search_result import SEARCH_NAME
from compactrec.benchmarks.study import COMPARE_NAME
from compactrec.benchmarks.tune_file import TUNE_NAME
from compactrec.data.folder import RUN_FILES, building
from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.progress import progress_bar
from compactrec.data.schema import Dense, Label, Layout, Sparse, TableSchema
from compactrec.data.spool import Spool
from compactrec.locks import locked
from tests.data.folders import GOLDEN_LINES, criteo_line, read_rows
from tests.run_code import command, run_code

GOOD = [criteo_line(row % 2, {}, {"C1": f"{row:08x}"}, row) for row in range(60)]


def with_field(line: str, column: int, text: str) -> str:
    fields = line.split("\t")
    fields[column] = text
    return "\t".join(fields)


BAD_LINES = [
    (GOOD[7] + "\textra", r"expected 40 fields separated by '\\t', got 41"),
    (GOOD[7].rsplit("\t", 1)[0], r"expected 40 fields separated by '\\t', got 39"),
    ("", r"expected 40 fields separated by '\\t', got 1"),
    (with_field(GOOD[7], 0, "2"), "label field 'label' must be 0 or 1 .*got '2'"),
    (with_field(GOOD[7], 0, ""), "label field 'label' must be 0 or 1 .*got nothing"),
    (with_field(GOOD[7], 3, "1.5.2"), "field 'I3' must be a finite number, got '1.5.2'"),
    (with_field(GOOD[7], 3, "inf"), "field 'I3' must be a finite number, got 'inf'"),
    (with_field(GOOD[7], 3, "nan"), "field 'I3' must be a finite number, got 'nan'"),
    (with_field(GOOD[7], 14, "05db916g"), r"field 'C1' must be hexadecimal below 2\^32, got '05db"),
    (
        with_field(GOOD[7], 39, "105db9164"),
        r"field 'C26' must be hexadecimal below 2\^32, got '105",
    ),
    (with_field(GOOD[7], 39, "-5db9164"), r"field 'C26' must be hexadecimal below 2\^32, got '-5d"),
]


def write(folder: Path, lines: list[str], name: str = "train.txt") -> Path:
    path = folder / name
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


@pytest.mark.parametrize(("bad", "words"), BAD_LINES)
@pytest.mark.parametrize("block_bytes", [4000, 1 << 20])
def test_malformed_row(tmp_path: Path, bad: str, words: str, block_bytes: int) -> None:
    source = write(tmp_path, [*GOOD[:23], bad, *GOOD[23:]])
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=rf"train.txt, line 24: {words}.*--on-bad-row skip, in Python on_"
    ):
        prepare([source], "criteo", out, PrepareOptions(block_bytes=block_bytes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.txt"]

    options = PrepareOptions(block_bytes=block_bytes, on_bad_row="skip")
    manifest = prepare([source], "criteo", out, options)
    assert manifest.counters.malformed_rows == 1
    clean = prepare([write(tmp_path, GOOD, "clean.txt")], "criteo", tmp_path / "clean")
    assert manifest.splits == clean.splits
    header, rejected = (out / "rejected.tsv").read_text().splitlines()
    assert header == "file\tline\treason\ttext"
    cells = rejected.split("\t")
    assert cells[:2] == [str(source), "24"]
    assert len(cells) == 4
    assert json.loads(cells[3]) == bad


def test_many_bad_rows_in_order_of_lines(tmp_path: Path) -> None:
    lines = [
        bad if row % 5 == 2 else line
        for row, line in enumerate(GOOD)
        for bad, _ in [BAD_LINES[row % 11]]
    ]
    source = write(tmp_path, lines)
    options = PrepareOptions(on_bad_row="skip", block_bytes=3000)
    manifest = prepare([source], "criteo", tmp_path / "out", options)
    assert manifest.counters.malformed_rows == 12
    rows = (tmp_path / "out/rejected.tsv").read_text().splitlines()[1:]
    assert [int(row.split("\t")[1]) for row in rows] == list(range(3, 61, 5))
    assert sum(split.num_rows for split in manifest.splits.values()) == 48


def test_bad_row_of_a_second_file(tmp_path: Path) -> None:
    files = [write(tmp_path, GOOD, "day_1"), write(tmp_path, [GOOD[0], "x"], "day_2")]
    with pytest.raises(ValueError, match=r"day_2, line 2: expected 40 fields"):
        prepare(files, "criteo", tmp_path / "out")


def test_header_lines_count(tmp_path: Path) -> None:
    schema = TableSchema(
        name="t", layout=Layout(quote='"'), label=Label(field="y"), sparse=(Sparse(name="a"),)
    )
    source = write(tmp_path, ["a,y", '"x, ""y""",1', "z,0", '"broken,1', "w,1"])
    with pytest.raises(ValueError, match=r"train.txt, line 4: the quotes do not match"):
        prepare([source], schema, tmp_path / "out")
    options = PrepareOptions(on_bad_row="skip", split={"validation": 0, "test": 1})
    prepare([source], schema, tmp_path / "out", options)
    assert read_rows(tmp_path / "out", "train")["a"] == [1, 2]


def test_missing_column_and_wrong_encoding(tmp_path: Path) -> None:
    schema = TableSchema(
        name="t",
        layout=Layout(),
        label=Label(field="y"),
        sparse=(Sparse(name="a"), Sparse(name="b")),
    )
    with pytest.raises(ValueError, match=r"has no column \['b'\]; its columns are \['a', 'y'\]"):
        prepare([write(tmp_path, ["a,y", "1,1"])], schema, tmp_path / "out")
    path = tmp_path / "latin"
    path.write_bytes("a,b,y\nu,v,1\nä,ö,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin, line 3: not valid UTF-8 .*latin-1"):
        prepare([path], schema, tmp_path / "out")


def test_int_without_a_missing_token(tmp_path: Path) -> None:
    schema = TableSchema(
        name="t",
        layout=Layout(),
        label=Label(field="y"),
        sparse=(Sparse(name="a", type="int"),),
        dense=(Dense(name="d", type="int"),),
    )
    good = ["a,d,y", *(f"{i % 3 - 1},{i},{i % 2}" for i in range(20))]
    for bad, words in (
        (",3,1", "field 'a' must be a whole number of 64 bits, got nothing"),
        ("1.0,3,1", "field 'a' must be a whole number of 64 bits, got '1.0'"),
        ("9223372036854775808,3,1", "field 'a' must be a whole number of 64 bits"),
        ("1,3.5,1", "field 'd' must be a whole number of 64 bits, got '3.5'"),
    ):
        with pytest.raises(ValueError, match=rf"line 22: {words}"):
            prepare([write(tmp_path, [*good, bad])], schema, tmp_path / "out")


def test_nothing_usable(tmp_path: Path) -> None:
    source = write(tmp_path, [with_field(line, 0, "7") for line in GOOD])
    with pytest.raises(ValueError, match="no usable rows: 60 malformed, 0 dropped"):
        prepare([source], "criteo", tmp_path / "out", PrepareOptions(on_bad_row="skip"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty.txt is empty"):
        prepare([tmp_path / "empty.txt"], "criteo", tmp_path / "out")


def test_files_argument(tmp_path: Path) -> None:
    source = write(tmp_path, GOOD)
    for files, words in (
        ([], "no input files"),
        ([source, tmp_path / "x/../train.txt"], r"given more than once: \['.*train.txt'\]"),
        ({"train": [source], "test": [source]}, r"given more than once: \['.*train.txt'\]"),
        ({"train": [source], "dev": [source]}, r"files per split need 'train'.*\['dev', 'train'\]"),
        ({"test": [source]}, "files per split need 'train'"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare(files, "criteo", tmp_path / "out")  # type: ignore[arg-type]
    options = PrepareOptions(split={"rule": "time"})
    with pytest.raises(ValueError, match="given per split already, got split rule 'time'"):
        prepare({"train": [source]}, "criteo", tmp_path / "out", options)
    options = PrepareOptions(split={"rule": "files"})
    with pytest.raises(ValueError, match="rule 'files', which needs one list of files per split"):
        prepare([source], "criteo", tmp_path / "out", options)


def test_one_path_is_a_list_of_one(tmp_path: Path) -> None:
    source, other = write(tmp_path, GOOD), write(tmp_path, GOOD[:7], "other.txt")
    whole = prepare(str(source), "criteo", tmp_path / "out")
    assert sum(split.num_rows for split in whole.splits.values()) == len(GOOD)
    files = {"train": str(source), "test": other}
    manifest = prepare(files, "criteo", tmp_path / "apart")
    assert {k: v.num_rows for k, v in manifest.splits.items()} == {"train": 60, "test": 7}


def test_day_files_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    parts = [write(tmp_path, GOOD[i * 5 : i * 5 + 5], f"day_{i}") for i in range(12)]
    as_a_shell_does = sorted(parts)
    assert as_a_shell_does != parts
    with pytest.warns(UserWarning, match="order of their numbers.*'day_9', 'day_10', 'day_11'"):
        manifest = prepare(as_a_shell_does, "criteo", tmp_path / "out")
    assert [source.name for source in manifest.sources] == [path.name for path in parts]
    own = [parts[3], parts[1], parts[2]]
    manifest = prepare(own, "criteo", tmp_path / "own")  # an order of one's own is kept
    assert [source.name for source in manifest.sources] == ["day_3", "day_1", "day_2"]


def test_existing_folders_are_kept(tmp_path: Path) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    out.mkdir()
    first = prepare([source], "criteo", out)  # an empty folder is fine
    with pytest.raises(ValueError, match="is a data folder already"):
        prepare([source], "criteo", out)
    second = prepare([source], "criteo", out, PrepareOptions(overwrite=True, name="again"))
    assert Manifest.load(out) == second
    assert first.splits == second.splits
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ValueError, match="exists and is not a data folder"):
        prepare([source], "criteo", tmp_path / "mine", PrepareOptions(overwrite=True))
    assert (tmp_path / "mine/file").exists()


@pytest.mark.parametrize(
    "name", ["result.json", "runs/a/checkpoint/best-000000100.safetensors", "a/compare.json"]
)
def test_a_run_in_the_folder_is_kept(tmp_path: Path, name: str) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    prepare([source], "criteo", out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).touch()
    message = rf"out is a data folder with a run in it \({name}\), which overwriting would delete;"
    with pytest.raises(ValueError, match=f"{message} move that away, or choose another folder"):
        prepare([source], "criteo", out, PrepareOptions(overwrite=True))
    assert (out / name).exists()
    (out / name).unlink()
    prepare([source], "criteo", out, PrepareOptions(overwrite=True))


def test_what_runs_leave_is_known() -> None:
    left = (RESULT_NAME, SEARCH_NAME, TUNE_NAME, COMPARE_NAME, MODEL_NAME)
    assert all(any(PurePath(name).match(kind) for kind in RUN_FILES) for name in left)


def test_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    first = prepare([source], "criteo", out)
    bad = write(tmp_path, [*GOOD, "x"], "bad.txt")
    with pytest.raises(ValueError, match=r"line 61"):
        prepare([bad], "criteo", out, PrepareOptions(overwrite=True))
    assert Manifest.load(out) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.txt", "out", "train.txt"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Spool, array: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = write(tmp_path, GOOD)
    monkeypatch.setattr(Spool, "append", full)
    with pytest.raises(OSError, match=r"disk of .* is full; nothing"):
        prepare([source], "criteo", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.txt"]


@pytest.mark.parametrize("stage", ["numbering", "writing"])
def test_killed_run_leaves_nothing_that_looks_whole(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stage: str
) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    code = (
        "import os, signal, sys; from compactrec.data.prepare import prepare\n"
        "def stop(stage, done, total):\n"
        f"    if stage == {stage!r}: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prepare([{str(source)!r}], 'criteo', {str(out)!r}, None, stop)"
    )
    status, _, errors = run_code(code, tmp_path_factory.mktemp("run"), 60)
    assert status == -signal.SIGKILL, errors
    assert not out.exists()
    assert (tmp_path / ".out.partial").exists()
    manifest = prepare([source], "criteo", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "train.txt"]
    manifest.verify(out)


def test_two_runs_do_not_build_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with building(out) as folder:
        (folder / "half").touch()
        with pytest.raises(ValueError, match="another run is writing"), building(out):
            pass
        assert (folder / "half").exists()
    assert (out / "half").exists()


def test_lock_whose_file_is_taken_away_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", fcntl.flock, []

    def flock(handle: object, operation: int) -> None:
        real(handle, operation)  # type: ignore[arg-type]
        calls.append(operation)
        if len(calls) == 1:  # what a run does that ends after this one has opened the file
            (tmp_path / ".out.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(out):
        assert len(calls) == 2
        with pytest.raises(ValueError, match="another run is writing"), locked(out):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    words = ["prepare", "criteo", str(source), "--out", str(out)]
    with locked(out):
        status, _, errors = run_code(command(words), tmp_path, 60)
    assert status == 1
    assert "another run is writing" in " ".join(errors.split())
    assert not out.exists()


def test_killed_between_the_last_two_renames(tmp_path: Path) -> None:
    source, out = write(tmp_path, GOOD), tmp_path / "out"
    first = prepare([source], "criteo", out)
    out.rename(tmp_path / ".out.old")
    with pytest.raises(ValueError, match="is a data folder already"):
        prepare([source], "criteo", out)
    assert Manifest.load(out) == first


def test_progress_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "train.txt.gz"
    path.write_bytes(gzip.compress("\n".join(GOLDEN_LINES * 3).encode()))
    calls: list[tuple[str, int, int]] = []
    prepare(
        [path],
        "criteo",
        tmp_path / "out",
        PrepareOptions(block_bytes=1000),
        lambda *call: calls.append(call),
    )
    for stage in ("reading", "numbering", "writing"):
        done = [call[1] for call in calls if call[0] == stage]
        totals = {call[2] for call in calls if call[0] == stage}
        assert len(totals) == 1
        assert done == sorted(done)
        assert len(set(done)) > 1 or stage == "reading"  # the file is smaller than one read
        assert done[-1] == totals.pop() > 0
    assert [name for i, (name, _, _) in enumerate(calls) if not i or calls[i - 1][0] != name] == [
        "reading",
        "numbering",
        "writing",
    ]


def test_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        prepare([write(tmp_path, GOOD)], "criteo", tmp_path / "out", None, progress)
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in ("reading", "numbering", "writing"))


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_missing_package_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import compactrec.data.prepare"
    environment = {**os.environ, "PYTHONPATH": "src"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"needs polars and pyarrow, and '{package}' is not installed" in ended.stderr
