"""Searches for sizes: a supernet is trained, a plan derived, the plan trained like any other.

Read ``base.py``, then ``supernet.py``, then one search. Needs torchrec.
"""

from compactrec.embeddings.search.autodim import AutoDimOptions
from compactrec.embeddings.search.base import (
    Derived,
    Phase,
    Search,
    SearchTask,
    Trained,
    get_search,
    register_search,
    search_names,
)
from compactrec.embeddings.search.dnis import DnisSupernet
from compactrec.embeddings.search.dnis_options import DnisOptions
from compactrec.embeddings.search.ihas import IhasOptions
from compactrec.embeddings.search.magnitude import MagnitudeOptions
from compactrec.embeddings.search.optembed import OptEmbedOptions
from compactrec.embeddings.search.pep import PepOptions
from compactrec.embeddings.search.supernet import Losses, Supernet

__all__ = [
    "AutoDimOptions",
    "Derived",
    "DnisOptions",
    "DnisSupernet",
    "IhasOptions",
    "Losses",
    "MagnitudeOptions",
    "OptEmbedOptions",
    "PepOptions",
    "Phase",
    "Search",
    "SearchTask",
    "Supernet",
    "Trained",
    "get_search",
    "register_search",
    "search_names",
]
