"""What every lowering must keep: the invariants of embeddings/contract.py, one test each."""

import functools
import random
import re

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, Group, Plan
from compactrec.embeddings.rewrites import Blocks, Entries, Positions, Stream
from tests.cases import CASES
from tests.contract.support import Batch, build, make_batch, reference_outputs, weights_of
from tests.methods.base import Case

each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_tables_are_a_plain_collection(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    assert type(collection.tables) is EmbeddingBagCollection
    assert dict(collection.named_children())["tables"] is collection.tables


@each_case
def test_rewrite_holds_integer_buffers_only(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    assert list(collection.rewrite.parameters()) == []
    for buffer in collection.rewrite.buffers():
        assert buffer.dtype in (torch.int64, torch.int32)


@each_case
def test_rewrite_depends_on_the_plan_alone(case: Case) -> None:
    first, second = build(case.plan, seed=1), build(case.plan, seed=2)
    batch = make_batch(case.plan, "multi", size=20).kjt()
    one, two = first.rewrite(batch), second.rewrite(batch)
    assert one.keys() == two.keys()
    assert torch.equal(one.values(), two.values())
    assert torch.equal(one.lengths(), two.lengths())


@each_case
def test_rows_are_in_range(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    physical = collection.rewrite(make_batch(case.plan, "multi", size=40).kjt()).to_dict()
    assert physical.keys() == set(collection.rewrite.ids.part_keys)
    for config in collection.tables.embedding_bag_configs():
        for part in config.feature_names:
            rows = physical[part].values()
            assert ((rows >= 0) & (rows < config.num_embeddings)).all()


@each_case
def test_names(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    features = {feature.name for feature in case.plan.features}
    parts = collection.rewrite.ids.part_keys
    assert len(set(parts)) == len(parts)
    for part in parts:
        assert part.split("__", 1)[0] in features
        assert re.fullmatch(r"[^.@]+__[^.@]+", part)
    for config in collection.tables.embedding_bag_configs():
        assert re.fullmatch(r"t_[^.@]+", config.name)
        assert config.embedding_dim % 4 == 0


@pytest.mark.parametrize("bags", ["single", "multi"])
@each_case
def test_rewrite_keeps_lengths_and_weights(case: Case, bags: str) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, is_weighted=True)
    batch = make_batch(case.plan, bags, weighted=True)  # type: ignore[arg-type]
    assert batch.weights is not None
    logical = batch.kjt()
    physical = collection.rewrite(logical).to_dict()
    for stream in collection.rewrite.ids.streams:
        times = _times(collection, stream, batch)
        expected = [sum(times[i] for i in bag) for bag in batch.bags[stream.feature]]
        lengths = torch.stack([physical[part].lengths() for part in stream.parts])
        assert lengths.sum(0).tolist() == expected
        if isinstance(stream.split, Positions):
            assert int(lengths.max()) <= 1
        totals = torch.zeros(batch.size)
        for part in stream.parts:
            jagged = physical[part]
            bag_of = torch.repeat_interleave(torch.arange(batch.size), jagged.lengths())
            totals.index_add_(0, bag_of, jagged.weights())
        weights = zip(batch.weights[stream.feature], batch.bags[stream.feature], strict=True)
        kept = [
            sum(times[i] * (w if stream.weighted else 1.0) for w, i in zip(*bag, strict=True))
            for bag in weights
        ]
        torch.testing.assert_close(totals, torch.tensor(kept), rtol=1e-6, atol=1e-5)


def _times(
    collection: CompressedEmbeddingBagCollection, stream: Stream, batch: Batch
) -> dict[int, int]:
    """To how many parts of a stream each id of a batch goes: one, where nothing is left out."""
    split = stream.split
    ids = sorted({i for bag in batch.bags[stream.feature] for i in bag})
    if not isinstance(split, Entries) and not (isinstance(split, Blocks) and 0 in split.lanes):
        return dict.fromkeys(ids, 1)
    alone = {key: [[] for _ in ids] for key in batch.bags} | {stream.feature: [[i] for i in ids]}
    ones = {key: [[1.0] * len(bag) for bag in bags] for key, bags in alone.items()}
    physical = collection.rewrite(Batch(alone, ones).kjt()).to_dict()
    lengths = torch.stack([physical[part].lengths() for part in stream.parts])
    assert bool((lengths <= 1).all())
    times = lengths.sum(0).tolist()
    assert isinstance(split, Entries) or set(times) <= {0, 1}
    return dict(zip(ids, times, strict=True))


@each_case
def test_combine_addresses_parts_by_key(case: Case) -> None:
    collection = build(case.plan)
    batch = make_batch(case.plan, "multi").kjt()
    rows = collection.tables(collection.rewrite(batch))
    expected = collection.combine(rows.values(), rows.keys(), rows.length_per_key())
    keys = list(rows.keys())
    random.Random(3).shuffle(keys)
    columns = rows.to_dict()
    values = torch.cat([columns[key] for key in keys], dim=1)
    got = collection.combine(values, keys, [columns[key].shape[1] for key in keys])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@each_case
def test_output_keys_are_the_features_as_declared(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    configs = collection.embedding_bag_configs()
    owners = [name.split("__")[0] for config in configs for name in config.feature_names]
    assert list(dict.fromkeys(owners)) == [feature.name for feature in case.plan.features]
    out = collection(make_batch(case.plan, "single").kjt())
    assert out.keys() == [config.feature_names[0] for config in configs]
    assert out.length_per_key() == [config.embedding_dim for config in configs]
    dims = {feature.name: feature.dim for feature in case.plan.features}
    assert [dims[owner] for owner in owners] == out.length_per_key()


@each_case
def test_every_weight_is_in_a_table_or_a_combine(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    for name, _ in collection.named_parameters():
        assert re.match(r"tables\.embedding_bags\.t_|combine\.combines\.", name), name


@each_case
def test_table_initialisers_are_partials(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    for config in collection.tables.embedding_bag_configs():
        assert isinstance(config.init_fn, functools.partial)


def _limited(case: Case) -> list[Feature]:
    """Features whose combine is not linear: their bags must not be longer than they say."""
    outputs = [o for part in case.plan.lower() for o in part.outputs if not o.combine.linear]
    names = {output.feature for output in outputs}
    return [feature for feature in case.plan.features if feature.name in names]


LIMITED = [(case, features) for case in CASES if (features := _limited(case))]


@pytest.mark.parametrize(("case", "features"), LIMITED, ids=str)
def test_bags_that_are_too_long_are_refused(case: Case, features: list[Feature]) -> None:
    collection = build(case.plan)
    for feature in features:
        batch = make_batch(case.plan, "single", size=3)
        batch.bags[feature.name][1] = [0] * (feature.max_bag + 1)
        with pytest.raises(
            ValueError,
            match=f"'{feature.name}' has a bag of {feature.max_bag + 1} ids but its max_bag is "
            f"{feature.max_bag}; raise max_bag",
        ):
            collection(batch.kjt())


@pytest.mark.parametrize("engine", ["eager", "fused"])
@each_case
def test_ids_out_of_range_are_refused(case: Case, engine: str) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan, engine=engine)  # type: ignore[arg-type]  # a name
    for feature in case.plan.features:
        top = 2**63 - 1 if feature.num_ids is None else feature.num_ids - 1
        bad = [-1] if feature.num_ids is None else [-1, feature.num_ids, 2**63 - 1]
        for place in bad:
            batch = make_batch(case.plan, "single", size=3)
            batch.bags[feature.name][2] = [place]
            allowed = r"0 \.\. 2\^63 - 1" if feature.num_ids is None else rf"0 \.\. {top}"
            with pytest.raises(
                ValueError,
                match=f"id {place} of feature '{feature.name}' is out of range: allowed are "
                f"{allowed}; map unseen ids",
            ):
                collection(batch.kjt())


@each_case
def test_bad_batches_are_refused(case: Case) -> None:
    collection = CompressedEmbeddingBagCollection(case.plan)
    batch = make_batch(case.plan, "single")
    first, *rest = batch.bags
    with pytest.raises(ValueError, match=rf"lacks the features \['{first}'\]; it has"):
        collection(batch.kjt(rest))
    good = batch.kjt()
    real = KeyedJaggedTensor(good.keys(), good.values().float(), lengths=good.lengths())
    with pytest.raises(ValueError, match=r"ids must be int64 or int32, got torch\.float32"):
        collection(real)
    weighted = make_batch(case.plan, "single", weighted=True).kjt()
    plain = KeyedJaggedTensor(
        keys=weighted.keys(), values=weighted.values(), lengths=weighted.lengths()
    )  # without is_weighted the weights are not read, as in torchrec
    assert torch.equal(collection(weighted).values(), collection(plain).values())
    expects = CompressedEmbeddingBagCollection(case.plan, is_weighted=True)
    with pytest.raises(ValueError, match="has no weights but the collection was built with"):
        expects(good)


# Names that torch's containers use themselves.
AWKWARD = ("type", "keys", "values", "forward", "float", "t", "a-b c", "0")
NAMES = (*AWKWARD, *(f"feature {i}" for i in range(80)))


@each_case
def test_any_allowed_feature_name_works(case: Case) -> None:
    names = dict(zip((f.name for f in case.plan.features), NAMES, strict=False))
    features = tuple(
        Feature(**(f.model_dump() | {"name": names[f.name]})) for f in case.plan.features
    )
    groups = tuple(
        Group(tuple(names[n] for n in group.features), group.config) for group in case.plan.groups
    )
    plan = Plan(features, groups, case.plan.arrays)
    collection = build(plan)
    batch = make_batch(plan, "multi")
    out = collection(batch.kjt())
    expected = reference_outputs(plan, weights_of(collection), batch)
    for key, value in expected.items():
        torch.testing.assert_close(out[key].double(), value.detach(), rtol=1e-6, atol=1e-6)


@each_case
def test_feature_order_moves_no_row(case: Case) -> None:
    """Permuting the features of the plan leaves every feature's rows where they were."""
    plan = case.plan
    order = list(plan.features)
    random.Random(1).shuffle(order)
    shuffled = Plan(tuple(order), plan.groups, plan.arrays)
    first, second = build(plan), build(shuffled)
    second.load_state_dict(
        {k: v for k, v in first.state_dict().items() if not k.startswith("rewrite.")},
        strict=False,
    )
    batch = make_batch(plan, "multi")
    one, two = first(batch.kjt()), second(batch.kjt())
    for key in one.keys():  # noqa: SIM118
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-6)
