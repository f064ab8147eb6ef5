"""Modules that are known without importing what makes them: collections, and wrappers of models."""

import sys
from dataclasses import dataclass

from torch import nn

__all__ = ["Wrapper", "is_collection", "wrapper_of"]


@dataclass(frozen=True)
class Wrapper:
    """A class that takes a whole model."""

    name: str
    made_by: str
    inside: str
    """What to write for the model in it; empty where it is the model itself."""
    why: str
    """Why it is too late to replace tables."""
    outside_names: str = ""
    """The child that is no part of the names in a checkpoint; empty where every one is."""


_READ = "has read its parameters already"
_DMP = "_dmp_wrapped_module"
_WRAPPERS = {
    wrapper.name: wrapper
    for wrapper in (
        Wrapper("DistributedDataParallel", "DDP", "module", _READ, "module"),
        Wrapper("DataParallel", "DataParallel", "module", _READ),
        Wrapper("FullyShardedDataParallel", "FSDP", "module", _READ),
        Wrapper("FSDPModule", "fully_shard", "", _READ),
        Wrapper("DistributedModelParallel", "shard", "module", _READ, _DMP),
        Wrapper("DMPCollection", "shard", "module", _READ, _DMP),
        Wrapper(
            "OptimizedModule",
            "torch.compile",
            "_orig_mod",
            "is compiled for its tables as they are",
        ),
    )
}


def wrapper_of(module: nn.Module) -> Wrapper | None:
    """What ``module`` is, by the name of its class; None where it wraps nothing."""
    names = (base.__name__ for base in type(module).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def is_collection(module: nn.Module) -> bool:
    """True for a ``CompressedEmbeddingBagCollection``. Who holds one has loaded it."""
    loaded = sys.modules.get("compactrec.embeddings.collection")
    return loaded is not None and isinstance(module, loaded.CompressedEmbeddingBagCollection)
