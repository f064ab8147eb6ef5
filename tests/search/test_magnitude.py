"""Magnitude pruning: the largest values stay, over all tables together."""

import pytest
import torch

from compactrec.embeddings import CompressedEmbeddingBagCollection, size
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.search import Trained, get_search
from compactrec.embeddings.search.magnitude import MagnitudeSupernet, derive_magnitude
from tests.search.support import SEARCHED, make_task, no_fitness, no_rows, train_weights


def trained(**options: object) -> Trained:
    torch.manual_seed(0)
    net = MagnitudeSupernet(make_task("magnitude", **options))  # type: ignore[arg-type]
    initial = net.raw_tables()
    train_weights(net, rate=5.0)
    return Trained(net.task, net.eval(), initial, no_fitness, no_rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [2_000, 1_600, 1_300])
def test_the_largest_values_of_all_tables_stay(budget: int) -> None:
    state = trained()
    derived = derive_magnitude(state, budget)
    assert 0.97 * budget < size(derived.plan).serving_bytes <= budget
    collection = CompressedEmbeddingBagCollection(derived.plan)
    assert derived.tables is not None
    place(collection, derived.tables)
    full = state.supernet.effective_tables()
    assert torch.equal(logical_table(collection, "b"), full["b"])
    left = {name: logical_table(collection, name) for name in SEARCHED}
    kept = torch.cat([left[n][left[n] != 0].abs() for n in SEARCHED])
    dropped = torch.cat([full[n][left[n] == 0].abs() for n in SEARCHED])
    assert float(kept.min()) >= float(dropped.max())
    assert derived.epochs == 0
    assert derived.dense == "trained"


def test_a_lottery_ticket_starts_from_the_first_values() -> None:
    state = trained(retrain="initial")
    derived = derive_magnitude(state, 2_000)
    assert derived.tables is not None
    assert (derived.dense, derived.epochs) == ("initial", None)
    for name in SEARCHED:
        kept = derived.tables[name] != 0
        assert torch.equal(derived.tables[name][kept], state.initial[name][kept])
        assert not torch.equal(derived.tables[name], state.initial[name])


def test_it_stands_beside_every_search() -> None:
    assert get_search("magnitude").baseline
    assert derive_magnitude(trained(retrain="finetune"), 2_000).epochs is None
    assert derive_magnitude(trained(ratio=0.9), None).notes["dropped"] == pytest.approx(
        0.9, abs=0.01
    )
