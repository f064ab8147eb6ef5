"""The contenders of the benchmark do the same work: row by row the same ids and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compactrec.benchmarks import bench_prepare
from compactrec.data.criteo import CRITEO_DENSE, CRITEO_SPARSE
from tests.data.folders import read_rows

NUM_ROWS = 4000


@pytest.mark.parametrize("name", ["pandas", "polars", "duckdb"])
def test_contenders_agree(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    source = tmp_path / "rows.txt"
    bench_prepare.write_criteo_like(source, NUM_ROWS)
    bench_prepare.run_compactrec(source, tmp_path, NUM_ROWS)
    bench_prepare.CONTENDERS[name](source, tmp_path, NUM_ROWS)
    for split, file in (("train", "a"), ("validation", "b"), ("test", "c")):
        ours = read_rows(tmp_path / "data", split)
        theirs = pq.read_table(tmp_path / f"{file}.parquet").to_pydict()
        assert ours["label"] == theirs["label"]
        for column in CRITEO_SPARSE:
            assert ours[column] == theirs[column], column
        for column in CRITEO_DENSE:
            np.testing.assert_allclose(ours[column], theirs[column], rtol=2e-6, err_msg=column)


def test_distinct_tokens_in_a_process_of_their_own(tmp_path: Path) -> None:
    found = bench_prepare.distinct(tmp_path, 3000)
    assert found["num_tokens"] == 3000
    assert sorted(found["rows"]) == ["integers", "strings"]  # type: ignore[call-overload]
    assert all(row["peak_rss_bytes"] > 0 for row in found["rows"].values())  # type: ignore[attr-defined]


def test_tokens_are_as_spread_as_they_should_be(tmp_path: Path) -> None:
    source = tmp_path / "rows.txt"
    bench_prepare.write_criteo_like(source, 20_000)
    lines = [line.split("\t") for line in source.read_text().splitlines()]
    assert {len(line) for line in lines} == {40}
    distinct = [len({line[14 + i] for line in lines}) for i in range(26)]
    assert distinct[2] > 8_000 > 1_461 > distinct[0] > 500  # C3 of 10.1M ids, C1 of 1460
    assert distinct[8] == 3
    missing = np.mean([line[14 + 21] == "" for line in lines])
    assert 0.74 < missing < 0.78
