"""Which tables a model has, where they are read, and which of them cannot be replaced.

A found table is one parameter: layers that share it are readers of one table. Works without
torchrec, since a model that holds one of its collections has loaded it.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import nn

from compactrec.embeddings.arguments import check_model, whole_number
from compactrec.embeddings.core import BagTables
from compactrec.embeddings.feature import MAX_ID, Feature
from compactrec.embeddings.known_modules import is_collection
from compactrec.embeddings.single import SingleFeature
from compactrec.embeddings.swap_reasons import collection_reason, layer_reason, refuse_wrapped

__all__ = ["FoundTable", "Kind", "Reader", "compressed_already", "find_tables", "listed"]

Kind = Literal["layers", "bags", "sequences"]
"""Plain layers, an EmbeddingBagCollection, an EmbeddingCollection."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A module that reads a found table."""

    path: str
    """Of the module in the model; the first one, where it has several."""
    module: nn.Module
    """An embedding layer, or a collection."""
    holder: nn.Module
    """The module that has the parameter: the layer, or one inside the collection."""


@dataclass(frozen=True, eq=False)
class FoundTable:
    """A parameter that is a table of ids."""

    features: tuple[Feature, ...]
    """What reads it, under the names of rules and plans: one, or all keys of a shared table."""
    keys: tuple[str, ...]
    """The keys of these features in their collection; empty for layers."""
    readers: tuple[Reader, ...]
    kind: Kind
    owner: str
    """Who can share physical tables: the path of a collection, ``""`` for all layers."""
    weight: nn.Parameter
    table: str = ""
    """Name of the table in its collection; empty for layers."""
    reason: str = ""
    """Why it cannot be replaced; empty where it can."""

    @property
    def name(self) -> str:
        """What the report calls it: its first feature."""
        return self.features[0].name

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()


def find_tables(model: nn.Module, max_bags: Mapping[str, int] | None = None) -> list[FoundTable]:
    """Every table of ``model``, in the order of its modules.

    ``max_bags`` says how many ids the bags of a collection's feature may hold; 1 by default.
    Raises ``ValueError`` for a model that is wrapped for several processes.
    """
    check_model(model, "compress")
    for key, most in (max_bags or {}).items():
        whole_number(most, f"max_bags[{key!r}]", "give the most ids that a bag of it holds")
    refuse_wrapped(model, "call compress before wrapping: {short}(compress(model, ...))")
    tables: list[FoundTable] = []
    by_weight: dict[int, int] = {}
    for path, module in _walk("", model, set()):
        if _collection_kind(module):
            tables += _collection_tables(path, module, max_bags or {})
            continue
        table = _layer_table(path, module)
        at = by_weight.setdefault(id(table.weight), len(tables))
        if at == len(tables):
            tables.append(table)
        else:
            known = tables[at]
            shared, reason = (*known.readers, *table.readers), known.reason or table.reason
            tables[at] = replace(known, readers=shared, reason=reason)
    _check_max_bags(max_bags or {}, tables)
    return _with_tie_reasons(model, _with_unique_names(tables))


def _check_max_bags(max_bags: Mapping[str, int], tables: Sequence[FoundTable]) -> None:
    keys = list(dict.fromkeys(k for t in tables if t.kind == "bags" for k in t.keys))
    idle = [key for key in max_bags if key not in keys]
    if idle and not keys:
        raise ValueError(
            f"max_bags is for keys of an EmbeddingBagCollection, and the model has none, got "
            f"{', '.join(map(str, idle))}; layers take bags of any length, so leave it out"
        )
    if idle:
        raise ValueError(
            f"max_bags has what is no key of an EmbeddingBagCollection: {', '.join(map(str, idle))}"
            f"; there are {', '.join(keys)}: keys, not tables, and keys of one table share the "
            f"largest of theirs"
        )


def compressed_already(model: nn.Module) -> list[str]:
    """Features of the compressed layers and collections of ``model``, as these call them."""
    names: list[str] = []
    for module in model.modules():
        if isinstance(module, SingleFeature):
            names.append(module.feature.name)
        elif is_collection(module):
            names += [feature.name for feature in cast(Any, module).plan.features]
    return list(dict.fromkeys(names))


def listed(names: Iterable[str], compressed: Sequence[str]) -> str:
    """What an error names as there: tables that can be replaced, and those that are already."""
    found = ", ".join(names) or "none"
    return f"{found}; compressed already: {', '.join(compressed)}" if compressed else found


def _collection_kind(module: nn.Module) -> Kind | None:
    loaded = sys.modules.get("torchrec.modules.embedding_modules")
    if loaded is None:
        return None
    kinds: dict[type, Kind] = {
        loaded.EmbeddingBagCollection: "bags",
        loaded.EmbeddingCollection: "sequences",
    }
    return kinds.get(type(module))


def _walk(path: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Layers and collections; nothing inside a collection or inside what is compressed already."""
    if id(module) in seen:
        return
    seen.add(id(module))
    if _collection_kind(module) or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        yield path, module
        return
    if isinstance(module, (SingleFeature, BagTables)) or is_collection(module):
        return
    for name, child in module.named_children():
        yield from _walk(f"{path}.{name}" if path else name, child, seen)


def _layer_table(path: str, module: Any) -> FoundTable:
    feature = Feature(
        name=_allowed(path) or "table", num_ids=module.num_embeddings, dim=module.embedding_dim
    )
    reader = Reader(path, module, module)
    return FoundTable(
        (feature,), (), (reader,), "layers", "", module.weight, reason=layer_reason(module)
    )


def _collection_tables(path: str, module: Any, max_bags: Mapping[str, int]) -> Iterator[FoundTable]:
    kind = _collection_kind(module)
    assert kind is not None
    bags = kind == "bags"
    configs = module.embedding_bag_configs() if bags else module.embedding_configs()
    holders = module.embedding_bags if bags else module.embeddings
    whole = collection_reason(module, configs, [holders[c.name] for c in configs])
    for config in configs:
        keys = tuple(config.feature_names)
        features = tuple(
            Feature(
                name=_allowed(key),
                num_ids=min(config.num_embeddings, MAX_ID),
                dim=config.embedding_dim,
                max_bag=max((max_bags.get(k, 1) for k in keys), default=1) if bags else 1,
                pooling="mean" if bags and config.pooling.name == "MEAN" else "sum",
            )
            for key in keys
        )
        reader = Reader(path, module, holders[config.name])
        weight = holders[config.name].weight
        yield FoundTable(features, keys, (reader,), kind, path, weight, config.name, whole)


def _allowed(path: str) -> str:
    """A path as the name of a feature: ``/`` for ``.``, and nothing that torchrec would read."""
    name = path.replace(".", "/").replace("@", "_")
    while "__" in name:
        name = name.replace("__", "_")
    return name


def _with_unique_names(tables: list[FoundTable]) -> list[FoundTable]:
    """Keys that two collections have get the path of their collection in front."""
    names = [feature.name for table in tables for feature in table.features]
    taken: set[str] = set()
    found = []
    for table in tables:
        features = []
        for feature in table.features:
            name = feature.name
            if names.count(name) > 1 and table.kind != "layers":
                name = f"{_allowed(table.owner)}/{name}"
            while name in taken:
                name += "_2"
            taken.add(name)
            features.append(feature.model_copy(update={"name": name}))
        found.append(replace(table, features=tuple(features)))
    return found


def _with_tie_reasons(model: nn.Module, tables: list[FoundTable]) -> list[FoundTable]:
    """Tables whose weight something else reads too stay; so do collections that cannot keep it."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            users.setdefault(_storage(parameter), []).append((f"{path}.{name}", module))
    marked = []
    for table in tables:
        holders = [reader.holder for reader in table.readers]
        others = [
            f"{path} ({type(module).__name__})"
            for path, module in users.get(_storage(table.weight), [])
            if all(module is not holder for holder in holders)
        ]
        reason = f"its weight is also {', '.join(others)}" if others else ""
        marked.append(replace(table, reason=table.reason or reason))
    for owner in {t.owner for t in marked if t.reason and t.kind != "layers"}:
        bound = [t for t in marked if t.owner == owner and t.reason and t.features[0].dim % 4]
        if bound:
            reason = f"its collection stays: {bound[0].reason}"
            marked = [
                replace(t, reason=t.reason or reason) if t.owner == owner else t for t in marked
            ]
    return marked


def _storage(parameter: nn.Parameter) -> int:
    """Equal for parameters that share memory."""
    if parameter.is_meta or not parameter.numel():
        return id(parameter)
    try:
        return -parameter.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor without memory of its own
        return id(parameter)
