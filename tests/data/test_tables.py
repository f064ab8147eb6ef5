"""Other people's tables: labels in a second file, thresholds, side tables, lists."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.schema import Join, Label, Layout, Sparse, TableSchema
from compactrec.data.split import SplitRule
from tests.data.folders import read_rows

ALL_TRAIN = SplitRule(rule="time", validation=0, test=1)
RATINGS = [
    (1, 10, 5),
    (2, 11, 3),
    (1, 12, 4),
    (3, 10, 1),
    (2, 12, 2),
    (3, 11, 4),
    (1, 11, 5),
    (2, 10, 3),
]
USERS = ["1::F::25::7::a,b", "2::M::18::7::", "3::F::25::0::x"]
MOVIES = ["10::Café (1999)::Drama|Comedy|War", "11::Plain::Comedy", "12::None::"]


def movielens(folder: Path, users: list[str] = USERS, ratings: object = RATINGS) -> Path:
    """A folder like MovieLens-1M."""
    (folder / "users.dat").write_text("\n".join(users) + "\n")
    (folder / "movies.dat").write_bytes(("\n".join(MOVIES) + "\n").encode("latin-1"))
    path = folder / "ratings.dat"
    path.write_text("".join(f"{u}::{m}::{r}::97{u}{m}\n" for u, m, r in ratings))  # type: ignore[attr-defined]
    return path


def vocabulary(folder: Path, name: str) -> dict[object, int]:
    table = pq.read_table(folder / f"vocabulary/{name}.parquet").to_pydict()
    return dict(zip(table["token"], table["id"], strict=True))


def test_movielens_with_users_and_movies(tmp_path: Path) -> None:
    source, out = movielens(tmp_path), tmp_path / "out"
    options = PrepareOptions(split=ALL_TRAIN, block_bytes=30)
    manifest = prepare([source], "movielens-1m", out, options)
    train, test = read_rows(out, "train"), read_rows(out, "test")
    # ratings of 3 are dropped; six rows are left, the last one is the test split
    assert manifest.counters.dropped_rows == 2
    assert train["label"] == [1, 1, 0, 0, 1]
    assert test["label"] == [1]
    genres = vocabulary(out, "genres")
    assert genres == {
        "Comedy": 1 + (genres["Comedy"] - 1),
        "Drama": genres["Drama"],
        "War": genres["War"],
    }
    assert genres["Comedy"] == 1  # twice Drama, twice War, three times Comedy
    bag = [genres["Drama"], 1, genres["War"]]
    assert train["genres"] == [bag, [], bag, [], [1]]
    assert manifest.feature("genres").max_bag == 3
    gender, zips = vocabulary(out, "gender"), vocabulary(out, "zip")
    assert train["gender"] == [gender[g] for g in ("F", "F", "F", "M", "F")]
    assert train["zip"] == [zips[z] for z in ("a,b", "a,b", "x", "", "x")]
    assert vocabulary(out, "age") == {25: 1, 18: 2}
    assert [source.name for source in manifest.sources] == [
        "ratings.dat",
        "users.dat",
        "movies.dat",
    ]


def test_join_without_a_match(tmp_path: Path) -> None:
    source = movielens(tmp_path, users=USERS[:2])
    options = PrepareOptions(split=ALL_TRAIN)
    with pytest.raises(
        ValueError, match=r"ratings.dat, line 4: the side table has no row with this"
    ):
        prepare([source], "movielens-1m", tmp_path / "out", options)
    join = Join(
        file="users.dat",
        on="user_id",
        unmatched="missing",
        layout=Layout(
            delimiter="::", header=False, fields=("user_id", "gender", "age", "job", "x")
        ),
    )
    schema = TableSchema(
        name="lenient",
        layout=Layout(
            delimiter="::", header=False, fields=("user_id", "item_id", "rating", "time")
        ),
        label=Label(field="rating", threshold=4),
        sparse=(Sparse(name="gender"), Sparse(name="age", type="int", missing=-1)),
        join=(join,),
    )
    manifest = prepare([source], schema, tmp_path / "out", options)
    assert manifest.counters.unmatched_keys == {"user_id": 2}
    assert set(vocabulary(tmp_path / "out", "age")) == {25, 18, -1}
    assert set(vocabulary(tmp_path / "out", "gender")) == {"F", "M", ""}


def test_join_errors(tmp_path: Path) -> None:
    source = movielens(tmp_path, users=[*USERS, "2::M::50::1::z"])
    with pytest.raises(ValueError, match=r"users.dat: key 'user_id' must be unique.*\['2'\]"):
        prepare([source], "movielens-1m", tmp_path / "out")
    (tmp_path / "users.dat").write_text("1::F::25\n")
    with pytest.raises(ValueError, match=r"users.dat, line 1: expected 5 fields"):
        prepare([source], "movielens-1m", tmp_path / "out")
    (tmp_path / "users.dat").unlink()
    words = rf"no file {tmp_path}/users.dat: schema 'movielens-1m' needs 'users.dat' in the folder"
    with pytest.raises(ValueError, match=words):
        prepare([source], "movielens-1m", tmp_path / "out")


def test_side_tables_with_a_header(tmp_path: Path) -> None:
    (tmp_path / "shops.csv").write_text("shop,note,city\ns0,n,Rome\ns1,n,Oslo\n")
    (tmp_path / "cities.csv").write_text("city,note,land\nRome,n,I\nOslo,n,N\n")
    source = tmp_path / "clicks.csv"
    source.write_text("shop,note,y\n" + "".join(f"s{i % 2},x,{i % 3 % 2}\n" for i in range(8)))
    schema = TableSchema(
        name="shops",
        layout=Layout(),
        label=Label(field="y"),
        sparse=(Sparse(name="city"), Sparse(name="land")),
        join=tuple(Join(file=f"{on}", on=key, layout=Layout()) for on, key in (
            ("shops.csv", "shop"), ("cities.csv", "city"),
        )),
    )  # fmt: skip
    out, options = tmp_path / "out", PrepareOptions(split=ALL_TRAIN)
    prepare([source], schema, out, options)  # `note` is in every file, and nothing uses it
    assert vocabulary(out, "city") == {"Rome": 1, "Oslo": 2}
    assert read_rows(out, "train")["land"] == [1, 2, 1, 2, 1, 2, 1]
    noted = schema.model_copy(update={"sparse": (Sparse(name="note"),), "join": schema.join[:1]})
    with pytest.raises(ValueError, match=r"uses field 'note', .*clicks.csv and .*shops.csv have"):
        prepare([source], noted, tmp_path / "no", options)


def adkdd(folder: Path, labels: list[str], num_rows: int = 40) -> Path:
    header = ",".join(f"hash_{i}" for i in range(19))
    lines = [
        ",".join(str((row * 37 + i * 11) % (i + 3) - 5) for i in range(19))
        for row in range(num_rows)
    ]
    path = folder / "X_train.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *lines]).encode()))
    text = "\n".join(["click,sale", *(f"{label},0.0" for label in labels)])
    (folder / "y_train.csv.gz").write_bytes(gzip.compress(text.encode()))
    return path


@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_labels_from_another_file(tmp_path: Path, block_bytes: int) -> None:
    labels = ["1.0" if row % 7 in (2, 3) else "0.0" for row in range(40)]
    source = adkdd(tmp_path, labels)
    options = PrepareOptions(split=ALL_TRAIN, block_bytes=block_bytes)
    manifest = prepare([source], "criteo-adkdd21", tmp_path / "out", options)
    rows = read_rows(tmp_path / "out", "train")
    assert rows["label"] == [float(label) for label in labels[:39]]
    tokens = vocabulary(tmp_path / "out", "hash_3")
    assert rows["hash_3"] == [tokens[(row * 37 + 33) % 6 - 5] for row in range(39)]
    assert min(tokens) == -5
    assert [s.name for s in manifest.sources] == ["X_train.csv.gz", "y_train.csv.gz"]


@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_labels_stay_beside_their_rows(tmp_path: Path, block_bytes: int) -> None:
    labels = ["1.0" if row % 3 == 0 else "0.0" for row in range(40)]
    source = adkdd(tmp_path, labels)
    lines = gzip.decompress(source.read_bytes()).decode().split("\n")
    lines[6] += ",1"
    lines[9] = ""
    source.write_bytes(gzip.compress("\n".join(lines).encode()))
    options = PrepareOptions(split=ALL_TRAIN, block_bytes=block_bytes, on_bad_row="skip")
    manifest = prepare([source], "criteo-adkdd21", tmp_path / "out", options)
    assert manifest.counters.malformed_rows == 2
    expected = [float(label) for row, label in enumerate(labels[:39]) if row not in (5, 8)]
    assert read_rows(tmp_path / "out", "train")["label"] == expected


def test_label_file_must_fit_row_by_row(tmp_path: Path) -> None:
    for labels, words in (
        (["0"] * 39, r"y_train.csv.gz has fewer rows \(39\) than the data file"),
        (["0"] * 42, "y_train.csv.gz has 2 more rows than the data file"),
        ([*["0"] * 30, "x", *["1"] * 9], "X_train.csv.gz, line 32: label field 'click'.*got 'x'"),
        ([*["0"] * 30, "1,1", *["1"] * 9], "X_train.csv.gz, line 32: label field.*got nothing"),
    ):
        source = adkdd(tmp_path, labels)
        with pytest.raises(ValueError, match=words):
            prepare([source], "criteo-adkdd21", tmp_path / "out")
    options = PrepareOptions(split=ALL_TRAIN, on_bad_row="skip", block_bytes=200)
    manifest = prepare([source], "criteo-adkdd21", tmp_path / "out", options)
    assert manifest.counters.malformed_rows == 1
    assert read_rows(tmp_path / "out", "train")["label"] == [0.0] * 30 + [1.0] * 8
    with pytest.raises(ValueError, match=r"label.file takes one data file, got 2"):
        prepare([source, tmp_path / "y_train.csv.gz"], "criteo-adkdd21", tmp_path / "two")


LISTS = TableSchema(
    name="lists",
    layout=Layout(delimiter="\t", header=False, fields=("y", "tags", "numbers")),
    label=Label(field="y"),
    sparse=(
        Sparse(name="tags", separator=",", max_bag=2),
        Sparse(name="numbers", type="int", separator=" "),
    ),
)


def write_lists(folder: Path, lines: list[str]) -> Path:
    path = folder / "lists.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lists(tmp_path: Path) -> None:
    lines = ["1\ta,b,c\t5 -6", "0\t\t7", "1\tb\t", "0\tb,,a\t5 5 5 7", "1\ta\t5", "0\tq,b\t9"]
    options = PrepareOptions(split=ALL_TRAIN)
    manifest = prepare([write_lists(tmp_path, lines)], LISTS, tmp_path / "out", options)
    train = read_rows(tmp_path / "out", "train")
    tags, numbers = (vocabulary(tmp_path / "out", name) for name in ("tags", "numbers"))
    assert tags == {"b": 1, "a": 2, "": 3}  # an empty token inside a list is a token
    assert train["tags"] == [[2, 1], [], [1], [1, 3], [2]]
    assert numbers == {5: 1, 7: 2, -6: 3}
    assert train["numbers"] == [[1, 3], [2], [], [1, 1, 1, 2], [1]]
    assert manifest.counters.truncated_bags == {"tags": 2}
    assert [feature.max_bag for feature in manifest.sparse] == [2, 4]
    assert manifest.counters.unseen_ids["test"] == {"tags": 1, "numbers": 1}
    assert manifest.counts(tmp_path / "out")["numbers"].tolist() == [0, 5, 2, 1]
    field = pq.read_schema(tmp_path / "out/train/00000.parquet").field("tags")
    assert str(field.type.value_type) == "int32"


def test_lists_that_are_all_empty(tmp_path: Path) -> None:
    source = write_lists(tmp_path, [f"{row % 2}\t\t{row}" for row in range(5)])
    options = PrepareOptions(split=ALL_TRAIN)
    manifest = prepare([source], LISTS, tmp_path / "out", options)
    assert manifest.feature("tags").num_ids == 1
    assert read_rows(tmp_path / "out", "train")["tags"] == [[]] * 4


def test_quoted_empty_fields_are_empty(tmp_path: Path) -> None:
    layout = LISTS.layout.model_copy(update={"quote": '"'})
    schema = LISTS.model_copy(update={"layout": layout})
    lines = ['1\t""\t""', '0\t"a"\t', "1\t\t5", '0\ta\t""', "1\ta\t5"]
    source = write_lists(tmp_path, lines)
    prepare([source], schema, tmp_path / "out", PrepareOptions(split=ALL_TRAIN))
    train = read_rows(tmp_path / "out", "train")
    assert train["tags"] == [[], [1], [], [1]]
    assert train["numbers"] == [[], [], [1], []]
    assert vocabulary(tmp_path / "out", "tags") == {"a": 1}


def test_list_errors(tmp_path: Path) -> None:
    first = LISTS.sparse[0].model_copy(update={"too_long": "error"})
    schema = LISTS.model_copy(update={"sparse": (first, LISTS.sparse[1])})
    for line, words in (
        ("1\ta,b,c\t5", "field 'tags' must hold at most 2 tokens, got 'a,b,c'"),
        ("1\ta\t5 x 7", "field 'numbers' must be a whole number of 64 bits, got '5 x 7'"),
        ("1\ta\t5  7", "field 'numbers' must be a whole number of 64 bits, got '5  7'"),
    ):
        source = write_lists(tmp_path, ["0\ta\t1 2 3", "1\t\t", "0\tb\t4", line, "0\ta\t1 2"])
        with pytest.raises(ValueError, match=rf"lists.tsv, line 4: {words}"):
            prepare([source], schema, tmp_path / "out", PrepareOptions(split=ALL_TRAIN))


def test_lists_beside_a_bad_row(tmp_path: Path) -> None:
    lines = ["0\ta\t1 2 3", "1\t\t4", "0\tb\t4 x", "1\tc,a\t", "0\ta\t3 3", "1\tb\t1"]
    options = PrepareOptions(split=ALL_TRAIN, on_bad_row="skip")
    manifest = prepare([write_lists(tmp_path, lines)], LISTS, tmp_path / "out", options)
    train = read_rows(tmp_path / "out", "train")
    tags, numbers = (vocabulary(tmp_path / "out", name) for name in ("tags", "numbers"))
    assert manifest.counters.malformed_rows == 1
    assert train["tags"] == [[tags["a"]], [], [tags["c"], tags["a"]], [tags["a"]]]
    one, two, three, four = (numbers[i] for i in (1, 2, 3, 4))
    assert train["numbers"] == [[one, two, three], [four], [], [three, three]]
    assert train["label"] == [0, 1, 1, 0]


def test_a_malformed_row_is_not_counted_as_dropped(tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    rows = ["1::1::5::0", "1::2::3::0", "x::2::3::0", "2::3::1::0", "2::2::4::0"]
    path.write_text("\n".join(rows))
    options = PrepareOptions(split=ALL_TRAIN, on_bad_row="skip")
    manifest = prepare([path], "movielens-1m-ratings", tmp_path / "out", options)
    assert (manifest.counters.malformed_rows, manifest.counters.dropped_rows) == (1, 1)
    assert read_rows(tmp_path / "out", "train")["label"] == [1, 0]


def test_the_same_field_twice_and_repeated_runs(tmp_path: Path) -> None:
    schema = TableSchema(
        name="twice",
        layout=Layout(),
        label=Label(field="rating", threshold=3.5),
        sparse=(
            Sparse(name="rating_id", field="rating", type="int"),
            Sparse(name="rating_text", field="rating", mode="hashed", num_ids=7),
            Sparse(name="item"),
        ),
    )
    path = tmp_path / "rows.csv"
    path.write_text("item,unused,rating\n" + "".join(f"i{r % 4},u,{r % 6}\n" for r in range(70)))
    manifests: list[Manifest] = []
    for i in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            manifests.append(prepare([path], schema, tmp_path / f"out{i}"))
    assert manifests[0] == manifests[1]
    assert manifests[0].sha256() == manifests[1].sha256()
    rows = read_rows(tmp_path / "out0", "test")
    tokens = vocabulary(tmp_path / "out0", "rating_id")
    assert rows["label"] == [float(r % 6 >= 4) for r in range(60, 70)]
    assert rows["rating_id"] == [tokens[r % 6] for r in range(60, 70)]
    assert list(rows) == ["label", "rating_id", "rating_text", "item"]
