"""What a process of the sharding tests holds of the tables, and what was estimated for it."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from compactrec.embeddings import Plan
from compactrec.embeddings.sharding_bytes import Ranks
from compactrec.embeddings.sharding_config import Sharding
from compactrec.embeddings.sharding_estimate import estimate

__all__ = ["TABLE", "wrong_bytes"]

TABLE = ".embedding_bags."
"""In the name of every table's weight."""


def wrong_bytes(
    sharded: DistributedModelParallel,
    optimizers: Iterable[Any],
    plan: Plan,
    sharding: Sharding,
    optimizer: str,
    rank: int,
    world_size: int,
    *,
    is_weighted: bool,
) -> list[str]:
    """Where this process does not hold, after training, the bytes that were estimated for it."""
    ranks = Ranks(world_size)
    cost = estimate(plan, sharding, ranks, optimizer, batch_size=1, is_weighted=is_weighted)[rank]
    weights = [t for name, t in sharded.state_dict().items() if TABLE in name]
    replicated = [p for name, p in sharded.named_parameters() if TABLE in name and _is_plain(p)]
    inside = sharded.fused_optimizer.state_dict()["state"].values()
    state = [tensor for of_table in inside for tensor in of_table.values()]
    for stepped in optimizers:
        state += [stepped.state[p]["sum"] for p in replicated if "sum" in stepped.state.get(p, {})]
    gradients = [p.grad for p in replicated if p.grad is not None]
    held = {
        "weights": (_num_bytes(weights), cost.weight_bytes),
        "optimizer state": (_num_bytes(state), cost.optimizer_bytes),
        "gradients": (_num_bytes(gradients), cost.gradient_bytes),
    }
    return [
        f"process {rank} holds {found:,} bytes of {what} and the estimate is {expected:,}"
        for what, (found, expected) in held.items()
        if found != expected
    ]


def _is_plain(parameter: nn.Parameter) -> bool:
    return not hasattr(parameter, "_in_backward_optimizers")


def _num_bytes(tensors: Iterable[Tensor | ShardedTensor]) -> int:
    """Of all memory behind the tensors, each piece counted once, whoever else looks at it."""
    storages = {}
    for tensor in tensors:
        pieces = [tensor]
        if isinstance(tensor, ShardedTensor):
            pieces = [part.tensor for part in tensor.local_shards()]
        for piece in pieces:
            storage = piece.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
