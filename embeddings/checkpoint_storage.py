"""Tensors of several processes in safetensors files, by the plans of torch.distributed.checkpoint.

Its planners say who writes which box of a tensor, and which boxes fill a tensor that is cut in
another way. Its own storage is not used: that pickles ``.metadata`` and writes by ``torch.save``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan

from compactrec.embeddings.checkpoint_group import CheckpointGroup
from compactrec.embeddings.checkpoint_index import Chunk, StoredTensor, TensorSet, first_few
from compactrec.embeddings.shard_warnings import sharded_tensors_touched

__all__ = ["Staged", "misfits", "read_into", "stage"]


@dataclass(frozen=True)
class Staged:
    """What is to be written."""

    tensors: dict[str, Tensor]
    """Of this process, by the names in its file."""
    layout: dict[str, StoredTensor]
    """All tensors of all processes; the file of a chunk is the rank that writes it."""


@sharded_tensors_touched()
def stage(tensors: Mapping[str, Any], processes: CheckpointGroup, *, copy: bool) -> Staged:
    """Agree on who writes what; all processes call it.

    A tensor that several processes hold whole is written once. Sharded tensors of
    ``torch.distributed`` are written where they lie. With ``copy`` the tensors may change then.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"a checkpoint holds tensors, and {name!r} is {type(tensor).__name__}; give JSON "
                "values as state"
            )
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(tensors), None, processes.rank == 0)
    local = processes.gather(planner.create_local_plan())
    layout: dict[str, StoredTensor] = {}
    plans: list[SavePlan] = []

    def agree() -> None:
        if processes.rank == 0:
            found, metadata = planner.create_global_plan(local)
            plans.extend(found)
            layout.update(_layout(found, metadata))

    processes.together(agree)
    plans, layout = processes.gather((plans, layout))[0]
    own: dict[str, Tensor] = {}
    for item in planner.finish_plan(plans[processes.rank]).items:
        found = planner.resolve_data(item)
        assert isinstance(found, Tensor)
        assert item.tensor_data is not None
        key = layout[item.index.fqn].key(item.index.fqn, _chunk(item.tensor_data.chunk, 0))
        there = found.detach().cpu()
        own[key] = there.clone() if copy and there.data_ptr() == found.data_ptr() else there
    return Staged(own, layout)


@sharded_tensors_touched()
def read_into(folder: Path, stored: TensorSet, targets: dict[str, Any]) -> None:
    """Fill ``targets`` in place with what the files hold for them; each process by itself."""
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(targets, _metadata(stored), True)
    wanted = defaultdict(list)
    for item in planner.create_local_plan().items:
        name, offsets = item.storage_index.fqn, tuple(item.storage_index.offset or ())
        tensor = stored.tensors[name]
        chunk = next(c for c in tensor.chunks if c.offsets == offsets)
        wanted[chunk.file].append((tensor.key(name, chunk), item))
    for file, items in wanted.items():
        with safe_open(str(folder / stored.files[file].name), framework="pt") as opened:
            for key, item in items:
                box = tuple(
                    slice(start, start + length)
                    for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                )
                piece = opened.get_slice(key)[box] if box else opened.get_tensor(key)
                planner.resolve_tensor(item).detach().copy_(piece)


@sharded_tensors_touched()
def misfits(stored: TensorSet, targets: Mapping[str, Any]) -> list[str]:
    """What keeps ``stored`` from being read into ``targets``, in words."""
    found = []
    for name, target in targets.items():
        there = stored.tensors.get(name)
        if there is None:
            found.append(f"{name} is not in it")
            continue
        shape, dtype = tuple(target.shape), _name(target.dtype)
        if (shape, dtype) != (there.shape, there.dtype):
            found.append(f"{name} is {there.dtype} {there.shape} there and {dtype} {shape} here")
    return first_few(found)


def _layout(plans: list[SavePlan], metadata: Metadata) -> dict[str, StoredTensor]:
    owner = {
        (item.index.fqn, tuple(item.index.offset or ())): rank
        for rank, plan in enumerate(plans)
        for item in plan.items
    }
    found = {}
    for name, stored in metadata.state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        found[name] = StoredTensor(
            dtype=_name(stored.properties.dtype),
            shape=tuple(stored.size),
            chunks=tuple(_chunk(c, owner[name, tuple(c.offsets)]) for c in stored.chunks),
        )
    return found


def _metadata(stored: TensorSet) -> Metadata:
    return Metadata(
        {
            name: TensorStorageMetadata(
                TensorProperties(dtype=tensor.torch_dtype),
                torch.Size(tensor.shape),
                [
                    ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape))
                    for c in tensor.chunks
                ],
            )
            for name, tensor in stored.tensors.items()
        }
    )


def _chunk(chunk: ChunkStorageMetadata, file: int) -> Chunk:
    return Chunk(file=file, offsets=tuple(chunk.offsets), shape=tuple(chunk.sizes))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
