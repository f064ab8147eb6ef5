"""The base install is enough to import, plan and build layers; the rest says what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import SOME

ROOT = Path(__file__).resolve().parents[1]

# None of these comes with the base install.
BLOCKED = (
    "duckdb",
    "fbgemm_gpu",
    "llvmlite",
    "matplotlib",
    "numba",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "tensordict",
    "torchmetrics",
    "torchrec",
    "typer",
)

BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_light(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has the base packages only."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_block_blocks() -> None:
    run = run_light("import torchrec")
    assert "No module named 'torchrec'" in run.stderr


def test_import_is_light_and_starts_nothing() -> None:
    run = run_light(
        "import torch, compactrec, compactrec.embeddings\n"
        "assert not torch.cuda.is_initialized(), 'CUDA was initialised'\n"
        "assert 'torch.distributed.checkpoint' not in sys.modules, 'nobody asked for it'\n"
        "assert not torch.distributed.is_initialized(), 'a process group was made'\n"
    )
    assert run.returncode == 0, run.stderr


def test_plans_bytes_and_layers_work_without_torchrec() -> None:
    run = run_light(f"""
import torch
from compactrec.embeddings import CompressedEmbedding, Feature, make_plan, size

features = [Feature(name="user", num_ids=1000, dim=8)]
plan = make_plan({SOME!r}, features, budget_bytes=16_000)
assert size(plan, features).serving_bytes <= 16_000
layer = CompressedEmbedding.from_budget(1000, 8, {SOME!r}, budget_bytes=16_000)
assert layer(torch.tensor([[0, 999]])).shape == (1, 2, 8)
""")
    assert run.returncode == 0, run.stderr


def test_swapping_plain_layers_works_without_torchrec() -> None:
    run = run_light(f"""
import torch
from torch import nn
from compactrec.embeddings import compress, materialize

model = nn.ModuleDict({{"user": nn.Embedding(1000, 8), "item": nn.EmbeddingBag(500, 8)}})
compress(model, {SOME!r}, budget_bytes=12_000)
assert sum(p.nbytes for p in model.parameters()) <= 12_000
materialize(model)
assert type(model["item"]) is nn.EmbeddingBag
""")
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[0].startswith("table  ids x width")


def test_checkpoints_work_without_torchrec(tmp_path: Path) -> None:
    run = run_light(f"""
import torch
from compactrec.embeddings import (
    CheckpointError, CheckpointFolder, CompressedEmbedding, load_checkpoint, save_checkpoint,
)

one, other = (CompressedEmbedding.from_budget(1000, 8, {SOME!r}, budget_bytes=16_000) for _ in "ab")
with torch.no_grad():
    next(other.parameters()).zero_()
with CheckpointFolder({str(tmp_path)!r}, {{"layers": 1}}) as folder:
    save_checkpoint(folder, one, step=3)
    assert load_checkpoint(folder, other).step == 3
ids = torch.tensor([[0, 999]])
assert torch.equal(one(ids), other(ids)) and one(ids).any()
try:
    CheckpointFolder({str(tmp_path)!r}, {{"layers": 2}}).load()
except CheckpointError as error:
    print(error)
""")
    assert run.returncode == 0, run.stderr
    assert "layers is 1 there and 2 here" in run.stdout


def test_what_needs_torchrec_says_what_to_install() -> None:
    run = run_light("from compactrec.embeddings import CompressedEmbeddingBagCollection")
    message = run.stderr.splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: CompressedEmbeddingBagCollection needs")
    assert "'.[gpu]'" in message
    assert "requirements/cpu.txt" in message


def test_a_star_import_brings_what_the_base_install_has() -> None:
    run = run_light("from compactrec.embeddings import *; print(CompressedEmbedding.__name__)")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "CompressedEmbedding\n"


def test_command_line_says_what_to_install() -> None:
    run = run_light("from compactrec.cli import main; sys.exit(main(['methods']))")
    assert run.returncode != 0
    assert "'.[study]'" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["embeddings", "models", "data", "benchmarks"])
def test_packages_import_light(module: str) -> None:
    run = run_light(f"import compactrec.{module}")
    assert run.returncode == 0, run.stderr
