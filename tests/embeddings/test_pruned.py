"""Pruned rows and columns: which layout is taken, what it costs, what it keeps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings import Feature, Group, Plan, PrunedConfig, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.pruned import pruned_assignment, pruned_bytes
from compactrec.embeddings.registry import lower

FEATURE = Feature(name="a", num_ids=11, dim=6)


def plan_of(feature: Feature, config: PrunedConfig, arrays: dict[str, Tensor]) -> Plan:
    return Plan((feature,), (Group((feature.name,), config),), arrays)


@given(st.data())
def test_assignment_keeps_what_it_is_told_at_the_bytes_it_says(data: st.DataObject) -> None:
    num_ids, dim = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    feature = Feature(name="a", num_ids=num_ids, dim=dim)
    num_blocks = data.draw(st.integers(1, 4))
    columns = [data.draw(st.sets(st.integers(0, dim - 1))) for _ in range(num_blocks)]
    keep = rng.random(num_ids) < data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    if data.draw(st.booleans()):
        keep = np.sort(keep)[::-1].copy()
    block_of = rng.integers(0, num_blocks, num_ids)
    if data.draw(st.booleans()):
        block_of = np.sort(block_of)
    config, arrays = pruned_assignment(feature, keep, [*map(list, columns)], block_of=block_of)
    plan = plan_of(feature, config, arrays)
    ids = "remap" if config.remap else "kept" if config.kept else "order"
    assert size(plan).serving_bytes == pruned_bytes(
        num_ids, config.rows, [len(c) for c in config.columns], ids=ids
    )
    collection = CompressedEmbeddingBagCollection(plan)
    table = torch.rand(num_ids, dim) + 1
    place(collection, {"a": table})
    mask = np.array(
        [[keep[x] and c in columns[block_of[x]] for c in range(dim)] for x in range(num_ids)]
    )
    assert torch.equal(logical_table(collection, "a"), table * torch.from_numpy(mask))


def test_the_cheapest_layout_is_taken() -> None:
    first, some = np.arange(11) < 4, np.arange(11) % 3 == 0
    order, arrays = pruned_assignment(FEATURE, first, [[2, 0]])
    assert (order, arrays) == (PrunedConfig(rows=(4,), columns=((0, 2),)), {})
    assert pruned_assignment(FEATURE, None, [range(6)])[0].rows == (11,)
    kept, arrays = pruned_assignment(FEATURE, torch.from_numpy(some), [[2]])
    assert kept == PrunedConfig(rows=(4,), columns=((2,),), kept="a__kept")
    assert arrays["a__kept"].dtype == torch.uint8
    assert arrays["a__kept"].tolist() == [0b01001001, 0b10]
    falling = np.array([1, 0] * 5 + [1])
    remap, arrays = pruned_assignment(FEATURE, some, [[2], [0, 1]], block_of=falling)
    assert remap == PrunedConfig(rows=(2, 2), columns=((2,), (0, 1)), remap="a__rows")
    assert arrays["a__rows"].dtype == torch.int32
    assert arrays["a__rows"].tolist() == [2, -1, -1, 0, -1, -1, 3, -1, -1, 1, -1]


def test_nothing_kept_costs_nothing_but_the_bound_of_its_ids() -> None:
    for columns, keep in (([range(6)], np.zeros(11, dtype=bool)), ([[]], None)):
        config, arrays = pruned_assignment(FEATURE, keep, columns)
        assert (config, arrays) == (PrunedConfig(), {})
        assert size(plan_of(FEATURE, config, arrays)).serving_bytes == 8 == pruned_bytes(11, [], [])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rows": (3,)}, "every block needs rows and columns, got 1 rows and 0 lists"),
        ({"rows": (0,), "columns": ((1,),)}, "rows must be at least 1.*leave empty blocks out"),
        ({"rows": (3,), "columns": ((2, 1),)}, r"columns must be ascending.*got \(2, 1\)"),
        ({"rows": (3,), "columns": ((1, 1),)}, r"columns must be ascending.*got \(1, 1\)"),
        ({"kept": "k", "remap": "r"}, "give kept or remap, got both: 'k' and 'r'"),
    ],
)
def test_config_refuses(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunedConfig(**config)  # type: ignore[arg-type]


def test_lowering_refuses_what_does_not_fit() -> None:
    def lowered(array: Tensor | None = None, **fields: object) -> None:
        config = PrunedConfig(**({"rows": (3,), "columns": ((1,),)} | fields))  # type: ignore[arg-type]
        lower(config, (FEATURE,), {} if array is None else {"m": array})

    with pytest.raises(ValueError, match=r"pruned: columns \(6,\) of feature 'a'.* 0 .. 5"):
        lowered(columns=((6,),))
    with pytest.raises(ValueError, match="12 rows for feature 'a', which has 11 ids"):
        lowered(rows=(12,))
    with pytest.raises(ValueError, match=r"no array 'm' of 2 entries.*no such array"):
        lowered(kept="m")
    with pytest.raises(ValueError, match="'m' of feature 'a' has 2 bits set, but the config says"):
        lowered(torch.tensor([3, 0], dtype=torch.uint8), kept="m")
    with pytest.raises(ValueError, match="bits set past the 11 that it is for"):
        lowered(torch.tensor([3, 8], dtype=torch.uint8), kept="m")
    with pytest.raises(ValueError, match=r"must be torch.uint8, got torch.int64"):
        lowered(torch.tensor([7, 0]), kept="m")
    rows = [0, 1, 2] + [-1] * 8
    with pytest.raises(ValueError, match=r"must be torch.int32, got torch.int64"):
        lowered(torch.tensor(rows), remap="m")
    with pytest.raises(ValueError, match=r"rows -1 .. 3, allowed are -1 .. 2"):
        lowered(torch.tensor([3, *rows[1:]], dtype=torch.int32), remap="m")
    with pytest.raises(ValueError, match="gives two ids the same row"):
        lowered(torch.tensor([1, *rows[1:]], dtype=torch.int32), remap="m")
    lowered(torch.tensor(rows, dtype=torch.int32), remap="m")


def test_assignment_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"bool array of shape \(11,\), got bool of shape \(3,\)"):
        pruned_assignment(FEATURE, np.ones(3, dtype=bool), [[1]])
    with pytest.raises(ValueError, match="must name one of 2 blocks for each of 11 ids; got none"):
        pruned_assignment(FEATURE, None, [[1], [2]])
    with pytest.raises(ValueError, match="open vocabulary, and what is kept"):
        pruned_assignment(Feature(name="o", num_ids=None, dim=4), None, [[1]])


def test_a_dropped_id_counts_in_a_mean_and_learns_nothing() -> None:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    feature = Feature(name="a", num_ids=11, dim=6, max_bag=3, pooling="mean")
    config, arrays = pruned_assignment(feature, np.arange(11) % 3 == 0, [[0, 4]])
    collection = CompressedEmbeddingBagCollection(plan_of(feature, config, arrays))
    place(collection, {"a": torch.ones(11, 6)})
    bags = KeyedJaggedTensor(
        keys=["a"], values=torch.tensor([3, 1, 2, 5]), lengths=torch.tensor([3, 1])
    )
    out = collection(bags)["a"]
    third = 1 / 3
    assert torch.allclose(out, torch.tensor([[third, 0, 0, 0, third, 0], [0.0] * 6]))
    out.sum().backward()
    (weight,) = collection.parameters()
    assert weight.grad is not None
    assert int((weight.grad != 0).sum()) == 2
