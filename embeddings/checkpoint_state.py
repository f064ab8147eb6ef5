"""What a checkpoint of a model holds: weights, buffers, optimizer state, random states; and back.

Names do not depend on how a model is run: ``model.<key of the state dict>``,
``optimizer.<parameter>.<state>``, ``random.<rank>.<generator>``. The accumulator of a table's
Adagrad is ``momentum1``, ``(rows, width)``, or ``(rows,)`` for the row-wise one, whoever keeps it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compactrec.embeddings.arguments import check_model
from compactrec.embeddings.checkpoint_index import first_few
from compactrec.embeddings.checkpoint_optimizer import OptimizerNames
from compactrec.embeddings.checkpoint_plan import check_plans, plans_of
from compactrec.embeddings.checkpoint_random import put_random, take_random
from compactrec.embeddings.checkpointing import Checkpoint, CheckpointError, CheckpointFolder
from compactrec.embeddings.parameters import check_optimizer_list

__all__ = [
    "check_same_optimizers",
    "load_checkpoint",
    "model_tensors",
    "prefixed",
    "put_all",
    "put_model",
    "save_checkpoint",
    "without",
]


def save_checkpoint(
    folder: CheckpointFolder,
    model: nn.Module,
    optimizers: Sequence[Any] = (),
    *,
    step: int,
    state: Mapping[str, Any] | None = None,
    asynchronous: bool = False,
) -> None:
    """Save model, its plans, optimizers and random states; all processes of the folder call it.

    Args:
        folder: where to.
        model: plain, with collections of any engine, or wrapped in DistributedModelParallel.
        optimizers: those that are stepped. What is updated inside backward is found in the model.
        step: of the training, 0 or more.
        state: what else it takes to go on, e.g. the position in the data; JSON values, the same in
            all processes.
        asynchronous: see :meth:`CheckpointFolder.save`.
    """
    _check_arguments(folder, model, optimizers, "save_checkpoint")
    names = OptimizerNames(model, optimizers)
    words, generators = take_random()
    tensors = {
        **prefixed("model.", model_tensors(model)),
        **prefixed("optimizer.", names.tensors()),
        **prefixed(f"random.{folder.processes.rank}.", words),
    }
    rank_state = {"random": generators, "optimizers": names.settings()}
    if folder.processes.rank == 0:
        rank_state["plans"] = plans_of(model)
    folder.save(
        step,
        tensors,
        {} if state is None else state,
        rank_state=rank_state,
        asynchronous=asynchronous,
    )


def load_checkpoint(
    folder: CheckpointFolder, model: nn.Module, optimizers: Sequence[Any] | None = None
) -> Checkpoint | None:
    """Put back what :func:`save_checkpoint` saved, in place; None when there is none.

    Args:
        folder: where from.
        model: built from the same plan, in any engine, over any number of processes.
        optimizers: None takes the weights alone. Otherwise as for saving, and the random states
            come back too: rank ``r`` gets those of rank ``r mod k`` of the ``k`` that saved.

    Raises:
        CheckpointError: it is damaged, of another plan, or does not fit.

    Warns:
        UserWarning: ``optimizers`` leave out state that is in it.
    """
    _check_arguments(folder, model, () if optimizers is None else optimizers, "load_checkpoint")
    checkpoint = folder.load()
    if checkpoint is None:
        return None
    folder.processes.together(lambda: _put(folder, checkpoint, model, optimizers))
    return checkpoint


def _put(
    folder: CheckpointFolder,
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: Sequence[Any] | None,
) -> None:
    # Checkpoints from before plans were saved have none.
    check_plans(model, checkpoint.ranks[0].get("plans", {}))
    _check_model(model, checkpoint)
    if optimizers is None:
        own = prefixed("model.", model_tensors(model))
        put_model(model, without("model.", folder.read(checkpoint.tensors, own)))
        return
    names = OptimizerNames(model, optimizers)
    check_same_optimizers(checkpoint, names)
    stored = without("optimizer.", checkpoint.tensors.tensors)
    alone = folder.processes.size == 1 and len(checkpoint.ranks) == 1
    if left := names.left_out(stored, with_tables=alone):
        warnings.warn(
            f"the checkpoint holds optimizer state of {', '.join(first_few(left))}, which no "
            f"optimizer given here updates, and it is left out; give the optimizers that were "
            f"saved, or none at all (None) for the weights alone",
            stacklevel=2,
        )
    put_all(folder, checkpoint, model, names)


def check_same_optimizers(checkpoint: Checkpoint, names: OptimizerNames) -> None:
    """Raise CheckpointError where ``checkpoint`` is of other optimizers than ``names``."""
    settings = [rank["optimizers"] for rank in checkpoint.ranks]
    names.check(without("optimizer.", checkpoint.tensors.tensors), settings)


def put_all(
    folder: CheckpointFolder,
    checkpoint: Checkpoint,
    model: nn.Module,
    names: OptimizerNames,
    also: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put weights, optimizer state and random states back: those of rank ``r mod k`` of the ``k``
    that saved.

    Args:
        folder: where from.
        checkpoint: of these optimizers: see :func:`check_same_optimizers`.
        model: gets its weights.
        names: get their state.
        also: beginnings of the names of tensors to read besides.

    Returns:
        The tensors that were read, by name, and the JSON of that rank.
    """
    rank = folder.processes.rank % len(checkpoint.ranks)
    saved, random = checkpoint.ranks[rank], f"random.{rank}."
    own = prefixed("model.", model_tensors(model)) | prefixed("optimizer.", names.inside)
    outside = [f"optimizer.{name}." for name in names.outside]
    found = folder.read(checkpoint.tensors, own, whole=[*outside, random, *also])
    put_model(model, without("model.", found))
    names.put(without("optimizer.", found), saved["optimizers"])
    put_random(without(random, found), saved["random"])
    return found, saved


def _check_arguments(folder: Any, model: Any, optimizers: Any, who: str) -> None:
    if not isinstance(folder, CheckpointFolder):
        raise TypeError(
            f"folder must be a CheckpointFolder, got {folder!r}; make one, CheckpointFolder(path, "
            f"identity), and close it at the end"
        )
    check_model(model, who)
    check_optimizer_list(optimizers)


def _check_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise where the checkpoint has more than the model; less is found in reading."""
    own = model.state_dict().keys()
    more = [name for name in without("model.", checkpoint.tensors.tensors) if name not in own]
    if more:
        raise CheckpointError(
            f"the checkpoint is of another model: it holds {', '.join(first_few(more))}, which "
            f"this model has not. Load it into a model that is built as the one that was saved"
        )


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names of one tensor (tied weights); nothing is copied."""
    found: dict[tuple[int, tuple[int, ...]], str] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not hasattr(tensor, "local_shards") and tensor.numel():
            place = (tensor.data_ptr(), tuple(tensor.shape))
            if found.setdefault(place, name) != name:
                continue
        state[name] = tensor
    return state


def put_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model what :func:`model_tensors` has named; raise CheckpointError on other names."""
    own = model_tensors(model)
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())
        raise CheckpointError(f"state of another model: {differing} differ")
    model.load_state_dict(dict(tensors), strict=False)


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, every name with ``prefix`` before it."""
    return {prefix + name: value for name, value in values.items()}


def without(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose name begins with ``prefix``, by the rest of it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
