"""The processes of a run: one, or those that torchrun started, possibly on several machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from compactrec.data.loader import part_bounds

__all__ = ["AnotherFailed", "EndedTogether", "ProcessLost", "Processes", "joined", "process_name"]

_FAILED = "compactrec/failed"


class AnotherFailed(RuntimeError):
    """Another process failed first and says why; this one ends without a word."""


class EndedTogether(RuntimeError):
    """What every process raises at the same place: no failure, and none to tell the others of."""


class ProcessLost(RuntimeError):
    """Another process ended without a word."""


class Processes:
    """This process among those of a run. Alone, every method is what it is for one.

    Args:
        rank: 0 .. size - 1; rank 0 writes and shows.
        size: number of processes.
        device: where tensors of collectives must be.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def is_first(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """The part of every batch that is this process's, as a loader takes it."""
        return self.rank, self.size

    def sum(self, values: Sequence[float]) -> list[float]:
        """Every number summed over the processes; the same result on all."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def text_of_first(self, text: str | None) -> str | None:
        """What rank 0 gave, on every process; others may give anything."""
        if self.size == 1:
            return text
        data = b"" if text is None or not self.is_first else text.encode()
        known = float(text is not None and self.is_first)
        length, known = self.sum([float(len(data)), known])
        if not known:
            return None
        sent = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.is_first:
            sent.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(sent, 0)
        return bytes(sent.tolist()).decode()

    def gather_rows(self, pieces: Sequence[Tensor], batch_sizes: Sequence[int]) -> Tensor:
        """Values of all rows in order, on every process.

        Args:
            pieces: this process's part of every batch, ``(b,)`` each.
            batch_sizes: rows of the whole batches.
        """
        mine = torch.cat(list(pieces)) if pieces else torch.zeros(0)
        if self.size == 1:
            return mine
        sizes = [
            [high - low for low, high in (part_bounds(n, (rank, self.size)) for n in batch_sizes)]
            for rank in range(self.size)
        ]
        longest = max(sum(of_rank) for of_rank in sizes)
        padded = mine.new_zeros(longest, device=self.device)
        padded[: mine.numel()] = mine
        every = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(every, padded)
        cut = [
            whole[: sum(of_rank)].split(of_rank)
            for whole, of_rank in zip(every, sizes, strict=True)
        ]
        return torch.cat([piece for batch in zip(*cut, strict=True) for piece in batch]).cpu()


def process_name() -> str:
    """``process 1 of 4`` where torchrun started several; empty otherwise."""
    rank, size = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
    return f"process {rank} of {size}" if rank is not None and size > 1 else ""


@contextmanager
def joined(engine: str, device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone, for as long as a run lasts.

    A group that is there already is used and left as it is. When one process fails, the others end
    too: the first one raises its error, all others :class:`AnotherFailed`.

    Raises:
        ValueError: there are several processes, and ``engine`` is for one.
        ProcessLost: another process was killed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if engine != "sharded":
        if size > 1:
            raise ValueError(
                f"torchrun started {size} processes, but engine {engine!r} is for one; set "
                f"--engine sharded, or start without torchrun"
            )
        yield Processes()
        return
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
        return
    store, rank, size = _meet()
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore("compactrec", store), rank=rank, world_size=size
    )
    try:
        yield Processes(rank, size, device)
        dist.barrier()  # nobody leaves while another one still has something to exchange
    except EndedTogether:
        dist.barrier()
        raise
    except BaseException as error:
        if size > 1 and store.compare_set(_FAILED, "", str(rank)).decode() != str(rank):
            raise AnotherFailed("another process failed and says why") from error
        if size > 1 and isinstance(error, RuntimeError) and _is_lost(error):
            raise ProcessLost(
                "the connection to another process is closed: it ended without a word, most likely "
                "for want of memory; see what its machine says, and use more processes or a "
                "smaller plan"
            ) from error
        if size > 1:
            error.add_note(process_name())  # the one that speaks for all
        raise
    finally:
        dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Whether gloo or nccl says that the other end of a connection is gone."""
    words = ("connection closed", "connection reset", "broken pipe", "connection refused")
    return any(word in str(error).lower() for word in words)


def _meet() -> tuple[Store, int, int]:
    if "RANK" not in os.environ:
        return HashStore(), 0, 1
    store, rank, size = next(rendezvous("env://"))
    return store, rank, size
