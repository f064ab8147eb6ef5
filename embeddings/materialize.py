"""The way back: plain tables with the logical vectors of every id, for anybody's server."""

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.embeddings.arguments import check_model, whole_number
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.known_modules import is_collection
from compactrec.embeddings.layers import CompressedEmbeddingBag
from compactrec.embeddings.parameters import check_optimizer_list
from compactrec.embeddings.plan import Plan
from compactrec.embeddings.single import SingleFeature
from compactrec.embeddings.swap_build import Built
from compactrec.embeddings.swap_install import install, rewire_optimizers
from compactrec.embeddings.swap_reasons import refuse_wrapped

__all__ = ["materialize"]

_CHUNK_FLOATS = 1 << 24
_BYTES = " of bytes"

_Key = tuple[int, str, int | None]
"""Layers with equal keys are tied: the same tables, feature and padding."""


def materialize(
    model: nn.Module,
    *,
    max_bytes: int | None = None,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> nn.Module:
    """Put plain tables in the place of compressed ones; returns ``model``, or the new module.

    ``CompressedEmbedding`` becomes ``nn.Embedding``, ``CompressedEmbeddingBag`` becomes
    ``nn.EmbeddingBag``, and the compressed collections become torchrec's. The outputs are the same
    numbers (a pool of a projection differs from a projection of a pool by rounding, and vectors of
    tables in half precision are rounded to that again). In place:
    ``copy.deepcopy`` first to keep the compressed model. Layers that are tied stay tied.

    Args:
        max_bytes: what all plain tables together may take; None is no limit.
        optimizers: get each plain table into the group of the first weights that it stands for,
            without their state. A table whose weights they do not hold, as those that are updated
            inside backward, is in none of them.

    Raises:
        TypeError: ``model`` is no module, ``optimizers`` no list, or ``max_bytes`` no whole number.
        ValueError: an open vocabulary, more than ``max_bytes``, a feature of several vectors, a
            wrapped model, or nothing to do. The model is unchanged then.
    """
    check_model(model, "materialize")
    check_optimizer_list(optimizers)
    if max_bytes is not None:
        whole_number(max_bytes, "max_bytes", "write 64 MB as 64_000_000, None is no limit", _BYTES)
    refuse_wrapped(
        model,
        "materialize {path}.{inside}, which is the model inside{every}",
        "materialize a model that {short} was not called on, from a checkpoint",
    )
    modules = list(_compressed(model, set()))
    if not modules:
        raise ValueError("the model has no compressed tables; there is nothing to materialize")
    _check_bytes(modules, max_bytes)
    built = Built({}, {})
    tables: dict[_Key, nn.Parameter | None] = dict.fromkeys(_keys(modules))
    for module in modules:
        mode = module.training
        module.eval()
        try:
            if isinstance(module, SingleFeature):
                new: nn.Module = _plain_layer(module, tables, built)
            else:
                new = _plain_collection(module, built)
        finally:
            module.train(mode)
        trains = any(parameter.requires_grad for parameter in module.parameters())
        built.modules[id(module)] = new.train(mode).requires_grad_(trains)
    rewire_optimizers(built.parameters, optimizers)
    return install(model, built)


def _compressed(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, SingleFeature) or _collection_of(module) is not None:
        yield module
        return
    for child in module.children():
        yield from _compressed(child, seen)


def _collection_of(module: nn.Module) -> Any:
    """The bag collection that ``module`` is, or runs; None for anything else.

    Who holds one has loaded it, so nothing that needs torchrec is imported here.
    """
    if is_collection(module):
        return module
    sequences = sys.modules.get("compactrec.embeddings.sequence_collection")
    if sequences is not None and isinstance(module, sequences.CompressedEmbeddingCollection):
        return module.bags
    return None


def _check_bytes(modules: Sequence[nn.Module], max_bytes: int | None) -> None:
    """Raise for an open vocabulary, and where all plain tables together pass ``max_bytes``."""
    sizes: dict[object, tuple[Feature, int]] = {}
    keys = _keys(modules)
    for module in modules:
        if isinstance(module, SingleFeature):
            itemsize = next((p.element_size() for p in module.parameters()), 4)
            sizes[_key(module, keys)] = (module.feature, itemsize)
            continue
        bags = _collection_of(module)
        ties = _ties(bags.plan)
        own = [feature for feature in bags.plan.features if feature.name not in ties]
        sizes |= {(id(module), f.name): (f, _dtype_of(bags, f).itemsize) for f in own}
    total = 0
    for feature, itemsize in sizes.values():
        if feature.num_ids is None:
            raise ValueError(
                f"feature {feature.name!r} has an open vocabulary, which has no plain table; "
                f"serve the compressed model, or give num_ids"
            )
        total += feature.num_ids * feature.dim * itemsize
    if max_bytes is not None and total > max_bytes:
        raise ValueError(
            f"the plain tables take {total:,} bytes, max_bytes is {max_bytes:,}; raise it, or "
            f"serve the compressed model"
        )


def _tables_of(module: Any, keys: Sequence[str]) -> list[nn.Parameter]:
    """The weights of the physical tables that ``module`` reads for the keys."""
    ids = module.rewrite if isinstance(module, SingleFeature) else module.rewrite.ids
    read = zip(ids.part_keys, ids.part_tables, strict=True)
    names = dict.fromkeys(table for part, table in read if part.partition("__")[0] in keys)
    return [module.tables.embedding_bags[name].weight for name in names]


def _dtype_of(bags: Any, feature: Feature) -> torch.dtype:
    """Of a plain table of ``feature``: that of the tables that it reads."""
    return next((weight.dtype for weight in _tables_of(bags, [feature.name])), torch.float32)


def _ties(plan: Plan) -> dict[str, str]:
    return {name: other for group in plan.groups for name, other in group.ties.items()}


def _keys(modules: Sequence[nn.Module]) -> set[_Key]:
    """Of the layers whose padding is a row of zeros."""
    layers = (m for m in modules if isinstance(m, SingleFeature))
    return {
        (id(layer.tables), layer.feature.name, layer.padding_idx)
        for layer in layers
        if not isinstance(layer, CompressedEmbeddingBag)
    }


def _key(layer: SingleFeature, keys: Container[_Key]) -> _Key:
    """Bags leave their padding out, whatever its row holds: they read what others need."""
    key = (id(layer.tables), layer.feature.name, layer.padding_idx)
    return key if key in keys else (*key[:2], None)


def _follow(module: Any, new: nn.Parameter, keys: Sequence[str], built: Built) -> None:
    """Let ``new`` stand where the first of the weights behind ``keys`` that trains stands.

    Those are the tables that ``module`` reads for the keys, then the combines that make them.
    """
    made = [output.combine for output in module.combine.outputs if output.feature in keys]
    old = _tables_of(module, keys)
    old += [parameter for combine in made for parameter in combine.parameters()]
    constant = (
        module.tables if isinstance(module, SingleFeature) else module
    ).constant_parameters()
    fixed = {id(parameter) for parameter in constant}
    for parameter in old:
        built.parameters.setdefault(id(parameter), ())
    trained = [p for p in old if p.requires_grad and id(p) not in fixed]
    for first in (trained or old)[:1]:
        built.parameters[id(first)] = (*built.parameters[id(first)], new)


def _plain_layer(
    layer: SingleFeature, tables: dict[_Key, nn.Parameter | None], built: Built
) -> nn.Module:
    key = _key(layer, tables)
    weight = tables.get(key)
    if weight is None:
        weight = tables[key] = nn.Parameter(_all_rows(layer, key[2]))
        _follow(layer, weight, [layer.feature.name], built)
    new: nn.Embedding | nn.EmbeddingBag
    if isinstance(layer, CompressedEmbeddingBag):
        new = nn.EmbeddingBag.from_pretrained(
            weight.data,
            mode=layer.mode,
            include_last_offset=layer.include_last_offset,
            padding_idx=layer.padding_idx,
            sparse=layer.sparse,
        )
    else:
        new = nn.Embedding.from_pretrained(
            weight.data, padding_idx=layer.padding_idx, sparse=layer.sparse
        )
    new.weight = weight
    return new


@torch.no_grad()
def _all_rows(layer: SingleFeature, padding_idx: int | None) -> Tensor:
    given, layer.padding_idx = layer.padding_idx, padding_idx
    try:
        return layer.materialize()
    finally:
        layer.padding_idx = given


def _plain_collection(module: Any, built: Built) -> nn.Module:
    from torchrec.modules.embedding_configs import (
        EmbeddingBagConfig,
        EmbeddingConfig,
        PoolingType,
    )
    from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
    from torchrec.types import DataType

    bags = _collection_of(module)
    keys = [config.name for config in bags.embedding_bag_configs()]
    if keys != [feature.name for feature in bags.plan.features]:
        raise ValueError(
            f"a plain collection has one vector per feature, but this one makes "
            f"{', '.join(keys)}; choose another operation, or serve the compressed model"
        )
    groups = _runs(bags.plan)
    names = _table_names(groups, bags.plain_names)
    half = {torch.float16: DataType.FP16, torch.bfloat16: DataType.BF16}
    shapes = [
        {
            "name": name,
            "embedding_dim": run[0].dim,
            "num_embeddings": run[0].num_ids,
            "feature_names": [feature.name for feature in run],
            "data_type": half.get(_dtype_of(bags, run[0]), DataType.FP32),
        }
        for name, run in zip(names, groups, strict=True)
    ]
    new: Any
    meta = torch.device("meta")
    if bags is module:
        pooling = {"sum": PoolingType.SUM, "mean": PoolingType.MEAN}
        configs = [
            EmbeddingBagConfig(**shape, pooling=pooling[run[0].pooling])
            for shape, run in zip(shapes, groups, strict=True)
        ]
        new = EmbeddingBagCollection(configs, is_weighted=bags.is_weighted(), device=meta)
        holders = new.embedding_bags
    else:
        if len({feature.dim for feature in bags.plan.features}) > 1:
            raise ValueError(
                "a plain EmbeddingCollection has one width for all features, and these have "
                "several; serve the compressed model"
            )
        need = module.need_indices()
        new = EmbeddingCollection([EmbeddingConfig(**s) for s in shapes], meta, need)
        holders = new.embeddings
    for name, run in zip(names, groups, strict=True):
        weight = holders[name].weight = nn.Parameter(_vectors(bags, run[0]))
        new._device = weight.device
        _follow(bags, weight, [feature.name for feature in run], built)
    return new


def _runs(plan: Plan) -> list[list[Feature]]:
    """Features that read one plain table: neighbours that are tied and pooled alike.

    Neighbours only, since the columns of a plain collection follow its tables.
    """
    ties = _ties(plan)
    runs: list[list[Feature]] = []
    for feature in plan.features:
        last = runs[-1] if runs else []
        tied = last and ties.get(feature.name, feature.name) == ties.get(last[0].name, last[0].name)
        if tied and feature.pooling == last[0].pooling:
            last.append(feature)
        else:
            runs.append([feature])
    return runs


def _table_names(runs: Sequence[Sequence[Feature]], plain_names: Mapping[str, str]) -> list[str]:
    """Those from before ``compress``; the key where there is none, or where it is taken."""
    names: list[str] = []
    for run in runs:
        name = plain_names.get(run[0].name, run[0].name)
        names.append(run[0].name if name in names else name)
    return names


@torch.no_grad()
def _vectors(bags: Any, feature: Feature) -> Tensor:
    """``(num_ids, dim)``: every id a bag of one, all other features empty."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys = [other.name for other in bags.plan.features]
    device = next(bags.buffers()).device
    chunk = max(1, _CHUNK_FLOATS // sum(other.dim for other in bags.plan.features))
    assert feature.num_ids is not None
    out = []
    for ids in torch.arange(feature.num_ids, device=device).split(chunk):
        ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
        lengths = torch.cat([ones if key == feature.name else zeros for key in keys])
        weights = ids.new_ones(len(ids), dtype=torch.float32) if bags.is_weighted() else None
        batch = KeyedJaggedTensor(keys, ids, weights, lengths=lengths, stride=len(ids))
        out.append(bags(batch)[feature.name].clone())
    return torch.cat(out).to(_dtype_of(bags, feature))
