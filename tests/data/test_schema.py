"""Schema files: what they mean, and the words for what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactrec.data.protocol import PROTOCOL_NAMES, get_protocol
from compactrec.data.schema import expand, load_schema, shipped_schemas

GOOD = """
[layout]
delimiter = "::"
header = false
fields = ["user", "item_{0..2}", "stars", "note"]

[label]
field = "stars"
threshold = 4
drop = [3]

[[dense]]
name = "price"
field = "note"

[[sparse]]
name = "user"
type = "int"
missing = 0

[[sparse]]
name = "thing_{1..3}"
field = "item_{0..2}"

[split]
rule = "random"
test = 0.25
seed = 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_ranges_and_defaults(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, GOOD))
    assert schema.name == "my"
    assert schema.layout.fields == ("user", "item_0", "item_1", "item_2", "stars", "note")
    assert [(s.name, s.field) for s in schema.sparse[1:]] == [
        ("thing_1", "item_0"),
        ("thing_2", "item_1"),
        ("thing_3", "item_2"),
    ]
    assert schema.used_fields() == ["stars", "note", "user", "item_0", "item_1", "item_2"]
    assert schema.split is not None
    assert schema.split.sizes(100) == (65, 10, 25)


def test_expand() -> None:
    assert expand("C{9..11}x") == ["C9x", "C10x", "C11x"]
    assert expand("plain") == ["plain"]
    with pytest.raises(ValueError, match=r"range in 'a\{3..1\}' must rise"):
        expand("a{3..1}")


def test_shipped() -> None:
    own = {name for name in PROTOCOL_NAMES if get_protocol(name).tables == (name,)}
    assert set(shipped_schemas()) == own | {
        "criteo-adkdd21",
        "movielens-100k",
        "movielens-1m",
        "movielens-1m-ratings",
        "movielens-tag",
    }
    for name in shipped_schemas():
        assert load_schema(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "threshold = 4",
            "treshold = 4",
            "label.treshold: there is no such field; nearest is 'threshold'",
        ),
        ("threshold = 4\n", "", "label.drop needs label.threshold"),
        ('fields = ["user", "item_{0..2}", "stars", "note"]', "", "needs `fields`"),
        ('"stars", "note"]', '"user"]', r"`fields` must be distinct, \['user'\]"),
        ('name = "price"', 'name = "user"', r"column names must be distinct, \['user'\]"),
        ('name = "price"', 'name = "a/b"', r"letters, digits, _ . -; got \['a/b'\]"),
        ('field = "item_{0..2}"', 'field = "item_{0..1}"', "stand for different numbers"),
        ('type = "int"', 'type = "integer"', "sparse.0.type: .*'int'"),
        ("missing = 0", "max_bag = 3", "max_bag needs a separator"),
        ('type = "int"\n', "", "missing is for types 'int' and 'hex'"),
        ('rule = "random"', 'rule = "x4"', "'x4' has fixed sizes"),
        ("[layout]", "[layout", "is not valid TOML"),
    ],
)
def test_errors(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=words):
        load_schema(write(tmp_path, GOOD.replace(old, new)))


def test_no_sparse_and_no_file(tmp_path: Path) -> None:
    text = "[layout]\n[label]\n"
    with pytest.raises(ValueError, match=r"my.toml is not a valid schema: .*at least one"):
        load_schema(write(tmp_path, text))
    with pytest.raises(ValueError, match=r"no schema 'nowhere'.*'criteo'.*movielens-tag"):
        load_schema("nowhere")
