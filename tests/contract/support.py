"""Batches, collections and reference outputs for the contract tests."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, Plan
from tests.cases import METHODS
from tests.methods.base import Embed, Weights
from tests.reference.pooling import pool

__all__ = [
    "Bags",
    "Batch",
    "assert_near",
    "build",
    "loss_weights",
    "make_batch",
    "reference_embeds",
    "reference_outputs",
    "scramble",
    "table_gradients",
    "weights_of",
]

Bags = Literal["single", "multi", "empty"]
assert_near = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)
EDGES = (0, 1, 2**24 + 1, 2**31 + 1, 2**40 + 5, 2**63 - 1)


@dataclass(frozen=True)
class Batch:
    """One batch, as lists by feature and as a KeyedJaggedTensor."""

    bags: dict[str, list[list[int]]]
    weights: dict[str, list[list[float]]] | None

    @property
    def size(self) -> int:
        return len(next(iter(self.bags.values())))

    def kjt(self, keys: Sequence[str] | None = None) -> KeyedJaggedTensor:
        """Feature-major jagged tensors, in the order of `keys`."""
        keys = list(self.bags) if keys is None else list(keys)
        values = [i for key in keys for bag in self.bags[key] for i in bag]
        lengths = [len(bag) for key in keys for bag in self.bags[key]]
        weights = None
        if self.weights is not None:
            flat = [w for key in keys for bag in self.weights[key] for w in bag]
            weights = torch.tensor(flat, dtype=torch.float32)
        return KeyedJaggedTensor(
            keys=keys,
            values=torch.tensor(values, dtype=torch.int64),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            weights=weights,
        )

    def example(self, index: int) -> "Batch":
        """The batch of one example."""
        weights = self.weights and {k: [w[index]] for k, w in self.weights.items()}
        return Batch({k: [bags[index]] for k, bags in self.bags.items()}, weights)


def _ids(feature: Feature, rng: random.Random, count: int) -> list[int]:
    """A third from the edges of what integers and floats can hold, a third small, a third any."""
    top = feature.num_ids if feature.num_ids is not None else 2**63
    edges = [i for i in (*EDGES, top - 1) if i < top]
    draws = (
        lambda: rng.choice(edges),
        lambda: rng.randrange(min(top, 25)),
        lambda: rng.randrange(top),
    )
    return [rng.choice(draws)() for _ in range(count)]


def make_batch(
    plan: Plan, bags: Bags, *, weighted: bool = False, size: int = 7, seed: int = 0
) -> Batch:
    """Random ids, edges included; `multi` has bags of 0 to max_bag ids, repeats included."""
    rng = random.Random(seed)
    lists, weights = {}, {}
    for feature in plan.features:
        lengths = [0 if bags == "empty" else 1] * size
        if bags == "multi":
            lengths = [0, feature.max_bag, *(rng.randint(0, feature.max_bag) for _ in range(size))]
            lengths = rng.sample(lengths[:size], size)
        lists[feature.name] = [_ids(feature, rng, n) for n in lengths]
        weights[feature.name] = [[rng.uniform(-2, 2) for _ in range(n)] for n in lengths]
        if bags == "multi" and feature.max_bag > 1:  # the same id twice in one bag
            twice = _ids(feature, rng, 1)[0]
            lists[feature.name][-1] = [twice, twice]
            weights[feature.name][-1] = [0.5, -1.5]
    if weighted:  # as float32 will see them
        weights = {
            k: [torch.tensor(w, dtype=torch.float32).tolist() for w in v]
            for k, v in weights.items()
        }
    return Batch(lists, weights if weighted else None)


def build(plan: Plan, seed: int = 0, **kwargs: Any) -> CompressedEmbeddingBagCollection:
    """A collection whose weights are all of order one."""
    torch.manual_seed(seed)
    collection = CompressedEmbeddingBagCollection(plan, **kwargs)
    scramble(collection, plan)
    return collection


def scramble(collection: CompressedEmbeddingBagCollection, plan: Plan) -> None:
    """U(-1, 1) for every weight that is trained, so that no value is degenerate."""
    fixed = {t.name for part in plan.lower() for t in part.tables if t.init.kind == "identity"}
    with torch.no_grad():
        for name, weight in collection.state_dict().items():
            table = name.split(".")[-2]
            if weight.is_floating_point() and table not in fixed:
                # A threshold lies among the norms that it is compared with.
                weight.uniform_(0 if name.endswith(".threshold") else -1, 1)


def weights_of(collection: CompressedEmbeddingBagCollection) -> Weights:
    """Float64 copies of all weights, as leaves that ask for gradients."""
    tables: dict[str, Tensor] = {}
    dense: dict[str, dict[str, Tensor]] = {}
    leaves: dict[str, Tensor] = {}
    for name, weight in collection.state_dict().items():
        if not weight.is_floating_point():
            continue
        leaf = leaves[name] = weight.detach().double().clone().requires_grad_()
        if name.startswith("tables.embedding_bags."):
            tables[name.split(".")[2]] = leaf
        else:
            _, _, key, rest = name.split(".", 3)
            dense.setdefault(key.removeprefix("c_"), {})[rest] = leaf
    return Weights(tables, dense, leaves)


def reference_embeds(plan: Plan, weights: Weights) -> dict[str, tuple[Feature, Embed]]:
    """Per logical key its feature and the slow per-id embedding, in the plan's order."""
    references = {method.method: method.reference for method in METHODS}
    found: dict[str, Embed] = {}
    for group in plan.groups:
        reference = references[group.config.method]
        found |= reference(group.config, plan.group_features(group), plan.arrays, weights)
    ordered = {}
    for feature in plan.features:
        for key, embed in found.items():
            if key == feature.name or key.startswith(f"{feature.name}__"):
                ordered[key] = (feature, embed)
    return ordered


def reference_outputs(plan: Plan, weights: Weights, batch: Batch) -> dict[str, Tensor]:
    """The logical outputs (B, D) by key, float64, from the slow references."""
    outputs = {}
    for key, (feature, embed) in reference_embeds(plan, weights).items():
        of_feature = None if batch.weights is None else batch.weights[feature.name]
        outputs[key] = pool(
            embed, batch.bags[feature.name], of_feature, feature.pooling, dim=feature.dim
        )
    return {k: torch.as_tensor(v) for k, v in outputs.items()}


def loss_weights(outputs: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """A fixed random cotangent for each output, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(out.shape, generator=generator, dtype=torch.float64) - 0.5
        for key, out in outputs.items()
    }


def table_gradients(
    plan: Plan, weights: Weights, batch: Batch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cotangents of the outputs, and reference gradients by state-dict key (zeros if unused)."""
    outputs = reference_outputs(plan, weights, batch)
    cotangents = loss_weights(outputs)
    loss = sum((outputs[key] * cotangents[key]).sum() for key in outputs)
    assert isinstance(loss, Tensor)
    if not loss.requires_grad:
        return cotangents, {name: torch.zeros_like(leaf) for name, leaf in weights.leaves.items()}
    grads = torch.autograd.grad(loss, list(weights.leaves.values()), allow_unused=True)
    return cotangents, {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(weights.leaves.items(), grads, strict=True)
    }
