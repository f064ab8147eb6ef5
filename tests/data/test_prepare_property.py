"""`prepare` of random small tables equals the slow literal reference, whatever the block size."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compactrec.data.counting as counting
import compactrec.data.ranking as ranking
from compactrec.data.manifest import Manifest
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.schema import Dense, Label, Layout, Sparse, TableSchema
from compactrec.data.split import SplitRule
from tests.data.folders import read_rows
from tests.reference.table_reference import Column, number, row_splits, token

WORDS = st.sampled_from(["", "a", "b", "ab", "ü", "0", "-1", "x y", "日本", "A"])
FIELDS = {
    "int": st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)).map(str),
    "hex": st.one_of(st.just(""), st.integers(0, 3), st.integers(0, 2**32 - 1)).map(
        lambda v: v if v == "" else f"{v:08x}"
    ),
    "string": WORDS,
    "bucket": st.one_of(st.just(""), st.integers(-3, 9), st.integers(0, 10**6)).map(str),
    "list": st.lists(WORDS.filter(bool), max_size=4).map("|".join),
}
COLUMNS = st.tuples(
    st.sampled_from(["full", "min_count", "hashed"]), st.integers(1, 3), st.sampled_from([None, 5])
)


@dataclass(frozen=True)
class Case:
    """A table and how to prepare it."""

    kinds: tuple[str, ...]
    columns: tuple[tuple[str, int, int | None], ...]
    rows: tuple[tuple[str, ...], ...]
    """label, dense, then one field per kind."""
    rule: SplitRule
    amounts: tuple[str, str]
    delimiter: str
    block_bytes: int
    shard_rows: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kinds = tuple(draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=3, max_size=4)))
    fields = [st.sampled_from(["0", "1"]), st.sampled_from(["", "-2", "0", "1", "2.5", "1e3"])]
    row = st.tuples(*fields, *(FIELDS[kind] for kind in kinds))
    rows = tuple(draw(st.lists(row, min_size=15, max_size=40)))
    rule = draw(st.sampled_from(["time", "random", "reference"]))
    amounts = draw(st.sampled_from([("1/14", "1/7"), ("1/5", "3"), ("2", "0")]))
    given_amounts = {} if rule == "reference" else {"validation": amounts[0], "test": amounts[1]}
    return Case(
        kinds=kinds,
        columns=tuple(draw(COLUMNS) for _ in kinds),
        rows=rows,
        rule=SplitRule(rule=rule, seed=draw(st.integers(0, 3)), **given_amounts),
        amounts=amounts,
        delimiter=draw(st.sampled_from(["\t", "::"])),
        block_bytes=draw(st.sampled_from([100, 300, 1 << 20])),
        shard_rows=draw(st.sampled_from([7, 1000])),
    )


def run(case: Case, folder: Path) -> Manifest:
    names = ["label", "d", *(f"f{i}" for i in range(len(case.kinds)))]
    sparse = [
        Sparse(
            name=f"f{i}",
            type="string" if kind == "list" else kind,
            separator="|" if kind == "list" else None,
            mode=mode,
            min_count=min_count if mode == "min_count" else None,
            num_ids=num_ids if mode == "hashed" else None,
        )
        for i, (kind, (mode, min_count, num_ids)) in enumerate(
            zip(case.kinds, case.columns, strict=True)
        )
    ]
    schema = TableSchema(
        name="random",
        layout=Layout(delimiter=case.delimiter, header=False, fields=tuple(names)),
        label=Label(),
        dense=(Dense(name="d", missing=4.0),),
        sparse=tuple(sparse),
    )
    source = folder / "rows.txt"
    source.write_text("".join(case.delimiter.join(row) + "\n" for row in case.rows))
    options = PrepareOptions(
        split=case.rule, block_bytes=case.block_bytes, shard_rows=case.shard_rows
    )
    return prepare([source], schema, folder / "out", options)


def check(case: Case, manifest: Manifest, out: Path) -> None:
    splits = row_splits(
        case.rule.rule, len(case.rows), case.rule.seed, *map(_whole(case), case.amounts)
    )
    found = {split: read_rows(out, split) for split in manifest.splits}
    counts = manifest.counts(out)
    picked = {s: [i for i, name in enumerate(splits) if name == s] for s in manifest.splits}
    for split, rows in picked.items():
        assert manifest.splits[split].num_rows == len(rows)
        labels = [float(case.rows[i][0]) for i in rows]
        assert found[split]["label"] == labels
        assert manifest.counters.positives[split] == sum(labels)
        values = [max(float(case.rows[i][1] or "4"), 0.0) for i in rows]
        np.testing.assert_allclose(found[split]["d"], np.log1p(values), rtol=1e-6)
    for i, (kind, (mode, min_count, num_ids)) in enumerate(
        zip(case.kinds, case.columns, strict=True)
    ):
        column = Column(
            f"f{i}", kind, mode, min_count if mode == "min_count" else 1,
            num_ids if mode == "hashed" else None,
        )  # fmt: skip
        texts = [row[i + 2] for row in case.rows]
        if kind == "list":
            bags = [list(text.split("|")) if text else [] for text in texts]
        else:
            bags = [[token(text, kind)] for text in texts]
        ids, size, expected_counts, unseen = number(column, bags, splits)
        feature = manifest.feature(column.name)
        assert feature.num_ids == size
        if size is not None:
            assert counts[column.name].tolist() == expected_counts
        for split, rows in picked.items():
            expected = [ids[row] for row in rows]
            stored = found[split][column.name]
            assert stored == (expected if kind == "list" else [bag[0] for bag in expected])
            if split != "train":
                assert manifest.counters.unseen_ids[split][column.name] == unseen[split]


def _whole(case: Case):  # type: ignore[no-untyped-def]
    """An amount as a fraction of the rows, which is what the reference takes."""
    return lambda amount: amount if "/" in amount else f"{amount}/{len(case.rows)}"


@given(case=cases(), part_tokens=st.sampled_from([3, 1 << 22]))
@settings(max_examples=40)
def test_prepare_equals_reference(case: Case, part_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "PART_TOKENS", part_tokens)
        patch.setattr(ranking, "RANGE_TOKENS", part_tokens)
        manifest = run(case, Path(name))
        check(case, manifest, Path(name) / "out")
        assert Manifest.load(Path(name) / "out") == manifest
        manifest.verify(Path(name) / "out")
