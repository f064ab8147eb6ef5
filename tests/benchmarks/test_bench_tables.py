"""The contenders of the table benchmarks take the same step, and its parts add up to it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compactrec.benchmarks import bench_table_parts, bench_tables
from compactrec.benchmarks.bench_tables import PHYSICAL, Step, collection_of, described
from compactrec.benchmarks.table_bounds import Rates, bytes_of_parts, milliseconds
from compactrec.benchmarks.table_inputs import EmbeddingBags, features, make_kjts, zipf_batches
from compactrec.embeddings import Feature, full_plan, method_names, size

FEATURES = tuple(
    Feature(name=name, num_ids=num_ids, dim=dim)
    for name, num_ids, dim in (("a", 60, 8), ("b", 7, 4), ("c", 900, 16))
)
BATCH = 33
BATCHES = zipf_batches(FEATURES, BATCH, 3)
WIDTH = sum(f.dim for f in FEATURES)


def _gradient() -> Tensor:
    return torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))


def _weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(f.num_ids or 1, f.dim, generator=generator) for f in FEATURES]


def _moved(step: Step, held: list[Tensor]) -> list[Tensor]:
    """Weights after one step from those of :func:`_weights`."""
    with torch.no_grad():
        for weight, start in zip(held, _weights(), strict=True):
            weight.copy_(start)
    step(BATCHES[0], make_kjts(FEATURES, BATCHES)[0], _gradient())
    return [weight.detach().clone() for weight in held]


def _literal() -> list[Tensor]:
    found, column = _weights(), 0
    for weight, ids, feature in zip(found, BATCHES[0], FEATURES, strict=True):
        of_feature = _gradient()[:, column : column + feature.dim]
        for example, i in enumerate(ids.tolist()):
            weight[i] -= bench_tables.LEARNING_RATE * of_feature[example]
        column += feature.dim
    return found


def _contenders() -> dict[str, tuple[Step, list[Tensor]]]:
    bags = EmbeddingBags(FEATURES)
    operator = bench_tables.fbgemm_operator(FEATURES)
    fused = bench_tables.torchrec_collection(FEATURES)
    ours = collection_of(FEATURES, "full", "auto")
    return {
        "embedding_bag": (bench_tables.embedding_bags(bags), list(bags.parameters())),
        "fbgemm": (bench_tables.fbgemm(operator), operator.split_embedding_weights()),
        "torchrec_fused": (bench_tables.torchrec_fused(fused), list(fused.state_dict().values())),
        "full": (bench_tables.whole(ours), list(ours.state_dict().values())),
    }


@pytest.mark.parametrize("name", ["embedding_bag", "fbgemm", "torchrec_fused", "full"])
def test_contenders_take_the_step_of_sgd(name: str) -> None:
    step, held = _contenders()[name]
    expected = _literal()
    assert any(not torch.equal(e, w) for e, w in zip(expected, _weights(), strict=True))
    for found, wanted in zip(_moved(step, held), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_unified_is_there_with_one_chunk_and_with_two() -> None:
    named = bench_tables.contenders(FEATURES[0].dim)
    assert set(named) - set(method_names()) == {"unified_two_chunks"}
    for name, chunks in (("unified", 1), ("unified_two_chunks", 2)):
        made = collection_of(FEATURES, *named[name][:1], "auto", named[name][1])
        assert len(made.rewrite.ids.part_keys) == chunks * len(FEATURES)


@pytest.mark.parametrize("name", bench_tables.contenders(FEATURES[0].dim))
def test_the_parts_of_a_step_are_the_step(name: str) -> None:
    kjt = make_kjts(FEATURES, BATCHES)[0]
    torch.manual_seed(0)
    method, options = bench_tables.contenders(FEATURES[0].dim)[name]
    whole = collection_of(FEATURES, method, "auto", options)
    parts = collection_of(FEATURES, method, "auto", options)
    parts.load_state_dict(whole.state_dict())
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    times: bench_table_parts.Times = {}
    bench_tables.whole(whole)(BATCHES[0], kjt, _gradient())
    bench_table_parts.step(parts, kjt, _gradient(), times)
    assert list(times) == ["rewrite", "lookup", "combine", "combine_backward", "update"]
    found = parts.state_dict()
    moved = 0
    for key, tensor in whole.state_dict().items():
        if key.startswith("tables."):
            torch.testing.assert_close(found[key], tensor)
            moved += not torch.equal(tensor, start[key])
    assert moved > 0


def test_bytes_of_parts_by_hand() -> None:
    """Full tables by the ids; ``compositional`` has a second table, and products between."""
    kjts = make_kjts(FEATURES, BATCHES)
    touched = sum(
        f.dim * ids.unique().numel()
        for batch in BATCHES
        for f, ids in zip(FEATURES, batch, strict=True)
    ) / len(BATCHES)
    vectors = BATCH * WIDTH
    full = bytes_of_parts(collection_of(FEATURES, "full", "auto"), kjts)
    lookup, update = 4 * (touched + vectors), 4 * (vectors + 2 * touched)
    assert full == {"lookup": lookup, "combine": 0, "combine_backward": 0, "update": update}
    product = collection_of(FEATURES, "compositional", "auto")
    tables: Any = product.tables
    looked_up = BATCH * sum(tables.part_dims)
    assert looked_up > vectors
    found = bytes_of_parts(product, kjts)
    assert found["combine"] == found["combine_backward"] == 4 * (looked_up + vectors)
    assert found["update"] - found["lookup"] == 4 * (found["lookup"] / 4 - looked_up)
    assert milliseconds({"lookup": 6e6, "combine": 8e6}, {"gather": 2e9, "copy": 4e9}) == {
        "lookup": 3.0, "combine": 2.0,
    }  # fmt: skip


def test_rates_are_of_both_ways() -> None:
    rates = Rates(100, 4, 50)
    rates.measure()
    rates.measure()
    found = rates.bytes_per_second()
    assert set(found) == {"gather", "copy"}
    assert all(1e5 < rate < 1e12 for rate in found.values())


def test_physical_tables_are_those_rows_alone() -> None:
    """Of full tables: the rows of the batch move, and no other ones."""
    collection = collection_of(FEATURES, "full", "auto")
    held = list(collection.state_dict().values())
    kjts = make_kjts(FEATURES, BATCHES)
    step = bench_tables.physical(collection, kjts)
    before = [weight.clone() for weight in held]
    step(BATCHES[1], kjts[1], _gradient())
    for ids, weight, start in zip(BATCHES[1], held, before, strict=True):
        changed = (weight != start).any(dim=1).nonzero().squeeze(1)
        assert changed.tolist() == ids.unique().tolist()


def test_every_contender_has_a_row() -> None:
    rows = bench_tables.measure(FEATURES, BATCH, 1, "auto")
    peers = {"embedding_bag", "torchrec_fused", "fbgemm"}
    assert set(rows) == {*peers, *bench_tables.contenders(FEATURES[0].dim)}
    for name, row in rows.items():
        assert ("ratio_to_physical" in row) == (name not in peers)
    full = rows["full"]["table_bytes"]
    assert full == size(full_plan(FEATURES)).serving_bytes
    assert all(rows[n]["table_bytes"] <= full / 4 for n in {*rows} - peers - {"full"})
    assert all(rows[n]["table_bytes"] == full for n in peers)


def test_ratios_by_hand() -> None:
    medians = {"fbgemm": 4.0, "full": 2.0, "full" + PHYSICAL: 1.6, "m": 3.0, "m" + PHYSICAL: 2.4}
    rows = described(medians, {"fbgemm": 100, "full": 100, "m": 25})
    assert rows["fbgemm"] == {
        "milliseconds": 4.0, "ratio_to_fbgemm": 1.0, "ratio_to_full": 2.0, "table_bytes": 100,
    }  # fmt: skip
    assert rows["m"] == {
        "milliseconds": 3.0, "ratio_to_fbgemm": 0.75, "ratio_to_full": 1.5, "table_bytes": 25,
        "ratio_to_physical": 1.25, "physical_ratio_to_full": 1.5,
    }  # fmt: skip


def test_ids_are_those_of_criteo_and_low_ones_are_frequent() -> None:
    of = features(4, 1000)
    assert len(of) == 26
    assert max(f.num_ids or 0 for f in of) == 1000
    (ids,) = zipf_batches(of, 500, 1)
    for row, feature in zip(ids, of, strict=True):
        assert int(row.min()) >= 0
        assert int(row.max()) < (feature.num_ids or 1)
    largest = ids[[f.num_ids == 1000 for f in of]]
    below = float((largest < 31).float().mean())  # log 32 / log 1001 of them
    assert 0.4 < below < 0.6
