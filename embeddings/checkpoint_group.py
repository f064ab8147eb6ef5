"""The processes that write and read a checkpoint together: what each does and all then know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from compactrec.embeddings.checkpoint_io import CheckpointError

__all__ = ["CheckpointGroup"]


class CheckpointGroup:
    """Several processes, or one.

    Args:
        group: its processes, over it: a gloo group that nothing else goes over meanwhile. None: all
            processes, which then all make this object, over a group of its own; or this process
            alone where there are no others.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size = 0, 1
        self.group: dist.ProcessGroup | None = None
        self._own = False
        if not dist.is_available() or not dist.is_initialized():
            return
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.size > 1:
            # One of its own: a checkpoint may be written while training's messages go on.
            self._own = group is None
            self.group = dist.new_group(backend="gloo") if group is None else group

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
        """Give its own group back."""
        if self.group is not None and self._own:
            dist.destroy_process_group(self.group)
        self.group = None
