"""Checkpoints: written by k processes, read by m, by one, or into plain tables.

A checkpoint is ``checkpoint.json`` and the safetensors files that it names with their sha256. All
files are written first, under names that were never used; replacing ``checkpoint.json`` is the
moment at which the new checkpoint takes over. So a kill at any instant, or a full disk, leaves the
last good one. Nothing in the files is pickled. See ``docs/checkpoints.md``.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from compactrec.embeddings.arguments import whole_number
from compactrec.embeddings.checkpoint_group import CheckpointGroup
from compactrec.embeddings.checkpoint_index import (
    INDEX_NAME,
    Index,
    StoredFile,
    TensorSet,
    check_file,
    read_index,
    warn_of_strays,
    write_index,
)
from compactrec.embeddings.checkpoint_io import PARTIAL, CheckpointError, write_tensors
from compactrec.embeddings.checkpoint_json import as_json
from compactrec.embeddings.checkpoint_storage import Staged, misfits, read_into, stage
from compactrec.locks import FolderInUse, locked

__all__ = ["Checkpoint", "CheckpointError", "CheckpointFolder"]


@dataclass(frozen=True)
class Checkpoint:
    """What :meth:`CheckpointFolder.load` gives back: verified, and not read yet."""

    step: int
    tensors: TensorSet
    """Read them with :meth:`CheckpointFolder.read`."""
    best: TensorSet | None
    """The selected weights so far."""
    state: dict[str, Any]
    ranks: tuple[dict[str, Any], ...]
    """JSON of every process that saved."""


class CheckpointFolder:
    """The checkpoint of one run. All processes of ``group`` make it and call every method.

    Args:
        path: made when the first file is written; the same folder for all processes.
        identity: what must be equal for a checkpoint to be usable: JSON values by name (plan,
            config, data, versions). A difference is refused by its name.
        group: a gloo group of the processes; None for all of them, over a group of its own, or for
            this one alone where there are no others. Asynchronous saves want None.

    Raises:
        CheckpointError: from every method, where something is damaged, of another run, written by
            another process just now, or cannot be written; the checkpoint before is whole then.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.path = Path(path)
        self.identity: dict[str, Any] = as_json(identity, "identity")
        self.last_step: int | None = None
        self.processes = CheckpointGroup(group)
        self._in_use: set[str] = set()
        """Names of the files that the checkpoint on disk needs."""
        self._names: set[str] = set()
        """Names of sets that were written or found, never to be given again."""
        self._lock: ExitStack | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> TensorSet:
        """Write tensors; a later :meth:`save` must name them, or they will be removed."""
        self._begin()
        return self._store(self._unused(name), stage(tensors, self.processes, copy=False))

    def discard(self, tensors: TensorSet) -> None:
        """Delete what :meth:`write` wrote, unless the checkpoint on disk names it."""
        self.wait()
        if self.processes.rank == 0:
            for file in tensors.files:
                if file.name not in self._in_use:
                    (self.path / file.name).unlink(missing_ok=True)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        best: TensorSet | None = None,
        *,
        rank_state: Mapping[str, Any] | None = None,
        asynchronous: bool = False,
    ) -> None:
        """Replace the checkpoint by one of ``step``.

        Args:
            step: 0 or more; names the files, shown in errors.
            tensors: by name; sharded ones lie where they lie, whole ones are written once.
            state: JSON values, the same in all processes.
            best: selected weights that :meth:`write` wrote.
            rank_state: JSON values of this process.
            asynchronous: copy the tensors to the CPU and write in a thread. The next call waits for
                it and raises what went wrong there.
        """
        step = whole_number(step, "step", "give the number of steps that were made")
        self._begin()
        ranks = self.processes.gather(as_json(rank_state or {}, "rank_state"))
        agreed: dict[str, Any] = as_json(state, "state")
        staged = stage(tensors, self.processes, copy=asynchronous)
        name = self._unused(f"step-{step:09d}")

        def work() -> None:
            index = Index(
                identity=self.identity, step=step, world_size=self.processes.size,
                tensors=self._store(name, staged), best=best, state=agreed, ranks=tuple(ranks),
            )  # fmt: skip
            self._replace(index)

        if not asynchronous:
            work()
            return
        self._thread = threading.Thread(target=self._in_thread, args=(work,), name="checkpoint")
        self._thread.start()

    def load(self) -> Checkpoint | None:
        """The checkpoint, every byte verified; None when there is none."""
        self.wait()
        index = self._look()
        if index is None:
            if self.processes.rank == 0:
                warn_of_strays(self.path)
            return None
        self.verify(*index.files)
        return Checkpoint(index.step, index.tensors, index.best, index.state, index.ranks)

    def verify(self, *files: StoredFile) -> None:
        """Raise unless every byte of ``files`` is the one that was written; processes share it."""
        processes = self.processes

        def check() -> None:
            for file in files[processes.rank :: processes.size]:
                check_file(self.path, file)

        processes.together(check)

    def read(
        self,
        tensors: TensorSet,
        into: Mapping[str, Any] | None = None,
        *,
        whole: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Read tensors of verified files. Processes may differ in what they ask for.

        Args:
            tensors: what to read from.
            into: filled in place: tensors, or this process's shards of sharded ones, in whatever
                cut. Shapes and types must be those that were saved.
            whole: beginnings of the names of tensors to read whole besides, into new memory; by
                default all where ``into`` is None.

        Returns:
            ``into`` and the whole ones, by name.
        """
        beginnings = ("",) if into is None and not whole else tuple(whole)
        targets: dict[str, Any] = {
            name: torch.empty(stored.shape, dtype=stored.torch_dtype)
            for name, stored in tensors.tensors.items()
            if name.startswith(beginnings)
        }
        targets |= into or {}
        if wrong := misfits(tensors, targets):
            raise CheckpointError(
                f"{self.path} does not fit: {'; '.join(wrong)}. Load it into the model, and with "
                "the optimizers, that it was saved from, or leave the optimizers out"
            )
        read_into(self.path, tensors, targets)
        return targets

    def wait(self) -> None:
        """Until an asynchronous save is on disk; raises what went wrong in it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Wait, and let others write here."""
        try:
            self.wait()
        finally:
            self._unlock()
            self.processes.close()

    def remove(self) -> None:
        """Delete the checkpoint (the run is finished), and close."""
        try:
            self.wait()
            self._take_lock()
            if self.processes.rank == 0:
                # The index first, so that no half one stays usable.
                (self.path / INDEX_NAME).unlink(missing_ok=True)
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            self.close()

    def _begin(self) -> None:
        """Before the first write: keep others away, and know what is on disk."""
        self.wait()
        if self._lock is None:
            self._take_lock()
            try:
                self._look()
            except CheckpointError:
                self._unlock()
                raise

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = ExitStack()

        def take() -> None:
            if self.processes.rank != 0:
                return
            try:
                lock.enter_context(locked(self.path))
            except FolderInUse as error:
                raise CheckpointError(str(error)) from error
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be written ({error}); give a folder that you may write, "
                    "on a disk that is there"
                ) from error

        self.processes.together(take)
        self._lock = lock

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _look(self) -> Index | None:
        """The index on disk, the same for all processes."""
        found: list[Index | None] = []

        def read() -> None:
            if self.path.is_file():
                raise CheckpointError(
                    f"{self.path} is a file; a checkpoint is a folder, so give the path of the "
                    f"folder that {INDEX_NAME} is in"
                )
            found.append(read_index(self.path, self.identity))

        self.processes.together(read)
        (index,) = found
        digest = index and hashlib.sha256(index.model_dump_json().encode()).hexdigest()
        if len(set(self.processes.gather(digest))) > 1:
            raise CheckpointError(
                f"the processes find different checkpoints in {self.path}; give a folder that all "
                "of them share"
            )
        if index is not None:
            self._take_over(index)
        return index

    def _take_over(self, index: Index) -> None:
        self.last_step = index.step
        self._in_use = {file.name for file in index.files}
        self._names |= {index.tensors.name} | ({index.best.name} if index.best else set())

    def _unused(self, name: str) -> str:
        names = (name if not i else f"{name}-{i}" for i in range(len(self._names) + 1))
        found = next(n for n in names if n not in self._names)
        self._names.add(found)
        return found

    def _store(self, name: str, staged: Staged) -> TensorSet:
        """Write this process's file; all processes know the whole set afterwards."""
        many = self.processes.size > 1
        path = self.path / f"{name}{f'-{self.processes.rank}' if many else ''}.safetensors"
        found: list[StoredFile] = []

        def write() -> None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                digest, num_bytes = write_tensors(path, staged.tensors)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(self._text(path, error)) from error
            found.append(StoredFile(name=path.name, sha256=digest, num_bytes=num_bytes))

        try:
            self.processes.together(write)
        except CheckpointError:
            path.unlink(missing_ok=True)
            raise
        files = tuple(self.processes.gather(found[0]))
        return TensorSet(name=name, files=files, tensors=staged.layout)

    def _replace(self, index: Index) -> None:
        def write() -> None:
            try:
                if self.processes.rank == 0:
                    write_index(self.path, index)
            except OSError as error:
                raise CheckpointError(self._text(self.path / INDEX_NAME, error)) from error

        self.processes.together(write)
        self._take_over(index)
        if self.processes.rank == 0:
            self._remove_unused()

    def _in_thread(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error

    def _text(self, path: Path, error: Exception) -> str:
        kept = "there is no earlier one"
        if self.last_step is not None:
            kept = f"the one of step {self.last_step} is whole"
        return f"{path} could not be written ({error}); {kept}. Free space and run again to go on"

    def _remove_unused(self) -> None:
        for path in self.path.iterdir():
            if path.name not in self._in_use and path.suffix in (".safetensors", PARTIAL):
                path.unlink(missing_ok=True)
