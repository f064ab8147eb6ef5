"""What holds for every model: bags, gradients, learning, state, tracing, export."""

import functools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.benchmarks.config import TrainConfig
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FusedOptimizer,
    Plan,
    full_plan,
    make_plan,
    method_names,
    size,
)
from compactrec.models import get_model, model_names, register_model
from compactrec.models.inputs import LinearTerm, with_linear_features
from tests.cases import mixture
from tests.methods.base import Case
from tests.models.support import EVERY, SIZES, batch, build, features, parsed, tables

EACH = pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: str(v).replace(" ", ""))


@EACH
@pytest.mark.parametrize("num_dense", [0, 3])
def test_a_batch_gives_what_its_rows_give(
    name: str, options: dict[str, Any], num_dense: int
) -> None:
    model = build(name, num_dense, **options).eval()
    dense, kjt, bags = batch(5, num_dense)
    logits = model(dense, kjt)
    assert logits.shape == (5,)
    assert bool(logits.detach().std() > 1e-3)
    for row in range(5):
        lists = [feature[row] for feature in bags]
        one = KeyedJaggedTensor(
            keys=list(SIZES),
            values=torch.tensor([i for ids in lists for i in ids], dtype=torch.int64),
            lengths=torch.tensor([len(ids) for ids in lists]),
        )
        alone = model(dense[row : row + 1], one)
        torch.testing.assert_close(alone, logits[row : row + 1], atol=1e-5, rtol=1e-5)


@EACH
@pytest.mark.parametrize("num_dense", [0, 2])
def test_gradients_reach_every_parameter(
    name: str, options: dict[str, Any], num_dense: int
) -> None:
    model = build(name, num_dense, seed=2, **options)
    dense, kjt, _ = batch(64, num_dense)
    (model(dense, kjt) * torch.linspace(-1, 2, 64)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.any()), key


@EACH
def test_only_rows_that_were_looked_up_get_gradients(name: str, options: dict[str, Any]) -> None:
    model = build(name, 0, **options)
    kjt = KeyedJaggedTensor(
        keys=list(SIZES), values=torch.tensor([1, 1, 2, 2, 3, 3, 4]),
        lengths=torch.tensor([1, 1, 1, 1, 1, 1, 1, 0]),
    )  # fmt: skip
    model(torch.empty(2, 0), kjt).sum().backward()
    for key, parameter in model.named_parameters():
        if ".embedding_bags." in key:
            assert parameter.grad is not None
            touched = parameter.grad.abs().sum(dim=1).nonzero().flatten().tolist()
            place = 1 + next(i for i, f in enumerate(SIZES) if f"t_{f}" in key)
            assert set(touched) <= {place}, key


@pytest.mark.parametrize("name", model_names())
def test_the_loss_falls(name: str) -> None:
    torch.manual_seed(0)
    config = parsed(name)
    model = get_model(name).module(tables(config.features(features())), 2, config)
    dense, kjt, bags = batch(64, 2, longest=1)
    labels = torch.tensor([float((a[0] + b[0]) % 2) for a, b in zip(bags[0], bags[2], strict=True)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.04)
    losses = []
    for _ in range(40):
        loss = binary_cross_entropy_with_logits(model(dense, kjt), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * min(losses[0], 0.7)


@EACH
def test_state_and_meta_round_trip(name: str, options: dict[str, Any]) -> None:
    model = build(name, 3, **options).eval()
    config = parsed(name, **options)
    empty = get_model(name).module(
        tables(config.features(features()), "meta"), 3, config, device="meta"
    )
    assert all(p.is_meta for p in empty.parameters())
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(model.state_dict())
    dense, kjt, _ = batch(4, 3)
    assert torch.equal(empty(dense, kjt), model(dense, kjt))


@EACH
def test_fx_traces(name: str, options: dict[str, Any]) -> None:
    model = build(name, 3, **options).eval()

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified: str) -> bool:
            return m is model.embeddings or super().is_leaf_module(m, qualified)

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    for rows in (1, 5):
        dense, kjt, _ = batch(rows, 3)
        assert torch.equal(traced(dense, kjt), model(dense, kjt))


class Shuffled(nn.Module):
    """A collection whose output keys come in another order, as sharded ones do."""

    def __init__(self, ebc: EmbeddingBagCollection) -> None:
        super().__init__()
        self.ebc = ebc

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.ebc.embedding_bag_configs()

    def forward(self, given: KeyedJaggedTensor) -> KeyedTensor:
        by_key = self.ebc(given).to_dict()
        order = sorted(by_key, reverse=True)
        return KeyedTensor(
            order, [by_key[k].shape[1] for k in order], torch.cat([by_key[k] for k in order], 1)
        )


@EACH
def test_outputs_are_found_by_key(name: str, options: dict[str, Any]) -> None:
    model = build(name, 3, **options).eval()
    dense, kjt, _ = batch(4, 3)
    expected = model(dense, kjt)
    model.embeddings = Shuffled(model.embeddings)  # type: ignore[arg-type]  # a collection
    assert torch.equal(model(dense, kjt), expected)


@functools.cache
def _methods_plan(linear: bool, dim: int) -> Plan:
    """A feature for every method, compressed by it, and its first-order weights too."""
    cases = []
    for method in method_names():
        feature = Feature(name=method, num_ids=400, dim=dim, max_bag=3)
        reads = with_linear_features((feature,)) if linear else (feature,)
        counts = {f.name: np.arange(400, 0, -1) for f in reads}
        full = size(full_plan(reads)).serving_bytes
        budget = full if method == "full" else int(full / 1.5)
        try:
            plan = make_plan(method, reads, budget, counts=counts, threshold=0)
        except ValueError:
            assert dim == 1  # what only narrows rows cannot do that to one column
            plan = full_plan(reads)
        assert dim == 1 or method in plan.methods
        cases.append(Case(method, plan))
    return mixture("all", cases).plan


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_over_a_collection_of_every_method(name: str, engine: Literal["eager", "fused"]) -> None:
    torch.manual_seed(1)
    config = parsed(name)
    (probe, *more) = config.features((Feature(name="f", num_ids=9, dim=8),))
    plan = _methods_plan(bool(more), probe.dim)
    optimizer = FusedOptimizer(name="sgd", learning_rate=0.1) if engine == "fused" else None
    embeddings = CompressedEmbeddingBagCollection(plan, engine=engine, optimizer=optimizer)
    model = get_model(name).module(embeddings, 2, config)
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 4, 16 * len(method_names()))
    kjt = KeyedJaggedTensor(
        keys=method_names(), values=torch.from_numpy(generator.integers(0, 400, lengths.sum())),
        lengths=torch.from_numpy(lengths),
    )  # fmt: skip
    dense, labels = torch.randn(16, 2), torch.arange(16) % 2
    for _ in range(2):
        logits = model(dense, kjt)
        assert logits.shape == (16,)
        binary_cross_entropy_with_logits(logits, labels.float()).backward()
    assert bool((model(dense, kjt) != logits).any()) == (engine == "fused")


@pytest.mark.parametrize("name", ["fm", "dcnv2", "autoint_plus", "fibinet", "dlrm"])
def test_export_takes_a_whole_model(name: str) -> None:
    model = build(name, 3).eval()
    dense, kjt, _ = batch(4, 3)

    class Bags(nn.Module):
        """The same with plain tensors as inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, dense: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
            found: Tensor = self.model(dense, KeyedJaggedTensor(list(SIZES), ids, lengths=lengths))
            return found

    inputs = (dense, kjt.values(), kjt.lengths())
    exported = torch.export.export(Bags(), inputs, strict=False)
    torch.testing.assert_close(exported.module()(*inputs), model(dense, kjt))


def test_first_order_logits_by_field_add_up() -> None:
    model = build("fm", 3)
    dense, kjt, _ = batch(5, 3)
    assert isinstance(model.linear, LinearTerm)
    pooled = model.embeddings(model.linear.extend(kjt))  # type: ignore[operator]  # a module
    by_field = model.linear.by_field(dense, pooled)
    assert by_field.shape == (5, 3 + len(SIZES))
    assert model.linear.bias is not None
    expected = by_field.sum(1) + model.linear.bias
    torch.testing.assert_close(model.linear(dense, pooled), expected)


def test_weights_of_ids_count_for_first_order_terms_too() -> None:
    feature = Feature(name="a", num_ids=5, dim=2, max_bag=3)
    plan = full_plan(with_linear_features((feature,)))
    embeddings = CompressedEmbeddingBagCollection(plan, is_weighted=True)
    model = get_model("fm").module(embeddings, 0)
    kjt = KeyedJaggedTensor(
        ["a"], torch.tensor([1, 3]), lengths=torch.tensor([2]), weights=torch.tensor([0.5, -2.0])
    )
    vectors = embeddings(model.linear.extend(kjt))
    one = KeyedJaggedTensor(
        ["a"], torch.tensor([1, 3]), lengths=torch.tensor([1, 1]), weights=torch.ones(2)
    )
    rows = embeddings(model.linear.extend(one))["a_linear"]
    torch.testing.assert_close(vectors["a_linear"][0], 0.5 * rows[0] - 2 * rows[1])


def test_a_model_without_its_first_order_weights_names_them() -> None:
    with pytest.raises(ValueError, match=r"fm needs .*\['C1_linear', .*make the plan"):
        get_model("fm").module(tables(features()), 2)
    with pytest.raises(ValueError, match=r"lr needs weights, that is width 1, for \['C1'"):
        get_model("lr").module(tables(features()), 2)


def test_unknown_models_and_options_name_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'dcnv3': there are lr, fm, .*, gdcn"):
        get_model("dcnv3")
    with pytest.raises(ValueError, match=r"model fnn: option hiden: .*options are: hidden, "):
        get_model("fnn").parse({"hiden": (3,)})
    with pytest.raises(ValueError, match="heads = 3 must divide the last width of both streams"):
        get_model("finalmlp").parse({"hidden": (8,), "hidden2": (6,), "heads": 3})
    with pytest.raises(ValueError, match="structure 'parallel' needs hidden layers"):
        get_model("dcnv2").parse({"hidden": ()})
    with pytest.raises(ValueError, match=r"context names \['C9'\], which are no features"):
        build("finalmlp", 0, selection=True, context=("C9",))
    with pytest.raises(ValueError, match="split_half needs even sizes but for the last"):
        build("xdeepfm", 0, split_half=True, cin=(3, 4))


def test_a_name_is_registered_once_and_is_an_identifier() -> None:
    fm = get_model("fm")
    with pytest.raises(ValueError, match="a model named 'fm' is registered already"):
        register_model(fm)
    with pytest.raises(ValueError, match="'Deep-FM' is not allowed: use a lower-case identifier"):
        register_model(replace(fm, name="Deep-FM"))


def test_every_option_of_a_model_may_stand_beside_those_of_training() -> None:
    for name in model_names():
        assert not set(get_model(name).config.model_fields) & set(TrainConfig.model_fields), name
    given = {"data": "d", "out": "o", "method": "full", "model": "autoint"}
    beside = TrainConfig.model_validate({**given, "heads": 4})
    assert beside == TrainConfig.model_validate({**given, "model_options": {"heads": 4}})
    assert beside.resolved()["model_options"]["head_dim"] == 32
    with pytest.raises(ValueError, match=r"\['heads'\] are given twice"):
        TrainConfig.model_validate({**given, "heads": 4, "model_options": {"heads": 4}})
    with pytest.raises(ValueError, match="there is no such field"):
        TrainConfig.model_validate({**given, "model_options": {"top": [1]}})
