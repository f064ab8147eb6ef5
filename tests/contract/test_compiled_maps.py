"""Compiled maps give the rows of torch's own operations, for every method."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compactrec.embeddings.bitmap import bitmap_index, pack_bits
from compactrec.embeddings.compiled_maps import ids_in_range
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.hashing import name_salt
from compactrec.embeddings.program import Bags, MapProgram
from compactrec.embeddings.rewrite import Rewrite
from compactrec.embeddings.rewrites import (
    Blocks,
    Clip,
    Digit,
    Identity,
    IdMap,
    Keep,
    LookUp,
    Rank,
    Remap,
    SaltedHash,
    Stream,
)
from tests.cases import CASES
from tests.contract.support import build, make_batch
from tests.methods.base import Case

numba_maps = pytest.importorskip(
    "compactrec.embeddings.numba_maps", reason="without Numba there is one way only"
)
TOP = 2**63 - 1


def both_ways(rewrite: Rewrite, bags: Bags) -> tuple[Bags, Bags]:
    """By compiled loops, and by torch."""
    programs = [m for m in rewrite.modules() if isinstance(m, MapProgram)]
    assert all(p.compiled for p in programs)
    found = rewrite(bags)
    for program in programs:
        program.compiled = False
    expected = rewrite(bags)
    for program in programs:
        program.compiled = True
    return found, expected


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("bags", "size"), [("multi", 150), ("single", 70), ("empty", 3)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rows_of_every_method(case: Case, bags: str, size: int) -> None:
    rewrite = build(case.plan).rewrite.ids
    batch = make_batch(case.plan, bags, weighted=True, size=size).kjt()  # type: ignore[arg-type]  # a name
    for weights in (None, batch.weights()):
        found, expected = both_ways(rewrite, Bags(batch.values(), batch.lengths(), weights))
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.lengths, expected.lengths)
        assert found.lengths.dtype == expected.lengths.dtype
        if found.weights is not None and expected.weights is not None:
            assert torch.equal(found.weights, expected.weights)
        else:
            assert weights is None


def test_weights_keep_their_gradient() -> None:
    plan = next(c for c in CASES if str(c).startswith("mixed")).plan
    rewrite = build(plan).rewrite.ids
    batch = make_batch(plan, "multi", weighted=True, size=20).kjt()
    weights = batch.weights().clone().requires_grad_()
    found = rewrite(Bags(batch.values(), batch.lengths(), weights)).weights
    assert found is not None
    (gradient,) = torch.autograd.grad(found.sum(), [weights])
    assert bool((gradient > 0).all())


def test_unchecked_ids_leave_the_parts() -> None:
    """Rows that no block has go nowhere, or to a row that the tables refuse."""
    split = Blocks((5, 40), (3, 1), 100)
    streams = [Stream("f", ("f__a", "f__b", "f__c", "f__d"), ("t",) * 4, split=split)]
    rewrite = Rewrite([Feature(name="f", dim=4)], streams, check_ids=False)
    ids = torch.tensor([-1, -(2**62), 4, 5, 8, 39, 40, 99, 10**9])
    found = rewrite(Bags(ids, torch.ones(9, dtype=torch.int64), None))
    assert found.values.tolist() == [0, 1, 11, 0, 59, 10**9 - 40]
    assert found.lengths.view(4, 9).sum(1).tolist() == [2, 1, 0, 3]


def rewrite_of(*maps: IdMap) -> Rewrite:
    """A feature for each map, and one that two maps read."""
    names = [f"f{i}" for i in range(len(maps))]
    streams = [Stream(n, (f"{n}__a",), (f"t_{n}",), m) for n, m in zip(names, maps, strict=True)]
    streams.append(Stream("f0", ("f0__b",), ("t_b",), maps[-1], slot=1))
    return Rewrite([Feature(name=n, dim=4) for n in names], streams, check_ids=False)


def bags_of(ids: list[Tensor]) -> Bags:
    lengths = torch.ones(len(ids) * len(ids[0]), dtype=torch.int64)
    return Bags(torch.cat(ids), lengths, None)


numbers = st.one_of(
    st.integers(1, 100), st.integers(2**31 - 3, 2**31 + 3), st.integers(1, TOP),
    st.integers(0, 62).map(lambda k: 2**k), st.integers(TOP - 3, TOP),
)  # fmt: skip


@given(numbers, numbers, numbers, st.lists(st.integers(0, TOP), min_size=1, max_size=40))
def test_division_is_exact_for_all_ids(a: int, b: int, c: int, ids: list[int]) -> None:
    near = [x for d in (a, b, c) for k in (1, 2, 3) for x in (k * d - 1, k * d) if x <= TOP]
    x = torch.tensor([*ids, *near, 0, TOP])
    rewrite = rewrite_of(Digit(a, b), SaltedHash(name_salt("s"), c), Digit(1, c), Keep(a), Clip(a))
    found, expected = both_ways(rewrite, bags_of([x] * 5))
    assert torch.equal(found.values, expected.values)


@pytest.mark.usefixtures("threads")
def test_arrays_side_by_side() -> None:
    """Two maps of a kind share a buffer; ids differ, and so do the sizes of the arrays."""
    generator = torch.Generator().manual_seed(0)
    sizes = [700, 1300, 650, 129, 5000, 257]
    masks = [np.random.default_rng(n).random(n) < 0.4 for n in sizes]
    remaps = [
        Remap(torch.randint(-1, 50, (n,), generator=generator, dtype=torch.int32), 7 * n)
        for n in sizes[2:4]
    ]
    ranks = [
        Rank(bitmap_index(pack_bits(mask), n), n, 3 * n)
        for mask, n in zip(masks[4:], sizes[4:], strict=True)
    ]
    rewrite = rewrite_of(
        LookUp(torch.randperm(sizes[0], generator=generator)), remaps[0], ranks[0],
        LookUp(torch.randperm(sizes[1], generator=generator)), remaps[1], ranks[1],
    )  # fmt: skip
    limits = [sizes[0], sizes[2], sizes[4], sizes[1], sizes[3], sizes[5]]
    limits[0] = min(limits[0], limits[-1])  # the last map reads this feature too
    ids = [torch.randint(0, n, (2000,), generator=generator) for n in limits]
    found, expected = both_ways(rewrite, bags_of(ids))
    assert torch.equal(found.values, expected.values)
    kept = torch.from_numpy(masks[4])
    ranked = torch.where(kept[ids[2]], (kept.cumsum(0) - 1)[ids[2]], 3 * sizes[4])
    place = rewrite.part_keys.index("f2__a")
    assert torch.equal(found.values.view(-1, 2000)[place], ranked)


def test_what_an_array_lacks_is_an_error() -> None:
    rewrite = rewrite_of(LookUp(torch.arange(10)), Identity())
    for wrong in (10, -1, 2**40):
        with pytest.raises(IndexError, match=f"id {wrong} is not in the array"):
            rewrite(bags_of([torch.tensor([3, wrong]), torch.tensor([1, 1])]))


def test_a_state_dict_of_other_salts_changes_the_rows() -> None:
    one, other = (rewrite_of(SaltedHash(name_salt(n), 1000), Identity()) for n in "ab")
    bags = bags_of([torch.arange(50), torch.arange(50)])
    before, wanted = one(bags).values, other(bags).values
    assert not torch.equal(before, wanted)
    twin = copy.deepcopy(one)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(bags).values, wanted)
    assert torch.equal(twin(bags).values, before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bound", [0, 41, 2**40, TOP])
def test_ids_out_of_range_are_seen(bound: int) -> None:
    bounds = torch.tensor([TOP, bound, 5])
    counts = [2000, 3000, 0]
    good = torch.zeros(5000, dtype=torch.int64)
    good[4000] = bound
    assert ids_in_range(good, counts, bounds)
    for wrong in (-1, -(2**63), *([bound + 1, TOP] if bound < TOP else [])):
        for place in (2000, 4999):
            bad = good.clone()
            bad[place] = wrong
            assert not ids_in_range(bad, counts, bounds)
