"""compactrec: recommender embedding tables that fit a memory budget, and what that costs.

Importing this package is light: torch, numpy and pydantic only. What needs torchrec, FBGEMM or the
data stack imports it when it is used and says in words what to install when it is missing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
