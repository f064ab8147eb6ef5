"""Every piece of a job is done once, by torch's threads or by others."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

numba_team = pytest.importorskip(
    "compactrec.embeddings.numba_team", reason="the compiled loops need Numba"
)
from numba import carray  # noqa: E402  # after the check that it is there

from compactrec.embeddings.numba_jit import share  # noqa: E402  # as above
from compactrec.embeddings.numba_lanes import claim, integers  # noqa: E402  # as above


@share
def count_share(address: int) -> None:
    """Add a piece's number and one to its place of an array of ``job[3]`` numbers."""
    job = integers(address)
    while True:
        piece = claim(address)
        if piece >= job[1]:
            return
        carray(integers(job[2]), (job[3],))[piece] += piece + 1


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("library", ["torch's", "none"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.usefixtures("threads")
def test_every_piece_is_done_once(
    count: int, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "none":
        monkeypatch.setattr(numba_team, "_parallel", lambda: None)
    torch.set_num_threads(count)
    for pieces in (1, 2, 3, 50):
        done = np.zeros(pieces, np.int64)
        numba_team.run(count_share, pieces, done.ctypes.data, pieces)
        assert done.tolist() == list(range(1, pieces + 1))


@pytest.mark.skipif(os.name != "posix", reason="a fork is one of POSIX systems")
@pytest.mark.usefixtures("threads")
def test_a_fork_works_alone() -> None:
    torch.set_num_threads(2)
    done = np.zeros(8, np.int64)
    numba_team.run(count_share, 8, done.ctypes.data, 8)  # the team's threads are there
    child = os.fork()
    if child == 0:  # no thread but this one; os._exit leaves pytest to the parent
        done[:] = 0
        numba_team.run(count_share, 8, done.ctypes.data, 8)
        good = numba_team.num_threads() == 1 and done.tolist() == list(range(1, 9))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_torchs_own_library_is_found() -> None:
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch computes without OpenMP here")
    assert numba_team._parallel() is not None
