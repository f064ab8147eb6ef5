"""Protocols on a schema of their own: handmade rows and what must come out, value by value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compactrec.data.multihot as multihot
from compactrec.data.manifest import Manifest
from compactrec.data.multihot import BagTable, make_bags
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.protocol import PROTOCOL_NAMES, get_protocol
from compactrec.data.schema import Sparse, TableSchema, load_schema
from compactrec.data.split import SplitRule
from compactrec.data.transforms import dense_input, time_part
from tests.data.folders import GOLDEN_LINES, criteo_line, read_rows

SPLITS = ("train", "validation", "test")


def write(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def run(
    files: Any, protocol: str, out: Path, schema: str | TableSchema | None = None, **options: object
) -> tuple[Manifest, dict[str, dict[str, list[Any]]]]:
    """The manifest, and the rows of every split."""
    given = PrepareOptions.model_validate({"protocol": protocol, **options})
    manifest = prepare(files, schema or protocol, out, given)
    return manifest, {split: read_rows(out, split) for split in manifest.splits}


def whole(rows: dict[str, dict[str, list[Any]]], name: str) -> list[Any]:
    return [value for split in SPLITS for value in rows[split][name]]


def by_count(tokens: Sequence[object], least: int, first: int, other: int) -> dict[object, int]:
    """Token -> id by falling count over all rows, ties by first appearance."""
    kept = [token for token, count in Counter(tokens).most_common() if count >= least]
    ids = {token: first + place for place, token in enumerate(kept)}
    return {token: ids.get(token, other) for token in tokens}


def test_torchrec_kaggle(tmp_path: Path) -> None:
    source = write(tmp_path / "train.txt", GOLDEN_LINES)
    manifest, rows = run([source], "torchrec-kaggle", tmp_path / "out", "criteo", block_bytes=900)
    # 14 lines, two a day: the last day's first line is validation here, its second test
    assert (rows["validation"]["label"], rows["test"]["label"]) == ([0], [1])
    # 68fd1e64 is in 3 rows, 05db9164 in 6, all others in fewer than 3: id 1; 0 stays free
    assert rows["train"]["C1"] == [2, 3, 2, 1, 3, 1, 3, 2, 3, 1, 1, 3]
    assert (rows["validation"]["C1"], rows["test"]["C1"]) == ([1], [3])
    feature = manifest.feature("C1")
    assert (feature.num_ids, feature.padding_id, feature.oov_id) == (4, 0, 1)
    assert manifest.counts(tmp_path / "out")["C1"].tolist() == [0, 4, 3, 5]
    # the least of all 13 columns of the file is -3, in I2; an empty field is 0
    values = [1, 0, 5, 0, 2, 0, -2, 3, 1, 7, 0, 4]
    expected = np.log(np.float32([v + 3 + 2 for v in values]))
    np.testing.assert_array_equal(np.float32(rows["train"]["I1"]), expected)
    assert manifest.dense_transform == "protocol"
    assert SplitRule(rule="torchrec").sizes(45_840_617) == (39_291_958, 3_274_330, 3_274_329)


def small_mlperf() -> TableSchema:
    """The schema of MLPerf with small tables."""
    table = load_schema("mlperf-dlrm-dcnv2")
    sizes = {"C1": 5, "C2": 4, "C10": 3, "C21": 7}
    sparse = tuple(s.model_copy(update={"wrap": sizes.get(s.name, 2)}) for s in table.sparse)
    return table.model_copy(update={"sparse": sparse})


def test_mlperf(tmp_path: Path) -> None:
    days = []
    tokens = ["a", "b", "a", "c", "d", "e", "", "f"]
    for day, (low, high) in enumerate([(0, 3), (3, 5), (5, 8)]):
        lines = [
            criteo_line(row % 2, {"I1": str(10 * day + row - 2)}, {"C1": tokens[row]}, row)
            for row in range(low, high)
        ]
        days.append(write(tmp_path / f"day_{day}", lines))
    table = small_mlperf()
    manifest, rows = run(days, "mlperf-dlrm-dcnv2", tmp_path / "out", table)
    # the last file's larger first half is validation
    assert [manifest.splits[s].num_rows for s in SPLITS] == [5, 2, 1]
    # by first appearance from 2: a b c d e 0 f -> 2 3 4 5 6 7 8, modulo 5
    ids = [[bag[0] for bag in rows[split]["C1"]] for split in SPLITS]
    assert ids == [[2, 3, 2, 4, 0], [1, 2], [3]]
    random = np.random.RandomState(0)
    lookups = {}
    for spec in table.sparse:
        assert spec.bag is not None
        assert spec.wrap is not None
        first = np.arange(spec.wrap)[:, np.newaxis]
        drawn = random.randint(0, spec.wrap, size=(spec.wrap, spec.bag - 1))
        lookups[spec.name] = np.concatenate([first, drawn], axis=1)
    for spec in table.sparse:
        feature = manifest.feature(spec.name)
        assert (feature.num_ids, feature.max_bag) == (spec.wrap, spec.bag)
        if feature.max_bag > 1:
            for bag in whole(rows, spec.name):
                assert bag == lookups[spec.name][bag[0]].tolist()
    assert manifest.feature("C21").max_bag == 100
    assert manifest.counts(tmp_path / "out")["C1"].tolist() == [1, 0, 2, 1, 1]
    # each file has its own least number: -2 or less in none, so 0 of other columns, -2 of day 0
    least = [-2, 0, 0]
    for split, day, values in (("train", 0, [-2, -1, 0]), ("validation", 2, [23, 24])):
        expected = np.log(np.float32([v - least[day] + 2 for v in values]))
        found = np.float32(rows[split]["I1"][: len(values)])
        np.testing.assert_array_equal(found, expected)
    assert not list((tmp_path / "out").glob("bags_*"))
    with pytest.raises(ValueError, match="'last_file' needs two files or more"):
        run(days[:1], "mlperf-dlrm-dcnv2", tmp_path / "one", table)


@pytest.mark.parametrize("draws", [1, 7, 1 << 22])
def test_bags_are_those_of_one_draw_of_whole_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    """Whatever is drawn at a time; rows that nobody wants are drawn all the same."""
    monkeypatch.setattr(multihot, "_DRAWS", draws)
    tables = [BagTable(50, 4, 9), BagTable(3, 1, 3), BagTable(7, 3, 0), BagTable(90, 2, 90)]
    made = make_bags(tables, tmp_path)
    random = np.random.RandomState(0)
    for table, bags in zip(tables, made, strict=True):
        drawn = random.randint(0, table.num_rows, size=(table.num_rows, table.bag - 1))
        if not table.num_used:
            continue
        ids = np.arange(table.num_used)[::-1]
        expected = np.concatenate([ids[:, np.newaxis], drawn[ids]], axis=1)
        np.testing.assert_array_equal(bags.of(ids), expected)


def test_bars_criteo_x1(tmp_path: Path) -> None:
    header = ",".join(["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))])
    words = {"train": ["7.0", "8.0", "7.0", ""], "validation": ["9.0"], "test": ["8.0"]}
    files = {}
    for split, tokens in words.items():
        lines = [
            ",".join(["1" if row % 2 else "0", *["0.25"] * 12, "-0.5", token, *["3.0"] * 25])
            for row, token in enumerate(tokens)
        ]
        files[split] = [write(tmp_path / f"{split}.csv", [header, *lines])]
    manifest, rows = run(files, "bars-criteo-x1", tmp_path / "out")
    assert (rows["train"]["I1"][0], rows["train"]["I13"][0]) == (0.25, -0.5)
    assert rows["train"]["C1"] == [1, 2, 1, 3]  # an empty text has the last id, which is OOV
    assert (rows["validation"]["C1"], rows["test"]["C1"]) == ([3], [2])
    feature = manifest.feature("C1")
    assert (feature.num_ids, feature.padding_id, feature.oov_id) == (4, 0, 3)
    with pytest.raises(
        ValueError,
        match="protocol 'bars-criteo-x1' has the split rule 'files', which needs one list of",
    ):
        run(files["train"], "bars-criteo-x1", tmp_path / "rule")


AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
# Tuesday 0h, Tuesday 23h, Saturday 5h, Sunday 12h of October 2014
STAMPS = ["14102100", "14102123", "14102505", "14102612"]


def avazu_lines(num_rows: int) -> list[str]:
    lines = [AVAZU]
    for row in range(num_rows):
        rest = [f"t{row * row % (k + 3)}" for k in range(20)]
        lines.append(
            ",".join([f"u{row}", str(row % 3 == 0).replace("True", "1").replace("False", "0"),
                      STAMPS[row % 4], f"c{row % 2}", *rest])
        )  # fmt: skip
    return lines


def test_avazu_x4(tmp_path: Path) -> None:
    lines = avazu_lines(40)
    lines[5] = lines[5].replace(",c0,", ",only_here,")
    lines[9] = lines[9].replace(",c0,", ",,")
    files = {
        "train": [write(tmp_path / "train.csv", lines[:31])],
        "validation": [write(tmp_path / "valid.csv", [AVAZU, *lines[31:36]])],
        "test": [write(tmp_path / "test.csv", [AVAZU, *lines[36:]])],
    }
    manifest, rows = run(files, "avazu-x4", tmp_path / "out")
    assert len(manifest.sparse) == 24
    assert "id" not in [feature.name for feature in manifest.sparse]
    # hours 0, 23, 5, 12 in turn: by falling count in training, ties by first appearance, from 1
    assert rows["train"]["hour"][:4] == [1, 2, 3, 4]
    assert rows["train"]["weekday"][:4] == [1, 1, 2, 3]  # Tuesday twice
    assert rows["train"]["weekend"][:4] == [1, 1, 2, 2]
    assert [manifest.feature(n).num_ids for n in ("hour", "weekday", "weekend")] == [6, 5, 4]
    # 15 times c1, 13 times c0; once only_here and once nothing: the last id
    assert rows["train"]["C1"][:10] == [2, 1, 2, 1, 3, 1, 2, 1, 3, 1]
    assert manifest.feature("C1").num_ids == 4


def test_times() -> None:
    stamps = np.array([14102100, 14102523, 12022909, 14022900, 14130100, 14100024, 99, -1])
    weekdays, wrong = time_part(stamps, "weekday")
    assert wrong.tolist() == [False, False, False, True, True, True, True, True]
    assert weekdays[:3].tolist() == [2, 6, 3]  # 2012 had a 29th of February, a Wednesday
    assert time_part(stamps, "hour")[0][:3].tolist() == [0, 23, 9]
    assert time_part(stamps, "weekend")[0][:3].tolist() == [0, 1, 0]


def test_what_is_no_time_is_a_malformed_row(tmp_path: Path) -> None:
    lines = avazu_lines(12)
    lines[4] = lines[4].replace("14102612", "14132612")
    source = write(tmp_path / "train.csv", lines)
    words = r"line 5: field 'hour' must be a time YYMMDDHH, got '14132612'"
    with pytest.raises(ValueError, match=words):
        run([source], "avazu-x4", tmp_path / "out")


def test_unified_criteo(tmp_path: Path) -> None:
    # C9 has two ids beside OOV, C20 too: the most frequent tokens of all rows
    tokens = [["00000001", "00000002", "00000003"][row % 5 // 2] for row in range(21)]
    tokens[0] = tokens[5] = "00000004"
    lines = [
        criteo_line(
            row % 2, {"I1": "", "I2": str(row % 8 - 4), "I3": "6"}, {"C9": tokens[row]}, row
        )
        for row in range(21)
    ]
    source = write(tmp_path / "train.txt", lines)
    manifest, rows = run([source], "unified-criteo", tmp_path / "out")
    assert [manifest.splits[s].num_rows for s in SPLITS] == [18, 1, 2]
    kept = [token for token, _ in Counter(tokens).most_common(2)]
    expected = [kept.index(token) + 1 if token in kept else 0 for token in tokens]
    assert rows["train"]["C9"] == expected[:18]
    assert sorted(rows["validation"]["C9"] + rows["test"]["C9"]) == sorted(expected[18:])
    feature = manifest.feature("C9")
    assert (feature.num_ids, feature.oov_id, feature.mode) == (3, 0, "most_frequent")
    counts = manifest.counts(tmp_path / "out")["C9"]  # of training rows, as everywhere
    assert counts.tolist() == [expected[:18].count(i) for i in range(3)]
    i2 = [math.log(max(row % 8 - 4 + 4, 1)) for row in range(18)]
    np.testing.assert_allclose(rows["train"]["I2"], i2, rtol=1e-6)
    assert rows["train"]["I1"] == [0.0] * 18
    np.testing.assert_allclose(rows["train"]["I3"], math.log(7), rtol=1e-6)
    assert sum(spec.num_ids or 0 for spec in load_schema("unified-criteo").sparse) == 160_605


def test_unified_avazu(tmp_path: Path) -> None:
    source = write(tmp_path / "train.csv", avazu_lines(100))
    manifest, rows = run([source], "unified-avazu", tmp_path / "out")
    assert [manifest.splits[s].num_rows for s in SPLITS] == [81, 9, 10]
    assert len(manifest.sparse) == 22
    assert set(whole(rows, "hour")) == {1, 2, 3, 4}
    # 100 rows have tokens t0, t1, .. of C18 (k = 16); four of them keep an id
    assert manifest.feature("C18").num_ids == 5
    assert set(whole(rows, "C18")) == {0, 1, 2, 3, 4}
    assert sum(spec.num_ids or 0 for spec in load_schema("unified-avazu").sparse) == 252_838
    rule = SplitRule(rule="random", validation="1/10", test="1/10")
    words = "'random' with 9/100 validation and 1/10 test, seed 0, got 'random' with 1/10 and 1/10"
    with pytest.raises(ValueError, match=words):
        run([source], "unified-avazu", tmp_path / "other", split=rule)


def test_unified_ml1m(tmp_path: Path) -> None:
    write(tmp_path / "users.dat", ["1::F::1::10::48067", "2::M::56::16::70072"])
    ratings = [1, 2, 3, 4, 5, 3, 4, 1, 5, 2, 4, 5, 1, 2]
    lines = [f"{1 + i % 2}::{100 + i % 5}::{r}::97830{i:04}" for i, r in enumerate(ratings)]
    source = write(tmp_path / "ratings.dat", lines)
    manifest, rows = run([source], "unified-ml1m", tmp_path / "out")
    kept = [i for i, r in enumerate(ratings) if r != 3]
    assert manifest.counters.dropped_rows == 2
    assert [manifest.splits[s].num_rows for s in SPLITS] == [10, 1, 1]
    labels = [float(ratings[i] > 3) for i in kept]
    assert Counter(whole(rows, "label")) == Counter(labels)
    # no OOV: as many ids as tokens
    sizes = {feature.name: feature.num_ids for feature in manifest.sparse}
    assert sizes == {
        "user_id": 2, "movie_id": 5, "gender": 2, "age": 2, "occupation": 2, "zip": 2,
    }  # fmt: skip
    movies = by_count([100 + i % 5 for i in kept], 1, 0, -1)
    assert Counter(whole(rows, "movie_id")) == Counter(movies[100 + i % 5] for i in kept)


def test_optembed_criteo(tmp_path: Path) -> None:
    source = write(tmp_path / "train.txt", GOLDEN_LINES)
    manifest, rows = run([source], "optembed-criteo", tmp_path / "out")
    assert (len(manifest.sparse), manifest.dense) == (39, ())
    # I2 is -1 0 -3 2 1 0 9 4 -1 23 0 231 -2 3: buckets, of which every one keeps an id
    values = [-1, 0, -3, 2, 1, 0, 9, 4, -1, 23, 0, 231, -2, 3]
    buckets = [math.floor(math.log(v) ** 2) if v > 2 else v for v in values]
    assert buckets[6:8] == [4, 1]
    assert manifest.feature("I2").num_ids == len(set(buckets)) + 1
    ids = by_count(buckets, 1, 1, 0)
    assert Counter(whole(rows, "I2")) == Counter(ids[b] for b in buckets)
    # of C1 three tokens are in one row alone: 0
    assert Counter(whole(rows, "C1")) == {1: 6, 2: 3, 3: 2, 0: 3}
    assert manifest.feature("C1").num_ids == 4


def test_optembed_avazu(tmp_path: Path) -> None:
    lines = avazu_lines(30)
    lines[7] = lines[7].replace(",c0,", ",only_here,")
    manifest, rows = run([write(tmp_path / "t.csv", lines)], "optembed-avazu", tmp_path / "out")
    assert len(manifest.sparse) == 24
    assert Counter(whole(rows, "C1")) == {1: 15, 2: 14, 0: 1}
    assert Counter(whole(rows, "weekend")) == {1: 16, 2: 14}


def test_optembed_kdd12(tmp_path: Path) -> None:
    columns = [[f"{k}_{row % (3 + k)}" for k in range(11)] for row in range(40)]
    lines = ["\t".join([str(row % 3), *columns[row]]) for row in range(40)]
    manifest, rows = run([write(tmp_path / "t.txt", lines)], "optembed-kdd12", tmp_path / "out")
    assert Counter(whole(rows, "label")) == {0.0: 14, 1.0: 26}  # two clicks are a click
    assert manifest.feature("I1").num_ids == 4  # 14, 13 and 13 times
    assert manifest.feature("I2").num_ids == 5  # ten times each
    assert manifest.feature("I3").num_ids == 1  # eight times: none has an id
    assert set(whole(rows, "I3")) == {0}


def test_autoint_criteo(tmp_path: Path) -> None:
    tokens = ["00000001"] * 11 + ["00000002"] * 10 + ["00000003"] * 12
    numbers = ["", "-2", "2", "3", "50"]
    lines = [
        criteo_line(row % 2, {"I1": numbers[row % 5]}, {"C1": token}, row)
        for row, token in enumerate(tokens)
    ]
    manifest, rows = run([write(tmp_path / "t.txt", lines)], "autoint-criteo", tmp_path / "out")
    assert [manifest.splits[s].num_rows for s in SPLITS] == [27, 3, 3]
    # more than ten times: two tokens
    assert Counter(whole(rows, "C1")) == {1: 12, 2: 11, 0: 10}
    # numbers stay numbers: 0, -2, 2, floor(ln(3)^2) = 1, floor(ln(50)^2) = 15
    assert Counter(whole(rows, "I1")) == {0.0: 7, -2.0: 7, 2.0: 7, 1.0: 6, 15.0: 6}


def test_protocols_hold_on_their_own_schema_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "train.txt", GOLDEN_LINES)
    for name in PROTOCOL_NAMES:
        if name == "compactrec":
            continue
        tables = get_protocol(name).tables
        assert tables is not None
        with pytest.raises(ValueError, match=f"{name!r} is defined on schema {tables[0]!r} only"):
            run([source], name, tmp_path / "out", "movielens-tag")


def test_dense_transforms() -> None:
    values = np.array([-3.0, 0.0, 2.0, 2.5, 50.0])
    for transform, expected in (
        ("log_shifted", [0.0, 0.0, math.log(3), math.log(3.5), math.log(51)]),
        ("bucket", [-3.0, 0.0, 2.0, 0.0, 15.0]),
        ("none", values.tolist()),
    ):
        found = dense_input(values, transform)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"mode": "most_frequent"}, "mode 'most_frequent' needs num_ids"),
        ({"bag": 3}, "bag needs wrap"),
        ({"wrap": 3, "separator": "|"}, "wrap is for one token per row"),
        ({"wrap": 3, "mode": "min_count"}, "wrap is for one token per row and a whole vocabulary"),
    ],
)
def test_columns_that_make_no_sense(column: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sparse.model_validate({"name": "x", **column})
