"""What every test gets: fixed seeds, one thread per process, and the markers of pyproject.toml."""

from __future__ import annotations

import os
import random
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

DEFAULT_WORLD_SIZE = 2

# Two processes share two cores: one thread each. Set here, before any test or fixture runs.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # before polars is imported; processes inherit it

# The same examples in every run; no deadline, because a loaded machine is not a failure.
settings.register_profile("compactrec", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("compactrec")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--world-size",
        type=int,
        default=DEFAULT_WORLD_SIZE,
        help="number of processes that a test marked `dist` starts (default: %(default)s)",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = why_no_gpu()
    for item in items:
        if item.get_closest_marker("gpu") and no_gpu:
            item.add_marker(pytest.mark.skip(reason=no_gpu))
        if item.get_closest_marker("dist"):
            # One after the other in one worker: each of them already fills the machine.
            item.add_marker(pytest.mark.xdist_group("dist"))
    # The longest first: it runs a whole suite, and would be waited for at the end.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_removal.py"))


def why_no_gpu() -> str:
    """Why tests marked ``gpu`` cannot run here; empty if they can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if "fbgemm-gpu" not in {d.name.lower().replace("_", "-") for d in metadata.distributions()}:
        return "FBGEMM is the CPU build: pip install '.[gpu]' in an environment of its own"
    return ""


@pytest.fixture
def world_size(request: pytest.FixtureRequest) -> int:
    """Number of processes that a ``dist`` test starts."""
    return int(request.config.getoption("--world-size"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data folder; tests read it and leave it as it is."""
    from tests.benchmarks.folder import write_folder

    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
