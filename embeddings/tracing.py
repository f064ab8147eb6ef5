"""Modules that torch.fx's symbolic trace takes as they are, whatever leaves its caller names.

What reads lengths and keys in Python cannot be traced: a proxy has none.
"""

from typing import Any

from torch import fx, nn

__all__ = ["as_leaf"]


def as_leaf(module: nn.Module, *args: Any) -> fx.Proxy | None:
    """A call of ``module`` in the graph that is being traced; None where nothing is."""
    for arg in args:
        if isinstance(arg, fx.Proxy):
            tracer = arg.tracer
            assert isinstance(tracer, fx.Tracer)
            path = tracer.path_of_module(module)
            return tracer.create_proxy("call_module", path, args, {})
    return None
