"""Builds what takes the place of layers and collections; nothing of the model changes here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from compactrec.embeddings.core import Core, make_cores
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.layers import CompressedEmbedding, CompressedEmbeddingBag
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.swap_find import FoundTable
from compactrec.embeddings.swap_plan import keeps

__all__ = ["Built", "build", "collection_plan", "distinct"]

T = TypeVar("T")


@dataclass
class Built:
    """Replacements, by the identity of what they replace."""

    modules: dict[int, nn.Module]
    """The new module of an old one."""
    parameters: dict[int, tuple[nn.Parameter, ...]]
    """The new parameters of an old one; what a group shares is with its first table."""


def build(tables: Sequence[FoundTable], plan: Plan) -> Built:
    """Every replacement that ``plan`` asks for; empty where it keeps all as it is."""
    built = Built({}, {})
    of = {feature.name: table for table in tables for feature in table.features}
    for group in plan.groups:
        members = distinct(of[name] for name in group.features)
        if members[0].kind == "layers" and not keeps(group, tables):
            _build_layers(group, members, plan, built)
    for owner in dict.fromkeys(t.owner for t in tables if t.kind != "layers"):
        own = [t for t in tables if t.kind != "layers" and t.owner == owner]
        subplan = collection_plan(own, plan)
        if subplan is not None:
            _build_collection(own, subplan, built)
    return built


def collection_plan(tables: Sequence[FoundTable], plan: Plan) -> Plan | None:
    """The plan of one collection under its own keys; None where it keeps every table.

    Tables that ``plan`` leaves out stay full.
    """
    key_of = {f.name: k for t in tables for f, k in zip(t.features, t.keys, strict=True)}
    planned = {feature.name: feature for feature in plan.features if feature.name in key_of}
    groups = [g for g in plan.groups if g.features[0] in key_of]
    if all(keeps(group, tables) for group in groups):
        return None
    for table in tables:
        if table.name not in planned:
            first, *others = (feature.name for feature in table.features)
            groups.append(Group((first, *others), FullConfig(), dict.fromkeys(others, first)))
    features = tuple(
        planned.get(f.name, f).model_copy(update={"name": key_of[f.name]})
        for table in tables
        for f in table.features
    )
    renamed = tuple(
        replace(
            group,
            features=tuple(key_of[name] for name in group.features),
            ties={key_of[name]: key_of[other] for name, other in group.ties.items()},
        )
        for group in groups
    )
    return Plan(features, renamed, plan.arrays)


def _build_layers(group: Group, tables: Sequence[FoundTable], plan: Plan, built: Built) -> None:
    weights = [table.weight for table in tables]
    _check_alike(group, weights)
    cores = make_cores(
        group.config,
        plan.group_features(group),
        plan.arrays,
        sparse=any(getattr(r.module, "sparse", False) for t in tables for r in t.readers),
        device=weights[0].device,
        dtype=weights[0].dtype,
    )
    for table in tables:
        for reader in table.readers:
            layer = _layer(reader.module, cores[table.name])
            built.modules[id(reader.module)] = layer.train(reader.module.training)
    first = cores[tables[0].name].tables
    combines = {table.name: list(cores[table.name].combine.parameters()) for table in tables}
    _assign(tables, list(first.parameters()), combines, first.constant_parameters(), built)


def _check_alike(group: Group, weights: Sequence[nn.Parameter]) -> None:
    kinds = sorted({f"{w.dtype} on {w.device}" for w in weights})
    if len(kinds) > 1:
        raise ValueError(
            f"the tables of {', '.join(group.features)} would share memory but are "
            f"{' and '.join(kinds)}; make a group for each"
        )


def _layer(old: nn.Module, core: Core) -> nn.Module:
    if isinstance(old, nn.EmbeddingBag):
        return CompressedEmbeddingBag.from_core(
            core,
            mode=old.mode,  # type: ignore[arg-type] # torch types it as any string
            include_last_offset=old.include_last_offset,
            padding_idx=old.padding_idx,
        )
    assert isinstance(old, nn.Embedding)
    return CompressedEmbedding.from_core(core, padding_idx=old.padding_idx)


def _build_collection(tables: Sequence[FoundTable], plan: Plan, built: Built) -> None:
    from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
    from compactrec.embeddings.sequence_collection import CompressedEmbeddingCollection

    old: Any = tables[0].readers[0].module
    device = tables[0].weight.device
    new: nn.Module
    if tables[0].kind == "bags":
        new = bags = CompressedEmbeddingBagCollection(
            plan, device=device, is_weighted=old.is_weighted()
        )
    else:
        new = sequences = CompressedEmbeddingCollection(
            plan, device=device, need_indices=old.need_indices()
        )
        bags = sequences.bags
    _check_outputs(bags.embedding_bag_configs(), plan)
    holders: Any = bags.tables.embedding_bags
    by_key = {key: table for table in tables for key in table.keys}
    bags.plain_names = {key: table.table for key, table in by_key.items()}
    outputs = bags.combine.outputs
    for group in plan.groups:
        members = distinct(by_key[name] for name in group.features)
        _check_alike(group, [table.weight for table in members])
        own = [holders[name] for name in _table_names(plan, group)]
        if isinstance(group.config, FullConfig) and len(members) == 1:
            _keep_weight(own[0], members[0].weight)
        for holder in own:
            holder.to(members[0].weight.dtype)
        combines = {
            table.name: [
                p for o in outputs if o.feature in table.keys for p in o.combine.parameters()
            ]
            for table in members
        }
        weights = [holder.weight for holder in own]
        _assign(members, weights, combines, bags.constant_parameters(), built)
    built.modules[id(old)] = new.train(old.training)


def _check_outputs(configs: Sequence[Any], plan: Plan) -> None:
    """Raise where the model would not get the vectors that it got."""
    keys, names = [c.name for c in configs], [feature.name for feature in plan.features]
    if keys != names:
        raise ValueError(
            f"the model reads the vectors {', '.join(names)}, but the plan makes "
            f"{', '.join(keys)}; choose another operation"
        )


def _table_names(plan: Plan, group: Group) -> list[str]:
    arrays = {name: array.to("meta") for name, array in plan.arrays.items()}
    with torch.device("meta"):
        return [table.name for table in plan.lower_group(group, arrays).tables]


def _keep_weight(holder: nn.Module, weight: nn.Parameter) -> None:
    """A full table goes on with its trained weights, and as the same parameter where it can.

    Narrow rows are stored several to a physical row, one after the other, so flat they are equal.
    """
    new = holder.weight
    assert isinstance(new, nn.Parameter)
    if new.shape == weight.shape:
        holder.weight = weight
    elif not weight.is_meta:
        with torch.no_grad():
            new.view(-1)[: weight.numel()] = weight.reshape(-1).to(new.dtype)


def _assign(
    tables: Sequence[FoundTable],
    weights: Sequence[nn.Parameter],
    combines: Mapping[str, Sequence[nn.Parameter]],
    constant: Sequence[nn.Parameter],
    built: Built,
) -> None:
    """Say which parameters follow which: shared weights follow the first table that trains.

    Where every table of the group is frozen, so are the new ones.
    """
    trained = [table for table in tables if table.weight.requires_grad]
    first = (trained or list(tables))[0]
    for table in tables:
        own = [*(weights if table is first else ()), *combines[table.name]]
        for parameter in own:
            parameter.requires_grad_(bool(trained))
        fixed = {id(parameter) for parameter in constant}
        new = tuple(p for p in distinct(own) if id(p) not in fixed)
        if [id(p) for p in new] != [id(table.weight)]:
            built.parameters[id(table.weight)] = new


def distinct(items: Iterable[T]) -> list[T]:
    """Every object once, in order."""
    return list({id(item): item for item in items}.values())
