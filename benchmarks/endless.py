"""A loader for benchmarks: a few batches, again and again, or one process's part of them."""

from collections.abc import Iterator, Sequence

import torch

from compactrec.data.batch import Batch
from compactrec.data.loader import part_bounds

__all__ = ["Endless"]


class Endless:
    """What a loop asks of a loader: one process's part of the same few batches, again and again."""

    epoch = 0

    def __init__(self, batches: Sequence[Batch], part: tuple[int, int]) -> None:
        self.batch_size = batches[0].batch_size
        self.num_rows = self.batch_size * len(self)
        self._parts = [_part(batch, part) for batch in batches]

    def __len__(self) -> int:
        return 2**40

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self._parts

    def state_dict(self) -> dict[str, int]:
        """At the start."""
        return {"epoch": 0, "next_batch": 0}


def _part(batch: Batch, part: tuple[int, int]) -> Batch:
    """The examples of one process; one id per bag."""
    low, high = part_bounds(batch.batch_size, part)
    ids = batch.values.view(len(batch.keys), batch.batch_size)[:, low:high]
    num_bags = ids.numel()
    return Batch(
        dense=batch.dense[low:high],
        values=ids.reshape(-1),
        lengths=torch.ones(num_bags, dtype=torch.int32),
        labels=batch.labels[low:high],
        keys=batch.keys,
        length_per_key=(high - low,) * len(batch.keys),
        offsets=torch.arange(num_bags + 1, dtype=torch.int32),
    )
