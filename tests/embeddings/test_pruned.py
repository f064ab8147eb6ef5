"""Pruned rows and columns: what is stored, what it costs, and what is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    Group,
    Plan,
    PrunedConfig,
    size,
)
from compactrec.embeddings.kept import Ids
from compactrec.embeddings.placing import logical_table, place
from compactrec.embeddings.pruned import pruned_assignment, pruned_bytes
from tests.reference.pruned import param_count


def plan_of(feature: Feature, config: PrunedConfig, arrays: dict[str, torch.Tensor]) -> Plan:
    return Plan((feature,), (Group((feature.name,), config),), arrays)


@st.composite
def assignments(draw: st.DrawFn) -> tuple[Feature, np.ndarray, list[list[int]], np.ndarray]:
    num_ids, dim = draw(st.integers(1, 300)), draw(st.sampled_from([1, 4, 6, 12]))
    num_blocks = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    keep = rng.random(num_ids) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    columns = [
        sorted(rng.choice(dim, rng.integers(0, dim + 1), replace=False).tolist())
        for _ in range(num_blocks)
    ]
    blocks = rng.integers(0, num_blocks, num_ids)
    if draw(st.booleans()):
        blocks.sort()
    return Feature(name="f", num_ids=num_ids, dim=dim), keep, columns, blocks


@settings(max_examples=60, deadline=None)
@given(assignments())
def test_placed_tables_come_out_masked_and_cost_what_they_say(given) -> None:  # type: ignore[no-untyped-def]
    feature, keep, columns, blocks = given
    config, arrays = pruned_assignment(feature, keep, columns, block_of=blocks)
    plan = plan_of(feature, config, arrays)
    collection = CompressedEmbeddingBagCollection(plan)
    table = torch.rand(feature.num_ids or 0, feature.dim) + 0.5
    place(collection, {"f": table})
    mask = torch.zeros(table.shape)
    for x in np.flatnonzero(keep):
        mask[x, columns[blocks[x]]] = 1
    torch.testing.assert_close(logical_table(collection, "f"), table * mask, rtol=0, atol=0)
    ids: Ids = "remap" if config.remap else "kept" if config.kept else "order"
    paper = pruned_bytes(
        feature.num_ids or 0, config.rows, [len(c) for c in config.columns], ids=ids
    )
    assert paper == size(plan).serving_bytes
    assert int(mask.sum()) == param_count(config.rows, config.columns)
    assert size(plan).table_bytes <= 4 * int(mask.sum()) + 12 * 4 * len(config.rows) * feature.dim


def test_a_bitmap_costs_five_quarters_of_a_bit_for_an_id() -> None:
    feature = Feature(name="f", num_ids=1_024_000, dim=16)
    keep = np.zeros(feature.num_ids or 0, dtype=np.bool_)
    keep[::10] = True
    config, arrays = pruned_assignment(feature, keep, [range(4)])
    report = size(plan_of(feature, config, arrays))
    assert config.kept is not None
    assert report.table_bytes == 4 * 4 * 102_400
    assert report.aux_bytes == pytest.approx(1.25 * 1_024_000 / 8, rel=1e-3)


def test_dropped_ids_count_in_a_mean_and_are_never_trained() -> None:
    feature = Feature(name="f", num_ids=10, dim=4, max_bag=3, pooling="mean")
    config, arrays = pruned_assignment(feature, np.arange(10) == 3, [range(4)])
    collection = CompressedEmbeddingBagCollection(plan_of(feature, config, arrays))
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    batch = KeyedJaggedTensor(["f"], torch.tensor([3, 7, 9]), lengths=torch.tensor([2, 1]))
    out = collection(batch)["f"]
    table = logical_table(collection, "f")
    torch.testing.assert_close(out, torch.stack([table[3] / 2, torch.zeros(4)]))
    out[1].sum().backward()
    assert all(
        float(p.grad.abs().sum()) == 0 for p in collection.parameters() if p.grad is not None
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": (3,), "columns": ()}, "every block needs rows and columns, got 1 rows and 0"),
        ({"rows": (0,), "columns": ((0,),)}, "rows must be at least 1"),
        ({"rows": (3,), "columns": ((1, 0),)}, "columns must be ascending and from 0 on"),
        (
            {"rows": (3,), "columns": ((0,),), "kept": "a", "remap": "b"},
            "give kept or remap, got both",
        ),
    ],
)
def test_configs_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunedConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("config", "array", "message"),
    [
        (PrunedConfig(rows=(11,), columns=((0,),)), None, "11 rows for feature 'f', which has 10"),
        (PrunedConfig(rows=(2,), columns=((4,),)), None, "columns (4,) of feature 'f'"),
        (
            PrunedConfig(rows=(2,), columns=((0,),), kept="a"),
            torch.tensor([1, 0], dtype=torch.uint8),
            "has 1 bits set, but the config says 2",
        ),
        (
            PrunedConfig(rows=(1,), columns=((0,),), kept="a"),
            torch.tensor([0, 128], dtype=torch.uint8),
            "has bits set past the 10",
        ),
        (
            PrunedConfig(rows=(1,), columns=((0,),), kept="a"),
            torch.tensor([1, 0]),
            "must be torch.uint8, got torch.int64",
        ),
        (
            PrunedConfig(rows=(1,), columns=((0,),), remap="a"),
            torch.tensor([0] * 10, dtype=torch.int32),
            "gives two ids the same row",
        ),
        (
            PrunedConfig(rows=(1,), columns=((0,),), remap="a"),
            torch.tensor([1] + [-1] * 9, dtype=torch.int32),
            "has rows -1 .. 1, allowed are -1 .. 0",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    config: PrunedConfig, array: torch.Tensor | None, message: str
) -> None:
    arrays = {} if array is None else {"a": array}
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_of(Feature(name="f", num_ids=10, dim=4), config, arrays).lower()
