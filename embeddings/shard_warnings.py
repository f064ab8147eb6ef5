"""What torch says of torchrec and FBGEMM, left out where nobody can do anything about it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_torch", "sharded_tensors_touched"]


@contextmanager
def sharded_tensors_touched() -> Iterator[None]:
    """torch 2.13 warns wherever a ShardedTensor is touched, here and in its own planners; torchrec
    1.8 has its shards in these, so that nobody can do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
        yield


def quiet_torch() -> None:
    """Drop what torch says of torchrec and FBGEMM, since nobody who trains can change either."""
    # Once per process: torchrec uses a function of a former name.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # torchrec 1.8 exchanges tables by functions that torch 2.13 renamed.
    renamed = r"`torch\.distributed\.(reduce_scatter_tensor|all_gather_into_tensor)` is deprecated"
    warnings.filterwarnings("ignore", renamed, FutureWarning)
    # FBGEMM 1.8 on a CPU, replicated tables: the gradient equals the unsharded module's.
    unknown = "fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel was not register"
    warnings.filterwarnings("ignore", unknown, UserWarning)
