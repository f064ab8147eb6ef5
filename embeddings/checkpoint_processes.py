"""The processes that write and read a checkpoint together: what each does and all then know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from compactrec.embeddings.checkpoint_io import CheckpointError

__all__ = ["Processes"]


class Processes:
    """Several processes, or one.

    Args:
        group: all of them call everything here; None: the default group, or this process alone
            where there is none.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size = 0, 1
        self.group: dist.ProcessGroup | None = None
        if not dist.is_available() or not dist.is_initialized():
            return
        ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
        if len(ranks) > 1:
            # One of its own: a checkpoint may be written while the others' messages go on.
            self.group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
            self.rank, self.size = ranks.index(dist.get_rank()), len(ranks)

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def together(self, work: Callable[[], None]) -> None:
        """Do one's own work; where one process fails, all raise, the others a CheckpointError."""
        own: Exception | None = None
        try:
            work()
        except Exception as error:
            own = error
        errors = self.gather(None if own is None else str(own))
        if own is not None:
            raise own
        for error_text in errors:
            if error_text is not None:
                raise CheckpointError(error_text)

    def close(self) -> None:
        """Give the group back."""
        if self.group is not None:
            dist.destroy_process_group(self.group)
            self.group = None
