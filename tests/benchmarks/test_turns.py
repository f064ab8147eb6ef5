"""Entrants that take turns say how long, how large, and where the time goes."""

from functools import partial

import pytest
import torch

from compactrec.benchmarks.bench_training import make_batches
from compactrec.benchmarks.step_profile import operators
from compactrec.benchmarks.training_entrants import Setting, build
from compactrec.benchmarks.turns import Entrant, take_turns
from compactrec.embeddings import Feature, full_plan, size


def test_the_longest_operators_and_all_of_a_step() -> None:
    left, right = torch.rand(300, 300), torch.rand(300, 300)
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        for _ in range(3):
            (left @ right).sum()

    found = operators(run, 3, most=2)
    assert calls == 2
    assert list(found) == ["step", "aten::mm", "aten::sum"]
    assert 0 < found["aten::sum"] < found["aten::mm"] < found["step"]


@pytest.mark.slow
@pytest.mark.dist
def test_every_entrant_is_measured() -> None:
    features = tuple(
        Feature(name=f"C{i}", num_ids=n, dim=8) for i, n in enumerate((300, 5, 1000, 40))
    )
    setting = Setting(features, batch=64, bottom=(16,), top=(16, 1))
    entrants = {
        name: Entrant(partial(make_batches, setting), partial(build, name, setting))
        for name in ("dense_part", "embedding_sparse_adam")
    }
    found = take_turns(entrants, rounds=1, steps=2, threads=1)
    assert set(found) == set(entrants)
    assert found["dense_part"].table_bytes == 0
    assert found["embedding_sparse_adam"].table_bytes == size(full_plan(features)).serving_bytes
    for of in found.values():
        assert of.seconds > 0
        assert of.peak_bytes > 0
        assert of.operators["step"] > max(list(of.operators.values())[1:]) > 0
