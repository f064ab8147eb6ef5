"""Ids: what training alone decides, merging over many chunks, and hashes that never change."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import compactrec.data.counting as counting
import compactrec.data.ranking as ranking
from compactrec.data.hashing import bucket, mix, name_seed, string_keys
from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.protocol import get_protocol
from compactrec.data.schema import Label, Layout, Sparse, TableSchema
from compactrec.data.split import SplitRule
from compactrec.data.spool import Spool
from compactrec.data.vocabulary import number_column
from compactrec.embeddings import hash_strings
from compactrec.embeddings.hashing import hash_integers, name_salt, salted_hash
from tests.data.folders import read_rows
from tests.reference.table_reference import row_splits

SCHEMA = TableSchema(
    name="two",
    layout=Layout(header=False, fields=("label", "word", "number")),
    label=Label(),
    sparse=(Sparse(name="word"), Sparse(name="number", type="int")),
)


def rows(num_rows: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    words = np.floor(200 ** rng.random(num_rows)).astype(int)
    numbers = rng.integers(-5, 5, num_rows) * 10**12
    return [
        [str(i % 2), f"w{w}", str(n)] for i, (w, n) in enumerate(zip(words, numbers, strict=True))
    ]


def run(folder: Path, table: list[list[str]], **options: object) -> Manifest:
    folder.mkdir(exist_ok=True)
    source = folder / "rows.csv"
    source.write_text("".join(",".join(row) + "\n" for row in table))
    return prepare([source], SCHEMA, folder / "out", PrepareOptions.model_validate(options))


@pytest.mark.parametrize("rule", ["time", "random"])
@pytest.mark.parametrize("mode", ["full", "min_count"])
def test_rows_outside_training_change_nothing(tmp_path: Path, rule: str, mode: str) -> None:
    """Spy: replace every token outside training; vocabulary, counts and training rows must stay."""
    table = rows(600)
    amounts = {"time": ("1/14", "1/7"), "random": ("1/10", "1/10")}[rule]
    splits = row_splits(rule, len(table), 0, *amounts)
    changed = [
        row if split == "train" else [row[0], f"other{i % 5}", str(i)]
        for i, (row, split) in enumerate(zip(table, splits, strict=True))
    ]
    options = {"split": SplitRule(rule=rule), "mode": mode, "block_bytes": 900}
    before = run(tmp_path / "a", table, **options)
    after = run(tmp_path / "b", changed, **options)
    assert before.splits["test"] != after.splits["test"]
    for name in ("word", "number"):
        tables = [pq.read_table(tmp_path / f / f"out/vocabulary/{name}.parquet") for f in "ab"]
        assert tables[0].equals(tables[1])
        counts = [m.counts(tmp_path / f / "out")[name] for m, f in ((before, "a"), (after, "b"))]
        np.testing.assert_array_equal(counts[0], counts[1])
        assert counts[0].sum() == before.splits["train"].num_rows
    assert before.splits["train"] == after.splits["train"]
    assert after.counters.unseen_ids["test"]["word"] == after.splits["test"].num_rows


def test_ids_fall_by_count_and_many_merges_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(3000)
    run(tmp_path / "a", table)
    monkeypatch.setattr(counting, "PART_TOKENS", 50)
    monkeypatch.setattr(ranking, "RANGE_TOKENS", 30)
    manifest = run(tmp_path / "b", table, block_bytes=500)
    for name in ("word", "number"):
        content = [
            pq.read_table(tmp_path / f / f"out/vocabulary/{name}.parquet").to_pydict() for f in "ab"
        ]
        assert content[0] == content[1]
        counts = content[0]["count"]
        assert counts == sorted(counts, reverse=True)
        assert content[0]["id"] == list(range(1, len(counts) + 1))
    assert manifest.feature("word").num_tokens == len({row[1] for row in table})
    train = read_rows(tmp_path / "b/out", "train")
    order = {t: i for t, i in zip(content[1]["token"], content[1]["id"], strict=True)}
    assert train["number"][:50] == [order[int(row[2])] for row in table[:50]]


def test_min_count_maps_rare_tokens_to_oov(tmp_path: Path) -> None:
    table = rows(800)
    full = run(tmp_path / "a", table)
    cut = run(tmp_path / "b", table, mode="min_count", min_count=5)
    counts = full.counts(tmp_path / "a/out")["word"]
    feature = cut.feature("word")
    assert feature.num_ids == 1 + (counts[1:] >= 5).sum() < full.feature("word").num_ids
    assert feature.oov_count == counts[counts < 5].sum() > 0
    assert (feature.mode, feature.min_count) == ("min_count", 5)
    assert read_rows(tmp_path / "b/out", "train")["word"].count(0) == feature.oov_count


def test_hashed(tmp_path: Path) -> None:
    table = rows(500)
    buckets = run(tmp_path / "a", table, mode="hashed", num_ids=16)
    found = read_rows(tmp_path / "a/out", "train")
    used = table[: len(found["word"])]
    words = hash_strings(row[1] for row in used)
    numbers = torch.tensor([int(row[2]) for row in used])
    assert found["word"] == salted_hash(words, name_salt("word"), 16).tolist()
    assert found["number"] == salted_hash(numbers, name_salt("number"), 16).tolist()
    counts = buckets.counts(tmp_path / "a/out")["word"]
    np.testing.assert_array_equal(counts, np.bincount(found["word"], minlength=16))
    assert (buckets.feature("word").num_ids, buckets.feature("word").oov_id) == (16, None)

    opened = run(tmp_path / "b", table, mode="hashed")
    found = read_rows(tmp_path / "b/out", "test")
    used = table[-len(found["number"]) :]
    assert found["word"] == hash_strings(row[1] for row in used).tolist()
    numbers = torch.tensor([int(row[2]) for row in used])
    assert (numbers < 0).any()
    assert found["number"] == hash_integers(numbers).tolist()
    assert opened.feature("number").num_ids is None
    assert max(found["number"]) > 2**40
    assert opened.counts(tmp_path / "b/out") == {}


def peak_of_numbering(folder: Path, num_tokens: int, *, text: bool) -> int:
    """Bytes held at most while a column of 90% of `num_tokens` distinct tokens is numbered."""
    rng, size = np.random.default_rng(0), 5_000
    spool = Spool(folder / "spool")
    chunks = []
    for _ in range(num_tokens // size * 3):
        keys = rng.permutation(np.unique(rng.integers(0, num_tokens, size))).astype(np.uint64)
        stored = spool.append(keys), spool.append(rng.integers(0, len(keys), size))
        chunks.append(
            counting.ChunkTokens(
                keys=partial(spool.read, stored[0]),
                values=lambda codes=stored[1]: (spool.read(codes), np.zeros(size, np.uint8)),
                tokens=(lambda s=stored[0]: _strings(spool.read(s))) if text else None,
                num_keys=len(keys),
                num_values=size,
                split=0,
            )
        )
    rules = counting.ColumnRules(
        "big", "full", 1, None, get_protocol("compactrec"), text=text, missing_key=None
    )
    gc.collect()
    tracemalloc.start()
    numbered = number_column(rules, chunks, folder, lambda ids: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spool.close()
    assert num_tokens * 0.8 < numbered.feature.num_tokens < num_tokens
    assert not (folder / "column.bin").exists()
    return peak


def _strings(keys: np.ndarray) -> pa.Array:
    return pa.array(keys).cast(pa.large_string())


@pytest.mark.parametrize("text", [False, True])
def test_memory_does_not_grow_with_distinct_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bool
) -> None:
    monkeypatch.setattr(counting, "PART_TOKENS", 10_000)
    monkeypatch.setattr(ranking, "RANGE_TOKENS", 10_000)
    peak_of_numbering(tmp_path, 10_000, text=text)  # what is loaded once is no matter
    few, many = (peak_of_numbering(tmp_path, n, text=text) for n in (30_000, 120_000))
    assert many < few + 90_000 * 8  # one more int64 per distinct token would be that


def test_unseen_policy(tmp_path: Path) -> None:
    table = rows(140)
    table[-1][1] = "never"
    manifest = run(tmp_path / "a", table)
    assert manifest.unseen_policy == "oov"
    assert manifest.counters.unseen_ids["test"]["word"] >= 1
    assert read_rows(tmp_path / "a/out", "test")["word"][-1] == 0
    with pytest.raises(ValueError, match=r"there are tokens that training never has: .*'word': 1"):
        run(tmp_path / "b", [["0", "w", "1"]] * 139 + [["0", "never", "1"]], unseen="error")
    assert not (tmp_path / "b/out").exists()


def test_settings_that_no_column_uses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("".join(",".join(row) + "\n" for row in rows(70)))
    for column, options, words in (
        ({"min_count": 3}, {}, "'word': min_count is for mode 'min_count', and its mode is 'full'"),
        ({"min_count": 3}, {"mode": "hashed"}, "min_count is for mode .* its mode is 'hashed'"),
        (
            {"num_ids": 3},
            {"mode": "min_count"},
            "num_ids is for mode 'hashed' or 'most_frequent', .* 'min_count'",
        ),
        (
            {},
            {"min_count": 5},
            r"min_count \(--min-count\) is for columns of mode 'min_count', got 5",
        ),
        (
            {},
            {"mode": "hashed", "unseen": "error"},
            r"unseen 'error' \(--unseen\) needs .* every column is hash",
        ),
    ):
        schema = SCHEMA.model_copy(update={"sparse": (Sparse(name="word", **column),)})
        with pytest.raises(ValueError, match=words):
            prepare([path], schema, tmp_path / "out", PrepareOptions.model_validate(options))
    own = Sparse(name="word", mode="min_count")
    schema = SCHEMA.model_copy(update={"sparse": (own, Sparse(name="number", type="int"))})
    manifest = prepare([path], schema, tmp_path / "out", PrepareOptions(min_count=5))
    assert [f.min_count for f in manifest.sparse] == [5, 1]


def test_wide_vocabularies_have_int64_ids(tmp_path: Path) -> None:
    run(tmp_path, rows(40), mode="hashed", num_ids=2**31 + 5)
    assert str(pq.read_schema(tmp_path / "out/train/00000.parquet").field("word").type) == "int64"
    manifest = run(tmp_path, rows(40), mode="hashed", num_ids=2**31, overwrite=True)
    assert manifest.feature("word").vocabulary is None  # counts of 2^31 buckets would fill memory
    assert str(pq.read_schema(tmp_path / "out/train/00000.parquet").field("word").type) == "int32"


def test_hash_golden_values() -> None:
    inputs = np.array([0, 1, 42, 2**40], dtype=np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1, 0xBDD732262FEB6E95, 0x1FDD7128F310C389]
    assert mix(inputs).tolist() == expected
    ids = np.array([0, 1, 2, 3, 1_000_000, 2**40 + 5], dtype=np.uint64)
    assert bucket(ids, 0, 1000).tolist() == [527, 215, 428, 264, 112, 553]
    assert bucket(ids, 7, 1000).tolist() == [610, 207, 290, 546, 357, 265]


def test_hashes_do_not_depend_on_the_process() -> None:
    code = (
        "from compactrec.data.hashing import name_seed, string_keys;"
        "print(name_seed('C1'), string_keys(['a', 'ü']).tolist())"
    )
    expected = f"{name_seed('C1')} {string_keys(['a', 'ü']).tolist()}"
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src", "PYTHONIOENCODING": "utf-8"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == expected
