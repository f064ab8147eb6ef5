"""From nothing to a table and a picture in minutes: `make demo`, `compactrec demo`.

    out/data-<name>/   the data folder: made-up clicks, or the first rows of a Criteo file
    out/<name>/        the comparison of every method at 1/4 and 1/16 of the full tables' bytes,
                       and its report

Everything that is there already is kept: the same command again goes on where it stopped. The name
of a file's data ends in a hash of its path, size and time of change: another file is another demo.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.report import ReportFiles, write_report
from compactrec.benchmarks.runs import Runner, num_cores
from compactrec.data.criteo import criteo_layout
from compactrec.data.manifest import MANIFEST_NAME
from compactrec.data.prepare import PrepareOptions, prepare
from compactrec.data.progress import progress_bar
from compactrec.data.schema import Layout
from compactrec.data.source import SourceFile
from compactrec.data.synthetic import make_synthetic
from compactrec.data.teacher import SyntheticConfig

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BUDGETS", "NUM_ROWS", "NUM_SEEDS", "SYNTHETIC", "run_demo"]

BUDGETS = ("1/4", "1/16")
NUM_SEEDS = 3
NUM_ROWS = 400_000
SYNTHETIC = SyntheticConfig(scale=0.002)
"""Criteo's 26 vocabularies at a 500th of their size: few enough ids to be learned from NUM_ROWS."""
DIM = 32
"""At width 16, uniform and mixed do not get to 1/16: width 1 alone is that, without projections."""
MODEL: dict[str, JsonValue] = {"bottom": [128, 64], "top": [128, 64, 1]}
"""Perceptrons a quarter of the default's width, to save time."""
BATCH_SIZE, TABLE_RATE = 1024, 0.05
MOST_JOBS = 4


def run_demo(
    out: Path,
    raw: Path | None = None,
    *,
    num_rows: int | None = None,
    max_rows: int = 500_000,
    num_jobs: int | None = None,
    runner: Runner | None = None,
    console: Console | None = None,
) -> ReportFiles:
    """Make or prepare the data, compare every method on it, and write the report.

    Args:
        out: folder of the demo.
        raw: a Criteo file (tabs or commas; plain, gzip or zip); None makes up clicks.
        num_rows: of made-up clicks; None is `NUM_ROWS`.
        max_rows: of `raw`, the first so many rows are used.
        num_jobs: runs at once; None is one per core, at most four.
        runner: what trains; None is `train`.
        console: where progress is shown.

    Raises ValueError when `raw` is no Criteo file, and as `compare` does.
    """
    name = "synthetic" if raw is None else _name_of(raw, max_rows)
    data = out / f"data-{name}"
    if not (data / MANIFEST_NAME).is_file():
        out.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            if raw is None:
                make_synthetic(data, num_rows or NUM_ROWS, config=SYNTHETIC, progress=progress)
            else:
                head = _first_rows(raw, out / f"{name}.txt", max_rows)
                prepare([head], "criteo", data, PrepareOptions(name=name), progress)
                head.unlink()
    jobs = num_jobs or min(num_cores(), MOST_JOBS)
    request = CompareRequest(budgets=BUDGETS, num_seeds=NUM_SEEDS, num_jobs=jobs)
    base = TrainConfig(
        data=data, out=out / name, method="full", dim=DIM,
        model_options=MODEL, batch_size=BATCH_SIZE, table_learning_rate=TABLE_RATE,
    )  # fmt: skip
    file = compare(request, base, runner=runner, console=console)
    if file.num_failed:
        failed = [f"{c.method}: {r.reason}" for c in file.cells for r in c.runs if r.reason]
        raise ValueError(f"{file.num_failed} runs failed ({'; '.join(sorted(set(failed)))})")
    return write_report([base.out], base.out)


def _name_of(raw: Path, max_rows: int) -> str:
    path = raw.resolve()
    if not path.is_file():
        raise ValueError(f"no file {raw}; --data takes a raw Criteo file")
    state = path.stat()
    text = f"{path}\n{state.st_size}\n{state.st_mtime_ns}"
    key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{raw.name.split('.')[0]}-{max_rows}-{key}"


def _first_rows(raw: Path, head: Path, max_rows: int) -> Path:
    """Copy the first `max_rows` rows, and the header if there is one."""
    left = max_rows + criteo_layout(raw).header
    source = SourceFile(raw, Layout(header=False, fields=("line",)))
    with head.open("wb") as target, closing(source.blocks()) as blocks:
        for block in blocks:
            target.writelines(islice(io.BytesIO(block.text), left))
            left -= block.num_lines
            if left <= 0:
                break
    return head
