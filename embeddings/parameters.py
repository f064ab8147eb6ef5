"""Which parameters a dense optimizer must update."""

from torch import nn

__all__ = ["dense_parameters"]


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
