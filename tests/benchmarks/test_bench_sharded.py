"""The sharded benchmark trains on the same thing in every layout, and holds what was planned."""

import pytest
import torch

from compactrec.benchmarks.bench_sharded import LAYOUTS, Entrant, Told, _row, measure
from compactrec.benchmarks.bench_training import make_batches
from compactrec.benchmarks.endless import Endless
from compactrec.benchmarks.step_profile import PARTS, parts_of
from compactrec.benchmarks.training_entrants import Setting
from compactrec.embeddings import Feature

SETTING = Setting(
    tuple(Feature(name=f"C{i}", num_ids=n, dim=8) for i, n in enumerate((300, 5, 1000, 40))),
    batch=63,
    bottom=(16, 8),
    top=(16, 1),
)


def test_the_parts_of_a_batch_are_the_batch() -> None:
    batches = make_batches(SETTING)
    parts = [next(iter(Endless(batches, (rank, 2)))) for rank in range(2)]
    assert [part.batch_size for part in parts] in ([31, 32], [32, 31])
    num = len(SETTING.features)
    ids = torch.cat([part.values.view(num, -1) for part in parts], dim=1)
    assert torch.equal(ids.reshape(-1), batches[0].values)
    assert torch.equal(torch.cat([part.labels for part in parts]), batches[0].labels)
    assert torch.equal(torch.cat([part.dense for part in parts]), batches[0].dense)


@pytest.mark.slow
@pytest.mark.dist
def test_every_process_holds_what_was_planned() -> None:
    entrants = [Entrant("full", *layout) for layout in LAYOUTS if layout[1:] == (2, False)]
    rows = measure(entrants, SETTING, rounds=1, steps=1)
    assert len(rows) == len(entrants)
    for row in rows.values():
        assert row["held_bytes"] == row["planned_bytes"]
        assert all(peak > 0 for peak in row["peak_bytes"])
        parts = dict(row["parts"])
        assert 0 < sum(parts.values()) - parts["profiled_step"] < parts["profiled_step"]
        of_sharded = set(PARTS) if row is rows["full_sharded_2"] else {"matrix products"}
        assert set(parts) == {"profiled_step", *of_sharded}
    apart, together = (rows[f"full_{engine}_2"]["held_bytes"] for engine in ("fused", "sharded"))
    assert apart == [sum(together)] * 2


def test_speeds_are_beside_one_process() -> None:
    entrants = [Entrant("full", *layout) for layout in LAYOUTS]
    times = {e: [t] for e, t in zip(entrants, (0.3, 0.2, 0.4, 0.2, 0.1), strict=True)}
    assert [e.name for e in entrants][-2:] == ["full_sharded_2", "full_sharded_2_pipelined"]
    row = _row(entrants[-1], SETTING, times, [Told(10, 20), Told(11, 21)], {"profiled_step": 3.0})
    assert (row["speed_beside_fused_1"], row["speed_beside_sharded_1"]) == (3.0, 4.0)
    assert (row["held_bytes"], row["peak_bytes"]) == ([10, 11], [20, 21])
    assert len(row["planned_bytes"]) == 2
    assert row["parts"] == {"profiled_step": 3.0}


def test_parts_of_a_step_by_hand() -> None:
    times = {"aten::mm": 2.0, "aten::addmm": 1.5, "aten::relu": 9.0, "All2All_Pooled_Wait": 0.25}
    assert parts_of(times) == {"matrix products": 3.5, "waiting for vectors": 0.25}
    names = [name for part in PARTS.values() for name in part]
    assert len(set(names)) == len(names)
