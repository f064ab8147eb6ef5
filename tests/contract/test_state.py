"""State dicts, pickles, copies, and building on the meta device."""

import copy
import io
import pickle

import pytest
import torch

from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import CASES, METHODS
from tests.contract.golden import described, golden
from tests.contract.support import build, make_batch, reference_outputs, weights_of
from tests.methods.base import Case

ENGINES = ("eager", "fused")
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def fill(collection: CompressedEmbeddingBagCollection) -> None:
    """Put the same well-known values into every trained weight."""
    with torch.no_grad():
        for weight in collection.state_dict().values():
            if weight.is_floating_point():
                weight.copy_(torch.linspace(-1, 1, weight.numel()).view(weight.shape))


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.method)
def test_state_dict_keys_are_golden(row) -> None:  # type: ignore[no-untyped-def]
    expected = golden(row.method)
    assert list(expected) == [case.name for case in row.cases]
    for case in row.cases:
        assert list(described(case).items()) == list(expected[case.name].items())


@each_case
def test_engines_have_the_same_keys(case: Case) -> None:
    states = [
        CompressedEmbeddingBagCollection(case.plan, engine=engine).state_dict()  # type: ignore[arg-type]
        for engine in ENGINES
    ]
    shapes = [{k: (v.shape, v.dtype) for k, v in state.items()} for state in states]
    assert list(shapes[0].items()) == list(shapes[1].items())


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
@each_case
def test_state_round_trip(case: Case, source: str, target: str) -> None:
    first = build(case.plan, seed=1, engine=source)
    second = build(case.plan, seed=2, engine=target)
    batch = make_batch(case.plan, "multi").kjt()
    expected = first(batch).values()
    assert not torch.allclose(second(batch).values(), expected)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(second(batch).values(), expected, rtol=0, atol=1e-6)


@each_case
def test_rows_follow_the_saved_rewrite(case: Case) -> None:
    """Salts and remaps are in the state: a loaded collection reads the rows it was trained with."""
    first, second = build(case.plan, seed=1), build(case.plan, seed=1)
    batch = make_batch(case.plan, "multi", size=20).kjt()
    saved = {k: v for k, v in first.state_dict().items() if k.startswith("rewrite.")}
    if not saved:
        assert all(s.id_map.kind == "identity" for s in first.rewrite.ids.streams)
        return
    with torch.no_grad():
        for key, value in second.state_dict().items():
            if key in saved:
                value.zero_()
    second.load_state_dict(saved, strict=False)
    assert torch.equal(first.rewrite(batch).values(), second.rewrite(batch).values())


@each_engine
@each_case
def test_deepcopy_is_equal_and_independent(case: Case, engine: str) -> None:
    first = build(case.plan, engine=engine)
    batch = make_batch(case.plan, "multi").kjt()
    expected = first(batch).values().detach().clone()
    second = copy.deepcopy(first)
    torch.testing.assert_close(second(batch).values(), expected, rtol=0, atol=0)
    fill(second)
    torch.testing.assert_close(first(batch).values(), expected, rtol=0, atol=0)
    assert not torch.allclose(second(batch).values(), expected)


@each_engine
@each_case
def test_pickle_keeps_weights_and_optimizer_state(case: Case, engine: str) -> None:
    first = build(case.plan, engine=engine)
    batch = make_batch(case.plan, "multi").kjt()
    first(batch).values().square().sum().backward()
    second = pickle.loads(pickle.dumps(first))
    assert second.plan == first.plan
    for collection in (first, second):
        collection(batch).values().square().sum().backward()
    torch.testing.assert_close(second(batch).values(), first(batch).values(), rtol=0, atol=0)
    one, two = first.optimizer_state_dict(), second.optimizer_state_dict()
    assert one.keys() == two.keys()
    assert (len(one) > 0) == (engine == "fused")
    for key, value in one.items():
        assert torch.equal(two[key], value)


@each_case
def test_meta_build_allocates_no_weights(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, device="meta")
    assert all(p.is_meta for p in collection.parameters())
    real = CompressedEmbeddingBagCollection(case.plan)
    assert list(collection.state_dict()) == list(real.state_dict())


@each_case
def test_meta_then_load(case: Case) -> None:
    first = build(case.plan)
    second = CompressedEmbeddingBagCollection(case.plan, device="meta")
    second.to_empty(device="cpu")
    second.load_state_dict(first.state_dict())
    batch = make_batch(case.plan, "multi").kjt()
    torch.testing.assert_close(second(batch).values(), first(batch).values(), rtol=0, atol=0)


@each_case
def test_meta_then_reset(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, device="meta")
    collection.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in collection.parameters():
            parameter.fill_(torch.nan)
    collection.reset_parameters()
    batch = make_batch(case.plan, "multi")
    out = collection(batch.kjt())
    expected = reference_outputs(case.plan, weights_of(collection), batch)
    for key, value in expected.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(out[key].double(), value.detach(), rtol=1e-6, atol=1e-6)


@each_case
def test_fused_cannot_be_built_on_meta(case: Case) -> None:
    with pytest.raises(
        ValueError, match="fused engine cannot be built on meta; use engine='eager'"
    ):
        CompressedEmbeddingBagCollection(case.plan, engine="fused", device="meta")


@each_case
def test_fused_refuses_to_change_type(case: Case) -> None:
    fused = CompressedEmbeddingBagCollection(case.plan, engine="fused")
    with pytest.raises(
        ValueError, match=r"lives on cpu in float32 and cannot be moved to .*float64"
    ):
        fused.double()
    assert fused.to("cpu") is fused
