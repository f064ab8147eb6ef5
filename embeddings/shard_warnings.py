"""What torch says wherever a tensor of torchrec's shards is touched, left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["sharded_tensors_touched"]


@contextmanager
def sharded_tensors_touched() -> Iterator[None]:
    """torch 2.13 warns wherever a ShardedTensor is touched, here and in its own planners; torchrec
    1.8 has its shards in these, so that nobody can do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
        yield
