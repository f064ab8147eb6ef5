"""The Criteo protocols: literal expected output, and the slow reference on the same lines."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.split import SplitRule
from tests.data.folders import GOLDEN_LINES, criteo_line, read_rows
from tests.reference.criteo_reference import DENSE, SPARSE, Prepared, bars_x4, dlrm_kaggle
from tests.reference.table_reference import row_splits

MANY_LINES = [
    criteo_line(
        int(row % 3 == 0),
        {"I1": "" if row % 4 == 0 else str(row % 11 - 2), "I2": str(row * row % 97)},
        {"C1": f"{row % 7 + 0x7FFFFFFC:08x}", "C3": "" if row % 3 else f"{row * row % 19:08x}"},
        row,
    )
    for row in range(163)
]


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


def run(tmp_path: Path, lines: list[str], **options: object) -> tuple[Manifest, Path]:
    source = write(tmp_path / "train.txt", lines)
    out = tmp_path / "out"
    return prepare([source], "criteo", out, PrepareOptions.model_validate(options)), out


def check_equal(manifest: Manifest, folder: Path, expected: Prepared) -> None:
    names = [feature.name for feature in manifest.sparse]
    counts = manifest.counts(folder)
    for feature in manifest.sparse:
        assert feature.num_ids == expected.num_ids[feature.name]
        assert counts[feature.name].tolist() == expected.counts[feature.name]
    for split, labels in expected.labels.items():
        rows = read_rows(folder, split)
        assert rows["label"] == labels
        assert [list(ids) for ids in zip(*(rows[n] for n in names), strict=True)] == expected.ids[
            split
        ]
        for number, name in enumerate(manifest.dense):
            np.testing.assert_array_equal(
                np.float32(rows[name]), [row[number] for row in expected.dense[split]]
            )


def test_dlrm_kaggle_golden(tmp_path: Path) -> None:
    manifest, out = run(tmp_path, GOLDEN_LINES, protocol="dlrm-kaggle")
    train, validation, test = (read_rows(out, s) for s in ("train", "validation", "test"))
    # 14 lines: two a day; the last day's first line is test, its second validation
    assert train["label"] == [0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert (test["label"], validation["label"]) == ([0], [1])
    assert train["C1"] == [0, 1, 0, 2, 1, 3, 1, 0, 1, 2, 4, 1]
    assert (test["C1"], validation["C1"]) == ([5], [1])
    assert train["C2"] == [0, 1, 2, 3, 0, 1, 4, 2, 0, 5, 1, 6]
    assert (test["C2"], validation["C2"]) == ([0], [7])
    assert train["C26"] == [0, 1, 2, 1, 0, 0, 3, 1, 2, 0, 1, 4]  # empty and 00000000 are one token
    assert (test["C26"], validation["C26"]) == ([5], [2])
    values = [1, 0, 5, 0, 2, 0, 0, 3, 1, 7, 0, 4]
    np.testing.assert_allclose(train["I1"], [math.log(v + 1) for v in values], rtol=1e-7)
    np.testing.assert_allclose(
        train["I2"], [math.log(v + 1) for v in (0, 0, 0, 2, 1, 0, 9, 4, 0, 23, 0, 231)], rtol=1e-7
    )
    assert manifest.feature("C1").num_ids == 6
    assert manifest.counts(out)["C1"].tolist() == [3, 5, 2, 1, 1, 0]
    assert manifest.feature("C1").oov_id is None
    tokens = pq.read_table(out / "vocabulary/C2.parquet")["token"].to_pylist()
    assert tokens[:5] == [0x80000000, 0xFFFFFFFF, 0, 0x7FFFFFFF, 0x80000001]
    assert manifest.counters.unseen_ids["test"]["C1"] == 1
    assert manifest.counters.positives == {"train": 4, "validation": 1, "test": 0}


def test_compactrec_golden(tmp_path: Path) -> None:
    manifest, out = run(tmp_path, GOLDEN_LINES)
    assert {s: v.num_rows for s, v in manifest.splits.items()} == {
        "train": 11,
        "validation": 1,
        "test": 2,
    }
    train, validation, test = (read_rows(out, s) for s in ("train", "validation", "test"))
    assert train["C1"] == [2, 1, 2, 3, 1, 4, 1, 2, 1, 3, 5]
    assert (validation["C1"], test["C1"]) == ([1], [0, 1])
    assert train["C26"] == [2, 1, 3, 1, 2, 4, 5, 1, 3, 2, 1]  # empty and 00000000 are two tokens
    assert (validation["C26"], test["C26"]) == ([0], [0, 3])
    assert manifest.counts(out)["C1"].tolist() == [0, 4, 3, 2, 1, 1]
    np.testing.assert_allclose(test["I2"], [0.0, math.log(4)], rtol=1e-7)
    assert manifest.counters.unseen_ids["test"]["C1"] == 1
    assert manifest.counters.unseen_ids["validation"]["C26"] == 1
    tokens = pq.read_table(out / "vocabulary/C26.parquet")["token"].to_pylist()
    assert tokens == [0xA, -1, 0xB, 0, 0xC]


@pytest.mark.parametrize(
    "lines", [GOLDEN_LINES, GOLDEN_LINES[:9] * 2 + GOLDEN_LINES[9:], MANY_LINES]
)
@pytest.mark.parametrize("max_ind_range", [None, 5])
@pytest.mark.parametrize("block_bytes", [1 << 20, 3000])
def test_dlrm_kaggle_equals_reference(
    tmp_path: Path, lines: list[str], max_ind_range: int | None, block_bytes: int
) -> None:
    manifest, out = run(
        tmp_path,
        lines,
        protocol="dlrm-kaggle",
        max_ind_range=max_ind_range,
        block_bytes=block_bytes,
        shard_rows=50,
    )
    check_equal(manifest, out, dlrm_kaggle(lines, max_ind_range or 0))


@pytest.mark.parametrize(("number", "min_count"), [("001", 10), ("002", 2)])
@pytest.mark.parametrize("block_bytes", [1 << 20, 5000])
def test_bars_equals_reference(
    tmp_path: Path, number: str, min_count: int, block_bytes: int
) -> None:
    manifest, out = run(
        tmp_path, MANY_LINES, protocol=f"bars-criteo-x4-{number}", block_bytes=block_bytes
    )
    assert [f.name for f in manifest.sparse] == DENSE + SPARSE
    assert manifest.dense == ()
    names = row_splits("x4", len(MANY_LINES), 0, "16/163", "16/163")
    splits = {
        split: [line for line, name in zip(MANY_LINES, names, strict=True) if name == split]
        for split in ("train", "validation", "test")
    }
    check_equal(manifest, out, bars_x4(splits, min_count))
    feature = manifest.feature("C3")
    assert (feature.padding_id, feature.oov_id) == (0, feature.num_ids - 1)


def test_bars_from_three_files(tmp_path: Path) -> None:
    header = ",".join(["label", *DENSE, *SPARSE])
    splits = {
        "train": MANY_LINES[:120],
        "validation": MANY_LINES[120:140],
        "test": MANY_LINES[140:],
    }
    files = {
        split: [write(tmp_path / f"{split}.csv", [header, *(x.replace("\t", ",") for x in lines)])]
        for split, lines in splits.items()
    }
    options = PrepareOptions(protocol="bars-criteo-x4-002")
    manifest = prepare(files, "criteo", tmp_path / "out", options)
    check_equal(manifest, tmp_path / "out", bars_x4(splits, 2))
    assert manifest.split_rule["rule"] == "files"


def test_formats_of_the_same_rows_give_the_same_folder(tmp_path: Path) -> None:
    header = ",".join(["label", *DENSE, *SPARSE])
    plain = write(tmp_path / "a.txt", MANY_LINES)
    crlf = write(tmp_path / "b.txt", MANY_LINES, "\r\n")
    comma = write(tmp_path / "c.csv", [header, *(line.replace("\t", ",") for line in MANY_LINES)])
    zipped = tmp_path / "d.txt.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    parts = [write(tmp_path / "day_1", MANY_LINES[:80]), write(tmp_path / "day_2", MANY_LINES[80:])]
    results = [
        prepare(files, "criteo", tmp_path / f"out{i}", PrepareOptions(block_bytes=3000)).splits
        for i, files in enumerate([[plain], [crlf], [comma], [zipped], parts])
    ]
    hashes = [[s.sha256 for split in splits.values() for s in split.shards] for splits in results]
    assert len(hashes[0]) == 3
    assert all(row == hashes[0] for row in hashes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"protocol": "dlrm-kaggle", "split": SplitRule(rule="random")},
            "'reference'.*'random'.*mixing",
        ),
        ({"protocol": "bars-criteo-x4-001", "split": SplitRule(rule="time")}, "'x4'.*'time'"),
        ({"protocol": "dlrm-kaggle", "mode": "hashed"}, "'dlrm-kaggle' fixes its vocabularies"),
        ({"protocol": "compactrec", "max_ind_range": 7}, "belongs to protocol 'dlrm-kaggle'"),
        ({"protocol": "criteo"}, "no protocol 'criteo'; there are"),
        ({"num_ids": 5}, r"num_ids \(--num-ids\) is for mode 'hashed'"),
    ],
)
def test_protocols_are_not_mixed(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, GOLDEN_LINES, **options)
    assert not (tmp_path / "out").exists()


def test_not_criteo(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", ["a,b,c", "1,2,3"])
    with pytest.raises(ValueError, match=r"x.csv, line 1: a Criteo file has 40 fields.*got 3"):
        prepare([source], "criteo", tmp_path / "out")
    options = PrepareOptions(protocol="dlrm-kaggle")
    with pytest.raises(ValueError, match="on schema 'criteo' only, got schema 'movielens-tag'"):
        prepare([source], "movielens-tag", tmp_path / "out", options)
