"""The benchmark of kernels counts bytes by hand, and has every contender of each optimizer."""

import argparse

import pytest
import torch

from compactrec.benchmarks import bench_kernels
from compactrec.benchmarks.bench_kernels import bytes_moved, described, state_floats


def test_bytes_of_a_step_by_hand() -> None:
    batches = [torch.tensor([[3, 3, 5], [0, 0, 0]]), torch.tensor([[1, 2, 3], [4, 5, 6]])]
    # 3 and 6 distinct rows, 6 ids; each row is read and written, with its state
    output_and_gradient = 2 * 6 * 8 * 4
    assert bytes_moved(batches, 8, "sgd") == 2 * 4.5 * 8 * 4 + output_and_gradient
    assert bytes_moved(batches, 8, "rowwise_adagrad") == 2 * 4.5 * 9 * 4 + output_and_gradient
    assert bytes_moved(batches, 8, "adam") == 2 * 4.5 * 24 * 4 + output_and_gradient
    assert [state_floats(n, 8) for n in bench_kernels.NAMES] == [0, 1, 8, 16]


def test_ratios_are_of_one_line() -> None:
    rows = described(
        {"numba": 0.5, "fbgemm": 2.0}, moved=100.0, rate=400.0, table_bytes=8, state_bytes=4
    )
    assert rows["numba"]["ratio_to_bound"] == 2.0
    assert rows["numba"]["times_as_fast_as_fbgemm"] == 4.0
    assert rows["fbgemm"]["times_as_fast_as_fbgemm"] == 1.0


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("name", bench_kernels.NAMES)
def test_every_contender_runs(name: bench_kernels.Name) -> None:
    args = argparse.Namespace(batch=[8], threads=[1], rounds=1, cap=50)
    (result,) = bench_kernels.run(4, name, args)
    expected = {"numba", "fbgemm", "sparse"}
    expected -= {"adam": {"fbgemm"}, "rowwise_adagrad": {"sparse"}}.get(name, set())
    rows = result["rows"]
    assert isinstance(rows, dict)
    assert set(rows) == expected
    assert all(row["milliseconds"] > 0 for row in rows.values())
