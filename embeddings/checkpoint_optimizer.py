"""Optimizer state by the names of parameters, the same whichever engine keeps it.

*Inside*: optimizers within the backward pass, of FBGEMM in one process or of torchrec over several;
their tensors are filled in place. *Outside*: optimizers that are stepped; they may not have made
their state yet, so it is given to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.embeddings.checkpoint_index import StoredTensor, first_few
from compactrec.embeddings.checkpoint_io import CheckpointError
from compactrec.embeddings.known_modules import is_collection
from compactrec.embeddings.shard_warnings import sharded_tensors_touched

__all__ = ["OptimizerNames"]

_TABLE = ".embedding_bags."
"""In the name of every table's weight, and of no other parameter."""
_KINDS = {"SGD": "sgd", "Adagrad": "adagrad", "RowWiseAdagrad": "rowwise_adagrad"}
"""What FusedOptimizer calls a class whose state of a table is that of the fused engine."""


class OptimizerNames:
    """The optimizers of a model, and what a checkpoint calls their state.

    Args:
        model: its collections and, under DistributedModelParallel, its shards.
        optimizers: torch's or torchrec's, whose state is kept by parameter.
        prefix: of names in ``model`` that names in the checkpoint have not.
    """

    @sharded_tensors_touched()
    def __init__(self, model: nn.Module, optimizers: Sequence[Any], *, prefix: str = "") -> None:
        self._optimizers = list(optimizers)
        self._names = {id(p): name.removeprefix(prefix) for name, p in model.named_parameters()}
        strange = sum(id(p) not in self._names for o in optimizers for p in _parameters(o))
        if strange:
            raise ValueError(
                f"the optimizers hold {strange} parameters that are not of this model; give the "
                "model that they train, and no other"
            )
        inside = {name.removeprefix(prefix): state for name, state in _inside(model)}
        self.inside = {
            f"{name}.{key}": t for name, state in inside.items() for key, t in state.items()
        }
        """State of this process inside backward, by name; nothing is copied."""
        self.outside: dict[str, tuple[Any, nn.Parameter]] = {
            self._names[id(p)]: (optimizer, p)
            for optimizer in self._optimizers
            for p in _parameters(optimizer)
        }
        """Optimizer and parameter by the parameter's name."""
        self._inside_kinds = {name: _kind_inside(state) for name, state in inside.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All state of this process by name; nothing is copied."""
        found = dict(self.inside)
        for name, (optimizer, parameter) in self.outside.items():
            state = optimizer.state.get(parameter, {})
            if _TABLE in name and "sum" in state:
                sums = state["sum"]  # of torchrec's row-wise Adagrad: (rows, 1)
                found[f"{name}.momentum1"] = sums.view(-1) if sums.shape[1] == 1 else sums
                if _group_of(optimizer, parameter).get("lr_decay"):
                    found[f"{name}.step"] = torch.as_tensor(state["step"])
                continue
            for key, value in state.items():
                if value is not None:  # SGD keeps a momentum of None
                    found[f"{name}.{key}"] = torch.as_tensor(value)
        return found

    def settings(self) -> dict[str, Any]:
        """JSON: which kind updates each parameter, and the numbers of every group."""
        kinds = {name: _kind_outside(name, *held) for name, held in self.outside.items()}
        return {
            "kinds": {**self._inside_kinds, **kinds},
            "groups": [self._group(g) for o in self._optimizers for g in o.param_groups],
        }

    @sharded_tensors_touched()
    def check(
        self, stored: Mapping[str, StoredTensor], settings: Sequence[Mapping[str, Any]]
    ) -> None:
        """Raise CheckpointError unless a checkpoint is of these optimizers.

        ``settings`` are those of all processes that saved: each knows its own shards alone.
        """
        theirs = {name: kind for saved in settings for name, kind in saved["kinds"].items()}
        wrong = [
            f"{name} is updated by {theirs.get(name, 'no optimizer')} there and {kind} here"
            for name, kind in self.settings()["kinds"].items()
            if theirs.get(name) != kind
        ]
        own = {name: tuple(t.shape) for name, t in self.tensors().items() if _TABLE in name}
        for name, shape in own.items():
            if name not in stored:
                wrong.append(f"{name} is not in it")
            elif shape != stored[name].shape:
                wrong.append(_unlike(name, stored[name].shape, shape))
        known = self._inside_kinds.keys() | {name.rsplit(".", 1)[0] for name in own}
        for name in stored:
            if name.rsplit(".", 1)[0] in known and name not in own:
                wrong.append(f"{name} is not kept here")
        if wrong:
            raise CheckpointError(
                f"the checkpoint is of another optimizer: {'; '.join(first_few(wrong))}. Load it "
                "with the optimizers that it was saved with, or load the weights alone"
            )

    def left_out(self, stored: Mapping[str, StoredTensor], *, with_tables: bool) -> list[str]:
        """Parameters whose state a checkpoint holds, and that no optimizer here updates.

        ``with_tables``: those of tables too, which one process of several knows its own of alone.
        """
        own = self._inside_kinds.keys() | self.outside.keys()
        names = dict.fromkeys(name.rsplit(".", 1)[0] for name in stored)
        return [n for n in names if n not in own and (with_tables or _TABLE not in n)]

    def put(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        """Give optimizers outside what :meth:`tensors` had named, and groups their numbers."""
        for name, (optimizer, parameter) in self.outside.items():
            begin = f"{name}."
            given = {k.removeprefix(begin): t for k, t in tensors.items() if k.startswith(begin)}
            state = optimizer.state[parameter]
            if _TABLE in name and "momentum1" in given:
                _put_sums(state, parameter, given)
                continue
            state.clear()
            for key, value in given.items():
                # As torch does: a count of steps stays on the CPU.
                state[key] = value.to(parameter.device) if value.dim() else value
        saved = {tuple(group["params"]): group for group in settings["groups"]}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                numbers = saved.get(tuple(self._group(group)["params"]), {})
                for key, value in numbers.items():
                    if key != "params":
                        group[key] = tuple(value) if isinstance(value, list) else value

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {k: v for k, v in group.items() if k != "params" and _is_json(v)}
        return {"params": [self._names[id(p)] for p in group["params"]], **numbers}


def _parameters(optimizer: Any) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _group_of(optimizer: Any, parameter: nn.Parameter) -> Mapping[str, Any]:
    groups = (g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    found: Mapping[str, Any] = next(groups)
    return found


def _put_sums(state: dict[str, Any], parameter: nn.Parameter, given: Mapping[str, Tensor]) -> None:
    """A table's accumulator, as torch's or torchrec's Adagrad calls it, made or not made yet."""
    sums = given["momentum1"]
    if "sum" in state:
        state["sum"].copy_(sums.view(state["sum"].shape))
    else:
        whole = sums.numel() == parameter.numel()
        state["sum"] = sums.view(parameter.shape if whole else (-1, 1)).to(parameter.device)
    state["step"] = given.get("step", state.get("step", torch.tensor(0.0)))


def _kind_outside(name: str, optimizer: Any, parameter: nn.Parameter) -> str:
    kind = type(optimizer).__name__
    if _TABLE not in name:
        return kind
    momentum = " with momentum" if _group_of(optimizer, parameter).get("momentum") else ""
    return _KINDS.get(kind, kind) + momentum


def _kind_inside(state: Mapping[str, Tensor]) -> str:
    """By what it keeps, which is all there from the first step on."""
    if "momentum2" in state:
        return "fused adam"  # its state is not that of torch's
    if "momentum1" in state:
        return "rowwise_adagrad" if len(state["momentum1"].shape) == 1 else "adagrad"
    return "sgd"


def _inside(model: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Weights that are updated inside backward, and the state of each.

    One-hot tables, whose gradient is 0, have none: replicated ones are in no optimizer.
    """
    parallel = sys.modules.get("torchrec.distributed.model_parallel")
    if parallel is not None and isinstance(model, parallel.DistributedModelParallel):
        constant = {
            f"{tables}{_TABLE}{name}.weight"
            for tables, module in _collections(model.module)
            for name in module.constant_tables
        }
        for weight, state in model.fused_optimizer.state_dict()["state"].items():
            if weight not in constant:
                yield weight, {key.rsplit(".", 1)[1]: tensor for key, tensor in state.items()}
        return
    for tables, module in _collections(model):
        if module.engine != "fused":
            continue
        state = module.optimizer_state_dict()
        for table in module.tables.embedding_bags:
            if table not in module.constant_tables:
                keys = [key for key in state if key.rsplit(".", 1)[0] == table]
                of_table = {key.rsplit(".", 1)[1]: state[key] for key in keys}
                yield f"{tables}{_TABLE}{table}.weight", of_table


def _collections(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every compressed collection, with the path of its tables."""
    for path, module in model.named_modules():
        if is_collection(module):
            yield (f"{path}.tables" if path else "tables"), module


def _unlike(name: str, there: tuple[int, ...], here: tuple[int, ...]) -> str:
    if len(there) == len(here) == 1:
        return (
            f"{name} has {there[0]} entries there and {here[0]} here: a row-wise state is kept for "
            "every part that a table's columns are cut into, so cut them into as many"
        )
    return f"{name} is {there} there and {here} here"


def _is_json(value: object) -> bool:
    simple = (bool, int, float, str, type(None))
    if isinstance(value, (list, tuple)):
        return all(isinstance(v, simple) for v in value)
    return isinstance(value, simple)
