"""Which parameters a dense optimizer must update, and the optimizers that a person gives."""

from typing import Any

from torch import nn

__all__ = ["check_optimizer_list", "dense_parameters"]


def dense_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter of ``model`` that the backward pass does not update by itself.

    With the fused engine that is all but the tables; with the eager engine it is everything. Of a
    sharded model (what ``shard`` returned) it is the dense weights and the tables that are
    replicated. Never choose by name: what a name suggests and what is updated differ there.
    """
    return [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and not hasattr(parameter, "_in_backward_optimizers")
    ]


def check_optimizer_list(optimizers: Any) -> None:
    """Raise ``TypeError`` unless ``optimizers`` is a list or a tuple of optimizers."""
    what = f"optimizers must be a list of optimizers, got {type(optimizers).__name__}"
    if hasattr(optimizers, "param_groups"):
        raise TypeError(f"{what}; write optimizers=[optimizer]")
    if not isinstance(optimizers, (list, tuple)):
        raise TypeError(
            f"{what}; write optimizers=[optimizer], or leave it out where there is none"
        )
    for i, optimizer in enumerate(optimizers):
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(
                f"optimizers[{i}] is of type {type(optimizer).__name__}, which has no "
                f"param_groups; give optimizers of torch or torchrec"
            )
