"""The entrants of the training benchmark train, and on the same thing."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from compactrec.benchmarks.bench_training import capped_sizes, main, make_batches
from compactrec.benchmarks.training_entrants import PlainEmbeddings, Setting, build, entrants
from compactrec.data.batch import Batch
from compactrec.data.teacher import KAGGLE_SIZES
from compactrec.embeddings import Feature, full_plan, size

SETTING = Setting(
    tuple(Feature(name=f"C{i}", num_ids=n, dim=8) for i, n in enumerate((300, 5, 1000, 40))),
    batch=64,
    bottom=(16,),
    top=(16, 1),
)
STEPS = 130
"""Over tables that keep their first vectors the layers do not get as far."""


def batch_of_tables() -> Batch:
    """Only the ids of C1 tell its labels: what has no tables can learn no more than their mean."""
    made = make_batches(SETTING)[0]
    odd = made.values.view(4, -1)[1] % 2
    return dataclasses.replace(made, dense=torch.full_like(made.dense, 0.5), labels=odd.float())


BATCH = batch_of_tables()


@pytest.mark.parametrize("name", entrants()[0])
def test_every_entrant_learns_from_its_tables(name: str) -> None:
    step, table_bytes = build(name, SETTING)
    full = size(full_plan(SETTING.features)).serving_bytes
    assert (table_bytes == 0) == (name == "dense_part")
    assert table_bytes <= full
    losses = [step(BATCH) for _ in range(STEPS)]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] > 0.65
    assert (losses[-1] < 0.3) == (name != "dense_part")


def test_plain_tables_are_looked_up_feature_by_feature() -> None:
    tables = PlainEmbeddings(SETTING.features, sparse=True)
    batch = make_batches(SETTING)[0]
    vectors = tables(batch.kjt()).to_dict()
    for i, (name, table) in enumerate(zip(vectors, tables.tables, strict=True)):
        assert isinstance(table, nn.Embedding)
        ids = batch.values.view(4, -1)[i]
        assert name == SETTING.features[i].name
        torch.testing.assert_close(vectors[name], table.weight[ids])


def test_sizes_are_capped_to_a_sum() -> None:
    sizes = capped_sizes(910_000)
    assert 0.99 * 910_000 < sum(sizes) <= 910_000
    assert all(n in (full, max(sizes)) for n, full in zip(sizes, KAGGLE_SIZES, strict=True))


def test_an_unknown_entrant_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_training", "--entrants", "magic"])
    with pytest.raises(SystemExit):
        main()
    assert "invalid choice: 'magic'" in capsys.readouterr().err
