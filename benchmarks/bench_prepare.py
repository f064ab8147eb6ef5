"""`prepare` in rows per second and peak memory, beside what one would write with other libraries.

    python benchmarks/bench_prepare.py --rows 1400000 --rounds 3 --large 10000000 \\
        --distinct 20000000 --out benchmarks/results/prepare.json

The input is generated: 13 numbers and 26 columns of eight hexadecimal digits with the sizes of the
Kaggle set, ids Zipf-distributed over them, fields missing as often as there. Every contender turns
the same file into training counts, ids by falling count, log1p of the numbers, and parquet files of
three splits by time, in a process of its own. They take turns; the best round of each counts, by
the clock and by processor time (on a busy machine the second is the steadier one).

* ``compactrec``: `prepare`, two passes, bounded memory; it also hashes, checks and counts;
* ``pandas``: the file in memory, factorize, one gather per column;
* ``polars``: lazy scan to parquet, group-by per column, 26 joins, streaming where it can;
* ``duckdb``: SQL with a memory limit and a scratch file: a table, group-by per column, 26 joins.

``large`` is one run of ``compactrec`` on a larger file: its peak memory should hardly grow.
``distinct`` is a file of a label and one column in which no token comes twice, prepared as integers
and as strings: memory should not grow with the distinct tokens either.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from compactrec.benchmarks.environment import describe_environment, peak_rss_bytes
from compactrec.data.hashing import mix

__all__ = ["main", "write_criteo_like"]

SIZES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
MISSING_DENSE = (0.45, 0, 0.21, 0.21, 0.03, 0.22, 0.04, 0, 0.04, 0.45, 0.04, 0.77, 0.21)
MISSING_SPARSE = {3: 0.03, 4: 0.03, 6: 0.12, 12: 0.03, 16: 0.03, 19: 0.44, 20: 0.44, 21: 0.03} | {
    22: 0.76, 24: 0.03, 25: 0.44, 26: 0.44
}  # fmt: skip
DENSE = [f"I{i}" for i in range(1, 14)]
SPARSE = [f"C{i}" for i in range(1, 27)]
NAMES = ["label", *DENSE, *SPARSE]
HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
PIECE = 500_000


def write_criteo_like(path: Path, num_rows: int, seed: int = 0) -> None:
    """A raw file in the Kaggle format, written piece by piece."""
    rng = np.random.default_rng(seed)
    options = pc.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        for start in range(0, num_rows, PIECE):
            rows = min(PIECE, num_rows - start)
            columns = [pa.array((rng.random(rows) < 0.2562).astype(np.int8))]
            for j, missing in enumerate(MISSING_DENSE):
                values = np.exp(rng.normal(1.5 + j % 5, 1.5, rows)).astype(np.int64) - 3 * (j == 1)
                columns.append(pa.array(values, mask=rng.random(rows) < missing))
            columns += [_tokens(rng, c, n, rows) for c, n in enumerate(SIZES, start=1)]
            pc.write_csv(pa.table(columns, names=NAMES), file, options)


def write_distinct(path: Path, num_rows: int) -> None:
    """A label and a token per line, no token twice."""
    options = pc.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        for start in range(0, num_rows, PIECE):
            rows = np.arange(start, min(start + PIECE, num_rows), dtype=np.uint64)
            columns = [pa.array((rows % np.uint64(4) == 0).astype(np.int8))]
            columns.append(pa.array(mix(rows).view(np.int64)))
            pc.write_csv(pa.table(columns, names=["label", "token"]), file, options)


def _tokens(rng: np.random.Generator, column: int, size: int, rows: int) -> pa.Array:
    """Hexadecimal tokens; rank r of `size` with a frequency of about 1/r."""
    rank = np.minimum(float(size + 1) ** rng.random(rows), size).astype(np.uint64)
    value = (rank + np.uint64(column << 24)) * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)
    digits = np.empty((rows, 8), dtype=np.uint8)
    for i in range(8):
        digits[:, i] = HEX[(value >> np.uint64(28 - 4 * i)) & np.uint64(15)]
    missing = rng.random(rows) < MISSING_SPARSE.get(column, 0)
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(np.where(missing, 0, 8), out=offsets[1:])
    text = pa.py_buffer(digits[~missing].tobytes())
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), text)


def _cuts(num_rows: int) -> tuple[int, int]:
    """First row of validation and of test, as `prepare` splits by time."""
    return num_rows - num_rows // 7 - num_rows // 14, num_rows - num_rows // 7


def run_compactrec(source: Path, out: Path, num_rows: int) -> None:
    """The thing under test."""
    from compactrec.data.prepare import prepare

    manifest = prepare([source], "criteo", out / "data")
    assert sum(split.num_rows for split in manifest.splits.values()) == num_rows


def run_integers(source: Path, out: Path, num_rows: int) -> None:
    """One column of distinct integers."""
    _run_distinct(source, out, num_rows, "int")


def run_strings(source: Path, out: Path, num_rows: int) -> None:
    """The same, kept as text."""
    _run_distinct(source, out, num_rows, "string")


def _run_distinct(source: Path, out: Path, num_rows: int, kind: Literal["int", "string"]) -> None:
    from compactrec.data.prepare import prepare
    from compactrec.data.schema import Label, Layout, Sparse, TableSchema

    layout = Layout(delimiter="\t", header=False, fields=("label", "token"))
    column = Sparse(name="token", type=kind)
    schema = TableSchema(name="distinct", layout=layout, label=Label(), sparse=(column,))
    manifest = prepare([source], schema, out / "data")
    assert manifest.feature("token").num_tokens == num_rows


def run_pandas(source: Path, out: Path, num_rows: int) -> None:
    """In memory, with nothing slower than it must be."""
    import pandas as pd

    types = dict.fromkeys(SPARSE, "str") | dict.fromkeys(DENSE, "float32") | {"label": "float32"}
    frame = pd.read_csv(source, sep="\t", header=None, names=NAMES, dtype=types)
    train, test = _cuts(num_rows)
    for name in DENSE:
        frame[name] = np.log1p(frame[name].fillna(0).clip(lower=0))
    for name in SPARSE:
        codes, tokens = pd.factorize(frame[name], use_na_sentinel=False)
        counts = np.bincount(codes[:train], minlength=len(tokens))
        order = np.argsort(-counts, kind="stable")
        ids = np.zeros(len(tokens), dtype=np.int32)
        kept = order[: np.count_nonzero(counts)]
        ids[kept] = np.arange(1, len(kept) + 1)
        frame[name] = ids[codes]
        vocabulary = pd.DataFrame({"token": tokens[kept], "id": ids[kept], "count": counts[kept]})
        vocabulary.to_parquet(out / f"{name}.parquet")
    for name, rows in (("a", slice(0, train)), ("b", slice(train, test)), ("c", slice(test, None))):
        frame.iloc[rows].to_parquet(out / f"{name}.parquet")


def run_polars(source: Path, out: Path, num_rows: int) -> None:
    """Lazy, with an intermediate parquet file."""
    import polars as pl

    train, test = _cuts(num_rows)
    types = {name: pl.String if name in SPARSE else pl.Float32 for name in NAMES}
    scan = pl.scan_csv(source, separator="\t", has_header=False, quote_char=None, schema=types)
    hexadecimal = [pl.col(n).str.to_integer(base=16, dtype=pl.Int64).fill_null(-1) for n in SPARSE]
    dense = [pl.col(n).fill_null(0).clip(0).log1p() for n in DENSE]
    scan.with_row_index("row").with_columns(dense + hexadecimal).sink_parquet(out / "raw.parquet")
    rows = pl.scan_parquet(out / "raw.parquet")
    joined = rows
    for name in SPARSE:
        groups = rows.filter(pl.col("row") < train).group_by(name)
        counted = groups.agg(pl.len().alias("count"), pl.col("row").min().alias("first"))
        counted = counted.sort(["count", "first"], descending=[True, False])
        path = out / f"{name}.parquet"
        counted.with_row_index(f"{name}_id", 1).collect(engine="streaming").write_parquet(path)
        ids = pl.scan_parquet(path).select(name, f"{name}_id")
        joined = joined.join(ids, on=name, how="left", maintain_order="left")
    ids_of = [pl.col(f"{n}_id").fill_null(0).alias(n) for n in SPARSE]
    result = joined.select("row", "label", *DENSE, *ids_of)
    for name, low, high in (("a", 0, train), ("b", train, test), ("c", test, num_rows)):
        part = result.filter(pl.col("row").is_between(low, high, closed="left")).drop("row")
        part.sink_parquet(out / f"{name}.parquet", row_group_size=1 << 16)


def run_duckdb(source: Path, out: Path, num_rows: int) -> None:
    """SQL that may spill."""
    import duckdb

    train, test = _cuts(num_rows)
    con = duckdb.connect(str(out / "scratch.db"))
    con.execute("SET memory_limit = '1500MB'")
    types = {name: "VARCHAR" if name in SPARSE else "FLOAT" for name in NAMES}
    dense = [f"ln(greatest(coalesce({n}, 0), 0) + 1)::FLOAT AS {n}" for n in DENSE]
    hexadecimal = [f"coalesce(('0x' || {n})::BIGINT, -1) AS {n}" for n in SPARSE]
    con.execute(
        f"CREATE TABLE raw AS SELECT row_number() OVER () - 1 AS row, label, "
        f"{', '.join(dense + hexadecimal)} FROM read_csv('{source}', delim = '\t', quote = '', "
        f"header = false, auto_detect = false, columns = {types})"
    )
    for n in SPARSE:
        con.execute(
            f"CREATE TABLE v_{n} AS SELECT token, count, row_number() OVER "
            f"(ORDER BY count DESC, first)::INTEGER AS id FROM (SELECT {n} AS token, count(*) AS "
            f"count, min(row) AS first FROM raw WHERE row < {train} GROUP BY {n})"
        )
        con.execute(f"COPY v_{n} TO '{out}/{n}.parquet'")
    ids = ", ".join(f"coalesce(v_{n}.id, 0) AS {n}" for n in SPARSE)
    joins = " ".join(f"LEFT JOIN v_{n} ON raw.{n} = v_{n}.token" for n in SPARSE)
    for name, low, high in (("a", 0, train), ("b", train, test), ("c", test, num_rows)):
        con.execute(
            f"COPY (SELECT label, {', '.join('raw.' + n for n in DENSE)}, {ids} FROM raw {joins} "
            f"WHERE row >= {low} AND row < {high} ORDER BY row) TO '{out}/{name}.parquet' "
            f"(ROW_GROUP_SIZE 65536)"
        )


CONTENDERS: dict[str, Callable[[Path, Path, int], None]] = {
    "compactrec": run_compactrec,
    "pandas": run_pandas,
    "polars": run_polars,
    "duckdb": run_duckdb,
}

DISTINCT = {"integers": run_integers, "strings": run_strings}


def measure(name: str, source: Path, num_rows: int) -> dict[str, float]:
    """One contender in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--source", str(source)]
    done = subprocess.run(
        [*command, "--rows", str(num_rows)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    shown = {key: round(value, 2) for key, value in figures.items()}
    print(f"{name:<12}{num_rows:>12,} rows  {shown}", flush=True)
    return figures


def _one(name: str, source: Path, num_rows: int) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started, used = time.perf_counter(), time.process_time()
        (CONTENDERS | DISTINCT)[name](source, Path(folder), num_rows)
        seconds = time.perf_counter() - started
        figures = {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - used,
            "rows_per_second": num_rows / seconds,
            "peak_rss_bytes": peak_rss_bytes(),
        }
    print(json.dumps(figures))


def compare(folder: Path, names: list[str], num_rows: int, rounds: int) -> dict[str, object]:
    """The contenders in turn on one file; the best round of each, and ratios to `compactrec`."""
    source = folder / "small.txt"
    write_criteo_like(source, num_rows)
    rows: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in names:
            new = measure(name, source, num_rows)
            old = rows.setdefault(name, new)
            best = {"rows_per_second": max, "peak_rss_bytes": max}
            rows[name] = {key: best.get(key, min)(old[key], new[key]) for key in new}
    ours = rows[names[0]]
    ratios = {
        name: {key: rows[name][key] / ours[key] for key in ("seconds", "cpu_seconds")}
        for name in names[1:]
    }
    num_bytes = source.stat().st_size
    source.unlink()
    return {"num_rows": num_rows, "num_bytes": num_bytes, "rounds": rounds, "rows": rows} | {
        f"times_{names[0]}": ratios
    }


def distinct(folder: Path, num_tokens: int) -> dict[str, object]:
    """One column of `num_tokens` tokens, none of them twice, as integers and as strings."""
    source = folder / "distinct.txt"
    write_distinct(source, num_tokens)
    num_bytes = source.stat().st_size
    rows = {name: measure(name, source, num_tokens) for name in DISTINCT}
    return {"num_tokens": num_tokens, "num_bytes": num_bytes, "rows": rows}


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=0, help="rows of the large file; 0 = none")
    parser.add_argument("--distinct", type=int, default=0, help="distinct tokens; 0 = no such run")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--folder", type=Path, help="where the input is generated")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=[*CONTENDERS, *DISTINCT], help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _one(args.one, args.source, args.rows)
        return
    names = args.contenders.split(",")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        result: dict[str, object] = {"environment": describe_environment(os.cpu_count() or 1)}
        result["compare"] = compare(folder, names, args.rows, args.rounds)
        if args.large:
            source = folder / "large.txt"
            write_criteo_like(source, args.large)
            figures = measure("compactrec", source, args.large)
            num_bytes = source.stat().st_size
            result["large"] = {"num_rows": args.large, "num_bytes": num_bytes, **figures}
            source.unlink()
        if args.distinct:
            result["distinct"] = distinct(folder, args.distinct)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
