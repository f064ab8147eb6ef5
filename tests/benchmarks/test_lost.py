"""When one process of a run is killed, the other one ends and says so."""

import os
import subprocess
import sys

import pytest

from compactrec.benchmarks import processes
from tests.ports import free_port


@pytest.mark.parametrize(
    "text",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer",
        "Read error [127.0.0.1]:45172: Connection reset by peer",
        "writev [127.0.0.1]:45172: Broken pipe",
        "connect [127.0.0.1]:45172: Connection refused",
    ],
)
def test_what_gloo_says_of_a_lost_connection_is_known(text: str) -> None:
    assert processes._is_lost(RuntimeError(text))
    assert not processes._is_lost(RuntimeError("shapes (3, 4) and (4, 4) differ"))


@pytest.mark.slow
@pytest.mark.dist
def test_the_survivor_of_a_killed_process_says_what_happened() -> None:
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.lost_worker"],
            env=environment | {"RANK": str(rank)}, text=True,
            stdout=subprocess.DEVNULL if rank else subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = started[0].communicate(timeout=120)[0]
        killed = started[1].wait(timeout=60)
    finally:
        for process in started:
            process.kill()
    assert killed < 0
    assert started[0].returncode == 1
    assert said.startswith("ProcessLost the connection to another process is closed: it ended"), (
        said
    )
