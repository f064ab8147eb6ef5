"""A run that is killed at any moment goes on from a whole checkpoint to the same weights.

`test_train.py` kills at chosen places; here the moment is a random time. Two kills are tried: of
one process in a loop that saves asynchronously, inside a save, and of one of two sharded ones in
`train`, after a save. ``COMPACTREC_SHARDED=all`` tries twenty more, at any moment, and
``COMPACTREC_SHARDED_RESULTS=<folder>`` gets a file of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compactrec.benchmarks.bench_file import write_bench

ROOT = Path(__file__).resolve().parents[2]
EVERY = os.environ.get("COMPACTREC_SHARDED") == "all"


def _config(data: Path, engine: str) -> dict[str, Any]:
    return {
        "data": str(data), "out": "-", "method": "full", "dim": 8, "bottom": [16], "top": [16, 1],
        "batch_size": 64, "epochs": 3, "eval_batch_size": 256, "num_threads": 1, "quiet": True,
        "table_learning_rate": 0.1, "engine": engine, "checkpoint_every_steps": 1,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(3600 if EVERY else 300)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    sharded = _config(data, "sharded")
    jobs = [("saving", None, 1, 1, "saving"), ("saved", sharded, 2, 1, "saved")]
    if EVERY:
        jobs += [
            ("loop", None, 1, 6, "any"),
            ("sharded", sharded, 2, 5, "any"),
            ("sharded-loop", None, 2, 5, "any"),
            ("train", _config(data, "fused"), 1, 4, "any"),
        ]
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "tests.benchmarks.moment_runner",
            str(tmp_path), json.dumps(jobs),
        ],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": "src"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert {name: len(kills) for name, kills in found.items()} == {j[0]: j[3] for j in jobs}
    assert found["saving"][0]["torn"], "the kill was not inside a save"
    for name, kills in found.items():
        assert any(kill["step"] for kill in kills), f"{name} was never killed after a save"
    if folder := os.environ.get("COMPACTREC_SHARDED_RESULTS"):
        write_bench(Path(folder) / "kills.json", 1, {"all": EVERY, "kills": found})
    if EVERY:
        assert any(kill["torn"] for kill in found["loop"]), "no kill was inside a save"
        assert any(kill["torn"] for kill in found["sharded-loop"]), "no kill was inside a save"
