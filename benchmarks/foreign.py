"""Imports other projects' models without what they import but do not need here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any
from unittest.mock import MagicMock, patch

__all__ = ["foreign"]

_UNUSED = (
    "h5py",
    "polars",
    "ray",
    "ray.data",
    "ray.data.datasource",
    "ray.data.datasource.filename_provider",
    "requests",
    "sklearn",
    "sklearn.metrics",
    "tqdm",
    "yaml",
)
"""What others import for their data, their metrics and the news, and a model does not use."""


def foreign(name: str) -> Any:
    """A module of another project, which is not kept from importing by what is not installed.

    ``requests`` is always left out: with it, deepctr_torch asks the network for its newest version.
    """
    absent = [
        n for n in _UNUSED if n == "requests" or not importlib.util.find_spec(n.split(".")[0])
    ]
    with patch.dict(sys.modules):
        sys.modules.update({n: MagicMock(name=n) for n in absent})
        module = importlib.import_module(name)
        loaded = {n: m for n, m in sys.modules.items() if n not in absent}
    sys.modules.update(loaded)
    return module
